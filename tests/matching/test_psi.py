"""Entity matching over the local transport: who matches whom, against the same in the clear."""

import hashlib
import itertools
import json

import clinic
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import Refused, TooFewRows
from consilo.kernel.federation import Federation
from consilo.kernel.letters import Mailbox
from consilo.kernel.loop import Kernel
from consilo.kernel.verbs import verb
from consilo.matching import group
from consilo.matching.entities import Values
from consilo.matching.protocol import Psi
from consilo.matching.side import MAX_VALUES
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Parcel
from consilo.wire.payload import canonical_json, digest, pack, unpack
from silos.simulation.in_memory import InMemorySilo

CONTRACT = """
name: people
version: 1
columns:
  number: {type: string, role: id, nullable_share: 1.0}
  name: {type: string, role: id, nullable_share: 1.0}
  born: {type: date, role: id, nullable_share: 1.0}
  rows: {type: integer}
"""
KEYS = [
    {"parts": [{"column": "number", "steps": ["trim"]}], "duplicates": "same"},
    {"parts": [{"column": "name"}, {"column": "born", "steps": ["date"]}]},
]
SILOS = ("bank", "clinic", "shop")


class Recording(LocalTransport):
    """Keeps everything that the coordinator ever held, and may change what passes it."""

    def __init__(self, answers, change=None):
        super().__init__(answers)
        self.held, self.answered, self.change = [], [], change

    def exchange(self, parcels, *, deadline_s):
        if self.change is not None:
            parcels = {name: self.change(name, parcel) for name, parcel in parcels.items()}
        self.held += [bytes(p) for each in parcels.values() for p in (each.header, each.body)]
        for arrival in super().exchange(parcels, deadline_s=deadline_s):
            if arrival.parcel is not None:
                self.held += [arrival.parcel.header, arrival.parcel.body]
                self.answered.append(arrival.parcel.body)
            yield arrival


def table(numbers, **columns):
    numbers = list(numbers)
    made = {
        "number": pd.Series([None if n is None else f"id-{n}" for n in numbers], dtype="string"),
        "name": pd.Series([None if n is None else f"Person {n}" for n in numbers], dtype="string"),
        "born": pd.to_datetime(pd.Series(["1990-01-01"] * len(numbers))),
        "rows": np.arange(len(numbers)),
    }
    return pd.DataFrame({**made, **columns})


def job(keys=KEYS, **match):
    return clinic.job(contract="people@1", match={"recipe": {"keys": keys}, **match})


def setting(tables, *, job_=None, change=None, hosts=None, run_id="run", transport=None):
    hosts = hosts or clinic.hosts(tables)
    job_ = job_ or job()
    answers = {name: answerer(each) for name, each in hosts.items()}
    transport = transport or Recording(answers, change)
    contract = clinic.contract(CONTRACT)
    seen = []
    kernel = Kernel(transport, run_id=run_id, job=job_, contract=contract, observe=seen.append)
    fed = Federation(tuple(hosts), job_, contract, transport.online)
    protocol = Psi.from_job(job_)
    return hosts, kernel, fed, protocol, transport, seen


def matched(tables, **more):
    hosts, kernel, fed, protocol, transport, _ = setting(tables, **more)
    result = kernel.run("psi", protocol, fed)
    return {name: each.kept_matches["clinic"] for name, each in hosts.items()}, result, transport


def numbers(tables, matches):
    """Return the ids that each side has in the joint order."""
    return {n: tables[n]["number"].iloc[m.rows].tolist() for n, m in matches.items()}


@pytest.mark.parametrize("hub", ["bank", "clinic"])
def test_two_silos_find_whom_they_share_in_one_order(hub):
    tables = {"bank": table(range(40)), "clinic": table(range(60, 20, -1))}
    matches, result, _ = matched(tables, job_=job(hub=hub))
    found = numbers(tables, matches)
    assert found["bank"] == found["clinic"]
    assert set(found["bank"]) == {f"id-{n}" for n in range(21, 40)}
    assert matches["bank"].rows.tolist() != sorted(matches["bank"].rows)
    assert result["silos"]["bank"] == {
        "matched": 19,
        "match_rate": 19 / 40,
        "rows": 40,
        "entities": 40,
        "ambiguous": 0,
        "without_key": 0,
    }


