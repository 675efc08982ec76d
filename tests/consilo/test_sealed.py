"""The relay's envelopes: who opens which, once; what the coordinator can tell; what is erased."""

import json

import clinic
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import Refused
from consilo.headers import Header, Manifest
from consilo.sealed import Mailbox, padded_size
from consilo.silo import SiloView
from silos.in_memory import InMemorySilo

SILOS = ("east", "north", "south")


def view(host, *, index=0, run_id="run", round=0, verb="talk", protocol="psi"):
    manifest = Manifest.of(run_id, clinic.job(), clinic.contract(), "")
    header = Header(
        run_id, f"{round}/{index}/{verb}", "", round, host.name, protocol, verb, SILOS, manifest
    )
    return SiloView(host, clinic.job(), clinic.contract(), header)


def box(host, **where):
    return Mailbox(view(host, **where))


def relay_of(host):
    (kept,) = [value for (_, name), value in host.state.items() if name.startswith("relay")]
    return kept


@pytest.fixture
def hosts():
    made = clinic.hosts(dict.fromkeys(SILOS, clinic.frame(1)))
    sent = {name: box(host).introduce(SILOS) for name, host in made.items()}
    for name, host in made.items():
        inbox = {other: letters[name] for other, letters in sent.items() if name in letters}
        box(host, index=1).meet(inbox, SILOS)
    return made


def sealed(hosts, content=b"SENTINEL", *, topic="t", index=2, **where):
    return box(hosts["east"], index=index, **where).seal("north", topic, content)


@settings(max_examples=20, deadline=None)
@given(content=st.binary(max_size=5000))
def test_what_is_sealed_is_opened_by_its_receiver(content):
    hosts = clinic.hosts(dict.fromkeys(SILOS[:2], clinic.frame(1)))
    sent = {name: box(host).introduce(SILOS[:2]) for name, host in hosts.items()}
    for name, other in (SILOS[:2], SILOS[1::-1]):
        box(hosts[name], index=1).meet({other: sent[other][name]}, SILOS[:2])
    letter = sealed(hosts, content)
    assert box(hosts["north"], index=3).unseal("east", "t", letter) == content
    assert len(content) < 8 or content not in letter.tobytes()


def opened(hosts, letter, *, by="north", sender="east", topic="t", **where):
    return box(hosts[by], **{"index": 3, **where}).unseal(sender, topic, letter)