def test_three_silos_share_who_is_in_all_of_them():
    tables = {
        "bank": table(range(30)),
        "clinic": table(range(10, 50)),
        "shop": table(range(0, 60, 2)),
    }
    matches, *_ = matched(tables)
    found = numbers(tables, matches)
    assert found["bank"] == found["clinic"] == found["shop"]
    assert set(found["bank"]) == {f"id-{n}" for n in range(10, 30, 2)}


def test_shards_change_nothing():
    tables = {"bank": table(range(300)), "clinic": table(range(150, 400))}
    job_ = job().changed(protocol={"name": "test_psi:Small"})
    hosts, kernel, fed, _, _, seen = setting(tables, job_=job_)
    small = Psi(fed.job.match, "clinic", shard=64)
    result = kernel.run("test_psi:Small", small, fed)
    found = numbers(tables, {name: each.kept_matches["clinic"] for name, each in hosts.items()})
    assert found["bank"] == found["clinic"]
    assert set(found["bank"]) == {f"id-{n}" for n in range(150, 300)}
    assert result["silos"]["bank"]["matched"] == 150
    assert sum(each.verb == "exchange" for each in seen) == 2 * (2 * 5 + 3)


class Small(Psi):
    """As `Psi`, in shards of 64."""

    def __init__(self, spec, handle, **_):
        super().__init__(spec, handle, shard=64)

    exchange, join, reveal = Psi.exchange, Psi.join, Psi.reveal


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sets(st.integers(0, 25), min_size=1), min_size=2, max_size=3))
def test_the_match_is_the_intersection(sets):
    tables = {name: table(each) for name, each in zip(SILOS, sets, strict=False)}
    matches, *_ = matched(tables)
    found = numbers(tables, matches)
    both = set.intersection(*sets)
    assert all(each == found["bank"] for each in found.values())
    assert sorted(found["bank"]) == sorted(f"id-{n}" for n in both)


def test_a_weaker_key_finds_whom_a_stronger_one_missed_and_nobody_is_matched_twice():
    tables = {
        "bank": table([1, 2, 3, 4]).assign(number=["a", "b", None, "x"]),
        "clinic": table([3, 2, 1, 5]).assign(number=["c", "b", "A ", "x"]),
    }
    tables = {n: each.astype({"number": "string"}) for n, each in tables.items()}
    matches, *_ = matched(tables)
    pairs = zip(*(matches[name].rows.tolist() for name in tables), strict=True)
    # b and x by number; 1 and 3 by name and birth date, since 'A ' is no 'a' and one has none.
    assert sorted(pairs) == [(0, 2), (1, 1), (2, 0), (3, 3)]
    assert matches["bank"].report["matched_by_key"] == {"clinic": [2, 2]}


def test_rows_that_share_a_strong_key_are_one_person_and_a_shared_weak_key_matches_nobody():
    bank = table([1, 1, 2, 3]).assign(name=["Ann", "Anne", "Bo", "Bo"])
    clinic_ = table([1, 7, 8, 8]).assign(name=["Eve", "Bo", "Cy", "Cy"])
    tables = {
        name: each.astype({"name": "string"})
        for name, each in (("bank", bank), ("clinic", clinic_))
    }
    matches, *_ = matched(tables)
    assert matches["bank"].rows.tolist() == [0]
    report = matches["bank"].report
    assert (report["own"]["entities"], report["duplicates"]) == (3, 1)
    assert report["own"]["ambiguous"] == [0, 1]
    assert report["partners"]["clinic"]["entities"] == 3


def test_the_quality_report_tells_the_drift_since_the_last_match():
    tables = {"bank": table(range(20)), "clinic": table(range(10, 40))}
    hosts, kernel, fed, protocol, *_ = setting(tables)
    kernel.run("psi", protocol, fed)
    hosts["bank"].table = table(range(16))
    _, kernel, fed, protocol, *_ = setting(tables, hosts=hosts, run_id="later")
    kernel.run("psi", protocol, fed)
    report = hosts["bank"].kept_matches["clinic"].report
    assert report["matched"] == 6
    assert report["drift"]["matched"] == -4
    assert report["drift"]["own_entities"] == -4
    assert report["recipe_hash"] == fed.job.match.recipe.hash


class Twice(LocalTransport):
    """Asks everything twice, as after an answer that was lost; both must be the same bytes."""

    def exchange(self, parcels, *, deadline_s):
        before = [each.parcel.body for each in super().exchange(parcels, deadline_s=9)]
        for arrival, body in zip(super().exchange(parcels, deadline_s=9), before, strict=True):
            assert arrival.parcel.body == body
            yield arrival