@pytest.mark.parametrize(
    "wrong",
    [{"by": "south"}, {"sender": "south"}, {"topic": "other"}, {"run_id": "r2"}, {"protocol": "x"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_envelope_opens_nowhere_else(hosts, wrong):
    letter = sealed(hosts)
    if {"run_id", "protocol"} & set(wrong):  # even where the very same keys are in use
        state = hosts["north"].state
        kept = relay_of(hosts["north"])
        other = box(hosts["north"], **wrong)
        state[wrong.get("run_id", "run"), other._name] = kept
    with pytest.raises(Refused) as refused:
        opened(hosts, letter, **wrong)
    assert refused.value.code in ("envelope", "relay")
    assert opened(hosts, letter) == b"SENTINEL"


def test_a_sequence_that_was_changed_does_not_open(hosts):
    letter = sealed(hosts).copy()
    letter[11] += 1
    with pytest.raises(Refused, match="was changed"):
        opened(hosts, letter)


@pytest.mark.parametrize("place", [0, 8, 20, 60, -1])
def test_a_changed_byte_is_noticed(hosts, place):
    letter = sealed(hosts).copy()
    letter[place] ^= 1
    with pytest.raises(Refused):
        opened(hosts, letter)


@pytest.mark.parametrize("size", [0, 10, 60])
def test_a_cut_envelope_is_refused(hosts, size):
    with pytest.raises(Refused, match=r"no sealed envelope|was changed"):
        opened(hosts, sealed(hosts)[:size])


def test_an_envelope_is_taken_once_but_again_by_the_very_same_step(hosts):
    letter = sealed(hosts)
    for _ in range(2):
        assert opened(hosts, letter) == b"SENTINEL"
    with pytest.raises(Refused, match="replayed"):
        opened(hosts, letter, index=4)
    with pytest.raises(Refused, match="replayed"):
        opened(hosts, letter, verb="other")


def test_an_old_envelope_does_not_follow_a_newer_one(hosts):
    old, new = sealed(hosts, b"old", index=2), sealed(hosts, b"new", index=3)
    assert opened(hosts, new, index=4) == b"new"
    with pytest.raises(Refused, match="replayed"):
        opened(hosts, old, index=5)


def test_sequences_go_on_over_rounds(hosts):
    first, second = sealed(hosts, b"1", index=9), sealed(hosts, b"2", round=1, index=0)
    assert opened(hosts, first, index=10) == b"1"
    assert opened(hosts, second, round=1) == b"2"


def test_a_step_that_is_asked_again_gives_the_same_bytes_and_other_contents_other_keys(hosts):
    np.testing.assert_array_equal(sealed(hosts), sealed(hosts))
    one, other = sealed(hosts, b"a" * 40), sealed(hosts, b"b" * 40)
    xor = one[44:] ^ other[44:]
    assert len(set(xor[8:48].tolist())) > 20  # one keystream for both would leave a ^ b


def test_sizes_fall_into_few_buckets(hosts):
    assert len({sealed(hosts, bytes(n)).size for n in range(240)}) == 1
    sizes = {sealed(hosts, bytes(n)).size for n in range(3000, 4000)}
    assert len(sizes) <= 9
    for n in (1, 255, 1000, 10**6, 32_000_000):
        assert n <= padded_size(n) <= max(256, 1.12 * n)


def test_erased_keys_open_nothing_and_nothing_is_left_of_them(hosts):
    letter = sealed(hosts)
    private = json.loads(relay_of(hosts["north"]))["private"]
    box(hosts["north"], index=3).close()
    with pytest.raises(Refused, match="erased"):
        opened(hosts, letter, index=4)
    assert not any(private.encode() in kept for kept in hosts["north"].state.values())
    # Not even who keeps the long-lived signing keys: a new key opens nothing old.
    fresh = box(hosts["north"], index=5)
    fresh.introduce(SILOS)
    fresh.meet({each: box(hosts[each]).introduce(SILOS)["north"] for each in ("east", "south")}, [])
    with pytest.raises(Refused):
        opened(hosts, letter, index=6)


def test_whoever_is_not_pinned_or_lies_about_its_key_is_not_met(hosts):
    fresh = InMemorySilo("north", clinic.frame(1))
    mailbox = box(fresh)
    mailbox.introduce(SILOS)
    real = box(hosts["east"]).introduce(SILOS)["north"]
    said = json.loads(real.tobytes())

    def letter(**changes):
        return np.frombuffer(json.dumps({**said, **changes}).encode(), np.uint8)

    for forged in (
        letter(key="11" * 32),  # the coordinator in the middle
        letter(signature="00" * 64),
        letter(silo="south"),
        letter(run="other"),
        letter(manifest="other"),
        letter(key="zz"),
        np.frombuffer(b"[]", np.uint8),
        np.zeros(5000, np.uint8),
    ):
        with pytest.raises(Refused):
            mailbox.meet({"east": forged}, ("east", "north"))
    with pytest.raises(Refused, match="did not introduce itself"):
        mailbox.meet({}, ("east", "north"))
    mailbox.meet({"east": real}, ("east", "north"))
    assert mailbox.partners == ("east",)


def test_a_relay_key_cannot_be_exchanged_during_a_run(hosts):
    other = InMemorySilo("east", clinic.frame(1))  # signs with the same key
    again = box(other).introduce(SILOS)["north"]
    with pytest.raises(Refused, match="another relay key"):
        box(hosts["north"], index=2).meet({"east": again}, ("east",))


def test_a_point_of_small_order_is_no_key(hosts):
    east = view(hosts["east"])
    zero = "00" * 32
    lie = Mailbox(east)._statement("east", zero)
    signed = {**lie, "signature": hosts["east"].sign_relay(lie)}
    fresh = InMemorySilo("north", clinic.frame(1))
    mailbox = box(fresh)
    mailbox.introduce(SILOS)
    mailbox.meet({"east": np.frombuffer(json.dumps(signed).encode(), np.uint8)}, ("east",))
    with pytest.raises(Refused, match="no valid point"):
        mailbox.seal("east", "t", b"x")