def test_a_step_that_is_asked_again_after_its_answer_was_lost_gives_the_same_bytes():
    tables = {"bank": table(range(100)), "clinic": table(range(50, 150))}
    hosts = clinic.hosts(tables, keep_replies=False)
    transport = Twice({name: answerer(each) for name, each in hosts.items()})
    matches, *_ = matched(tables, hosts=hosts, transport=transport)
    found = numbers(tables, matches)
    assert found["bank"] == found["clinic"]
    assert len(found["bank"]) == 50


class Watched(InMemorySilo):
    """A host that never forgets what a silo kept for itself."""

    def keep(self, run_id, name, content):
        self.__dict__.setdefault("ever", []).append((name, bytes(content)))
        super().keep(run_id, name, content)

    def newest(self, start):
        return {name: content for name, content in self.ever if name.startswith(start)}


def forms_of(frame, recipe):
    """Return every form of a silo's ids before they are blinded."""
    found = {str(each).encode() for c in ("number", "name") for each in frame[c].dropna()}
    for number in range(len(recipe.keys)):
        values = [each for each in recipe.values(frame, number) if each is not None]
        found |= {*values, *(hashlib.blake2b(each, digest_size=32).digest() for each in values)}
    return found


def test_in_all_that_the_coordinator_ever_held_there_is_no_id_and_no_blinded_one():
    tables = {"bank": table(range(60)), "clinic": table(range(30, 90)), "shop": table(range(80))}
    hosts = {name: Watched(name, frame) for name, frame in tables.items()}
    _, kernel, fed, protocol, transport, _ = setting(tables, hosts=hosts)
    kernel.run("psi", protocol, fed)
    assert sorted(hosts["shop"].kept_matches["clinic"].rows) == list(range(30, 60))
    recipe = fed.job.match.recipe
    wanted = set().union(*(forms_of(frame, recipe) for frame in tables.values()))
    states = {name: json.loads(host.newest("psi")["psi"]) for name, host in hosts.items()}
    again = set()
    for one, other in itertools.permutations(tables, 2):
        if other not in states[one]["scalars"]:
            continue
        ways = ((one, other), (other, one))
        scalars = [bytes.fromhex(states[a]["scalars"][b]) for a, b in ways]
        for number in range(len(recipe.keys)):
            values = Values.from_bytes(hosts[one].newest("psi-key-")[f"psi-key-{number}"])
            run = ["run", kernel.manifest.digest, "psi"]
            pair = sorted((one, other))
            domain = canonical_json(["psi", 1, *run, *pair, number, recipe.hash])
            points = group.hash_to_group([each.tobytes() for each in values.digests], domain)
            once = group.blind(points, scalars[0])
            again |= {each.tobytes()[:16] for each in group.blind(once, scalars[1])}
            wanted |= {each.tobytes()[:16] for each in (*points, *once)}
    # These are what the silos worked with: the tags that they kept for themselves are among them.
    kept = [unpack(each)["pending"] for each in hosts["bank"].newest("psi-turns").values()]
    tags = {row.tobytes() for pending in kept for turn in pending.values() for row in turn}
    assert tags
    assert tags <= again
    held = b"".join(transport.held)
    assert len(held) > 50_000
    assert not [each for each in wanted | again if each in held]
    shares = {dict(host.ever)["psi-share"] for host in hosts.values()}
    assert not [each for each in shares if each in held or each.hex().encode() in held]


def test_the_relay_learns_padded_sizes_only():
    def sizes(tables):
        *_, transport = matched(tables)
        letters = [unpack(body).get("envelopes", {}) for body in transport.answered]
        return [{name: each.size for name, each in sent.items()} for sent in letters]

    # Whom they share, and how many, leaves no trace in what passes the relay.
    few = sizes({"bank": table(range(600)), "clinic": table(range(599, 1199))})
    many = sizes({"bank": table(range(600)), "clinic": table(range(1, 601))})
    assert few == many
    assert sum(map(len, few)) > 10


def test_who_reads_and_changes_the_relay_cannot_pass_one_silo_off_as_another():
    def swap(name, parcel):
        content = unpack(bytes(parcel.body))
        letters = content["payload"].get("envelopes", {})
        if {"bank", "shop"} <= set(letters):
            content["payload"]["envelopes"] = {"bank": letters["shop"], "shop": letters["bank"]}
        header = json.loads(parcel.header)
        body = pack(content)
        return Parcel(json.dumps({**header, "content": digest(body)}).encode(), body)

    tables = {name: table(range(20)) for name in SILOS}
    hosts, kernel, fed, protocol, *_ = setting(tables, change=swap)
    with pytest.raises(Refused, match="did not introduce itself for this run"):
        kernel.run("psi", protocol, fed)
    assert not any(each.kept_matches for each in hosts.values())


def test_two_recipes_do_not_match():
    tables = {name: table(range(20)) for name in SILOS[:2]}
    job_ = job().changed(protocol={"name": "test_psi:Stubborn"})
    hosts, kernel, fed, _, *_ = setting(tables, job_=job_)
    with pytest.raises(Refused, match="uses another key recipe"):
        kernel.run("test_psi:Stubborn", Stubborn.from_job(fed.job), fed)
    assert not any(each.kept_matches for each in hosts.values())


class Liar(Psi):
    """As `Psi`, but the silo called clinic does not keep to it."""

    def tamper(self, silo, reply, topic, content):
        box, letters = Mailbox(silo), {}
        for name in reply["envelopes"]:
            letters[name] = box.seal(name, topic, pack(content))
        return {**reply, "envelopes": letters}


class Stubborn(Liar):
    """The clinic uses another recipe, or another version of a library."""

    @verb("agree", replies=Psi.verbs()["agree"].replies)
    def agree(self, silo, message):
        reply = Psi.agree(self, silo, message)
        if silo.name != "clinic":
            return reply
        mine = json.loads(silo.kept("psi"))["mine"]
        return self.tamper(silo, reply, "agree", {**mine, "recipe": "00" * 32})


class Boaster(Liar):
    """The clinic announces another number of values than it sends."""

    @verb("agree", replies=Psi.verbs()["agree"].replies)
    def agree(self, silo, message):
        reply = Psi.agree(self, silo, message)
        if silo.name != "clinic":
            return reply
        state = json.loads(silo.kept("psi"))
        lie = {**state["mine"], "values": LIES[silo.job.description]}
        silo.keep("psi", canonical_json({**state, "mine": lie}))
        return self.tamper(silo, reply, "agree", lie)


LIES = {"more": [25, 20], "fewer": [15, 20], "all": [MAX_VALUES + 1, 20], "none": [-1, 20]}


@pytest.mark.parametrize("lie", LIES)
def test_a_partner_that_lies_about_its_set_size_is_found_out(lie):
    tables = {name: table(range(20)) for name in SILOS[:2]}
    job_ = job().changed(description=lie, protocol={"name": "test_psi:Boaster"})
    hosts, kernel, fed, *_ = setting(tables, job_=job_)
    said = "has not the form" if lie in ("all", "none") else "announced|another number"
    with pytest.raises(Refused, match=said):
        kernel.run("test_psi:Boaster", Boaster.from_job(job_), fed)
    assert not any(each.kept_matches for each in hosts.values())


class Older(Liar):
    """The clinic matches as the first release did, which sent tags that nobody had committed to."""

    @verb("agree", replies=Psi.verbs()["agree"].replies)
    def agree(self, silo, message):
        reply = Psi.agree(self, silo, message)
        if silo.name != "clinic":
            return reply
        said = {k: v for k, v in json.loads(silo.kept("psi"))["mine"].items() if k != "turns"}
        return self.tamper(silo, reply, "agree", said)


def test_a_partner_that_commits_to_nothing_is_refused_in_clear_words():
    tables = {name: table(range(20)) for name in SILOS[:2]}
    job_ = job().changed(protocol={"name": "test_psi:Older"})
    hosts, kernel, fed, *_ = setting(tables, job_=job_)
    with pytest.raises(Refused, match="use one version of Consilo on both sides"):
        kernel.run("test_psi:Older", Older.from_job(job_), fed)
    assert not any(each.kept_matches for each in hosts.values())


class Forger(Liar):
    """The clinic sends points that nobody may send."""

    @verb("exchange", replies=Psi.verbs()["exchange"].replies)
    def exchange(self, silo, message):
        reply = Psi.exchange(self, silo, message)
        if silo.name != "clinic" or reply["more"] != 3:
            return reply
        honest = group.hash_to_group([bytes([n]) for n in range(20)], b"")
        forged = POINTS[silo.job.description](honest)
        return self.tamper(silo, reply, "exchange 0", {"blinded": forged})


def _with(row):
    return lambda honest: np.vstack([honest[1:], np.frombuffer(row, np.uint8)[None]])


_P = 2**255 - 19
POINTS = {
    "identity": _with(bytes(32)),
    "order 2": _with((1).to_bytes(32, "little")),
    "order 8": _with(
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    ),
    "order 4": _with((_P - 1).to_bytes(32, "little")),
    "above p": _with((_P + 2).to_bytes(32, "little")),
    "top bit": _with(bytes(31) + b"\xff"),
    "twice": lambda honest: np.vstack([honest[1:], honest[1:2]]),
    "one more": lambda honest: np.vstack([honest, honest[:1]]),
    "one less": lambda honest: honest[1:],
    "none": lambda honest: honest[:0],
    "halves": lambda honest: honest.reshape(40, 16),
    "flat": lambda honest: honest.reshape(-1),
    "numbers": lambda honest: honest.astype(np.float32),
}


@pytest.mark.parametrize("kind", POINTS)
def test_invalid_points_end_the_match_before_anything_is_disclosed(kind):
    tables = {name: table(range(20)) for name in SILOS[:2]}
    job_ = job(KEYS[:1]).changed(description=kind, protocol={"name": "test_psi:Forger"})
    hosts, kernel, fed, *_, seen = setting(tables, job_=job_)
    with pytest.raises(Refused, match=r"valid point|canonical|twice|number|elements"):
        kernel.run("test_psi:Forger", Forger.from_job(job_), fed)
    assert [each.fault.code for each in seen if each.silo == "bank" and each.fault] == ["refused"]
    assert not any(each.kept_matches for each in hosts.values())


def test_where_nothing_matches_each_silo_shows_its_own_key_shapes(caplog):
    """It said only that too few were in common: 1000 here and 1000.0 there looked like nobody."""
    keys = [{"parts": [{"column": "number", "steps": ["trim"]}], "duplicates": "same"}]
    ids = [str(1000 + n) for n in range(20)]
    tables = {"bank": table(range(20), number=ids), "clinic": table(range(20))}
    tables["clinic"]["number"] = [f"{each}.0" for each in ids]
    tables = {n: each.astype({"number": "string"}) for n, each in tables.items()}
    matched(tables, job_=job(keys))
    told = [each.message for each in caplog.records if "no key is in common" in each.message]
    assert any("4 signs long, all digits" in each for each in told)
    assert any("6 signs long" in each and "all of them ending in .0" in each for each in told)
    assert not any(each in line for each in ids for line in told)
    keys[0]["parts"][0]["steps"] = ["trim", "number"]
    found, _, _ = matched(tables, job_=job(keys))
    assert {len(each.rows) for each in found.values()} == {20}


def test_too_few_in_common_and_nobody_learns_who():
    tables = {"bank": table(range(60)), "clinic": table(range(57, 120))}
    hosts = {name: Watched(name, frame, min_common=5) for name, frame in tables.items()}
    _, kernel, fed, protocol, _, seen = setting(tables, hosts=hosts)
    with pytest.raises(TooFewRows, match="too few"):
        kernel.run("psi", protocol, fed)
    # It ends before the step in which the hub is told which of its values matched.
    assert {each.verb for each in seen} == {"hello", "agree", "exchange"}
    assert not any(each.kept_matches for each in hosts.values())


def test_what_a_run_kept_is_erased_with_the_match():
    tables = {name: table(range(20)) for name in SILOS[:2]}
    hosts, kernel, fed, protocol, *_ = setting(tables)
    kernel.run("psi", protocol, fed)
    left = [{name for _, name in each.state} for each in hosts.values()]
    assert left == [{"manifest"}, {"manifest"}]  # a hash of the job, which all know


def test_the_row_order_is_nobodys_choice():
    tables = {name: table(range(200)) for name in SILOS[:2]}
    orders = [matched(tables, run_id=run)[0]["bank"].rows for run in ("one", "two", "three")]
    places = np.corrcoef([np.argsort(each) for each in (*orders, np.arange(200))])
    assert np.abs(places[np.triu_indices(4, 1)]).max() < 0.3
