from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import ConfigInvalid
from consilo.membership import keys
from consilo.membership.coordinator import Coordinator, Reachable
from consilo.membership.members import iso
from consilo.membership.software import installed
from consilo.record import chain
from consilo.wire.signing import public_hex


@dataclass
class Clock:
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path, clock: Clock) -> Iterator[Coordinator]:
    keys.load_or_create_authority(tmp_path / "keys", now=clock.now)
    with Coordinator(tmp_path, now=clock) as coordinator:
        yield coordinator


def public(tmp_path: Path, name: str) -> bytes:
    return keys.load_or_create_silo_key(tmp_path / f"{name}.key")


def enrolled(home: Coordinator, name: str) -> str:
    signing_key = public_hex(Ed25519PrivateKey.generate())
    home.invite(name, "h:1")
    home.members.enrol(name, public(home.home, name), signing_key, installed())
    return signing_key


def test_a_silo_is_invited_pending_admitted_suspended_and_removed(home: Coordinator) -> None:
    enrolled(home, "anna")
    assert home.members.known("anna").state == "pending"
    assert home.members.known("anna").certificate == ""
    member = home.admit("anna")
    assert (member.state, member.standing(home.now())) == ("admitted", "")
    home.suspend("anna")
    assert home.members.known("anna").standing(home.now()) == "suspended"
    assert home.admit("anna").certificate == member.certificate
    home.remove("anna")
    assert home.members.known("anna").keys == ()
    for change in (home.suspend, home.remove, home.admit, home.renew):
        with pytest.raises(ConfigInvalid):
            change("anna")
    kinds = [each["kind"] for each in chain.verify(home.home / "audit.jsonl")]
    assert kinds == [
        "silo_invited", "silo_pending", "silo_admitted", "certificate_issued", "silo_suspended",
        "silo_admitted", "silo_removed",
    ]  # fmt: skip


def test_a_change_that_fails_leaves_no_trace(home: Coordinator) -> None:
    enrolled(home, "anna")
    before = chain.verify(home.home / "audit.jsonl")
    with pytest.raises(ConfigInvalid, match="pending already"):
        home.invite("anna", "h:1")
    with pytest.raises(ConfigInvalid, match="cannot become suspended"):
        home.suspend("anna")
    assert chain.verify(home.home / "audit.jsonl") == before
    assert home.members.known("anna").state == "pending"


def test_nobody_else_gets_the_keys_of_a_member_not_even_of_a_removed_one(
    home: Coordinator,
) -> None:
    signing_key = enrolled(home, "anna")
    home.admit("anna")
    home.remove("anna")
    home.invite("berta", "h:1")
    fresh = public_hex(Ed25519PrivateKey.generate())
    with pytest.raises(ConfigInvalid, match="was used before, by anna"):
        home.members.enrol("berta", public(home.home, "anna"), fresh, installed())
    with pytest.raises(ConfigInvalid, match="was used before"):
        home.members.enrol("berta", public(home.home, "berta"), signing_key, installed())
    home.members.enrol("berta", public(home.home, "berta"), fresh, installed())
    home.invite("anna", "h:1")  # the organisation may come back, with keys of its own making
    assert home.members.known("anna").state == "invited"


def test_a_certificate_ends_and_is_renewed_with_overlap(home: Coordinator, clock: Clock) -> None:
    enrolled(home, "anna")
    home.admit("anna", days=30)
    clock.now += timedelta(days=29)
    assert home.members.known("anna").standing(clock.now) == ""
    home.renew("anna", days=30)
    assert len(home.members.certificates("anna")) == 2
    clock.now += timedelta(days=2)
    assert len(home.members.certificates("anna")) == 1
    assert home.members.known("anna").standing(clock.now) == ""
    clock.now += timedelta(days=30)
    assert home.members.known("anna").standing(clock.now) == "certificate expired"


def test_two_keys_of_a_silo_overlap_and_the_older_one_ends(home: Coordinator, clock: Clock) -> None:
    enrolled(home, "anna")
    home.admit("anna")
    home.change_key("anna", public(home.home, "second"), overlap_days=7)
    again = home.change_key("anna", public(home.home, "second"), overlap_days=7)
    assert [key.generation for key in again.keys] == [1, 2]
    assert all(key.certificate for key in again.keys)
    clock.now += timedelta(days=8)
    assert [key.generation for key in home.members.known("anna").keys] == [2]


def test_a_silo_cannot_have_certificates_without_end(home: Coordinator) -> None:
    enrolled(home, "anna")
    home.admit("anna")
    for _ in range(9):
        home.renew("anna")
    with pytest.raises(ConfigInvalid, match="within 24 hours"):
        home.renew("anna")


def test_adding_and_removing_a_silo_changes_nothing_of_another(home: Coordinator) -> None:
    enrolled(home, "anna")
    before = home.admit("anna")
    enrolled(home, "berta")
    home.admit("berta")
    home.remove("berta")
    assert home.members.known("anna") == before


def test_another_process_sees_that_the_list_has_changed(home: Coordinator) -> None:
    with Coordinator(home.home) as other:
        assert not other.members.changed()
        enrolled(home, "anna")
        assert other.members.changed()
        assert not other.members.changed()
        assert other.members.known("anna").state == "pending"
        home.renew_server()
        assert other.members.changed()


def test_a_nonce_counts_once_until_it_cannot_be_replayed(home: Coordinator, clock: Clock) -> None:
    assert home.members.use_nonce("ab" * 16, keep_s=600)
    assert not home.members.use_nonce("ab" * 16, keep_s=600)
    clock.now += timedelta(seconds=601)
    assert home.members.use_nonce("ab" * 16, keep_s=600)


def test_the_calendar_has_every_certificate_and_key_and_the_next_end_first(
    home: Coordinator,
) -> None:
    enrolled(home, "anna")
    home.admit("anna", days=30)
    calendar = home.expiries()
    assert calendar == sorted(calendar)
    assert calendar[0][1:] == ("anna", f"node certificate {_mark(home)}")
    whats = [what.split()[0] for _, _, what in calendar]
    assert sorted(whats) == ["certificate", "node", "server", "signing", "signing"]


def test_the_coordinators_signing_key_changes_once_every_silo_knows_the_new_one(
    home: Coordinator,
) -> None:
    enrolled(home, "anna")
    home.admit("anna")
    (before,) = home.signing_keys
    home.renew_signing_key()
    announced = home.signing_keys
    assert announced[0] == before
    with pytest.raises(ConfigInvalid, match="not fetched yet by anna"):
        home.renew_signing_key()
    assert home.signing_keys == announced
    home.renew_signing_key(force=True)
    assert home.signing_keys == (announced[1], before)
    with Coordinator(home.home) as again:
        assert again.signing_keys == home.signing_keys


def _mark(home: Coordinator) -> str:
    return home.members.known("anna").keys[0].fingerprint[:12]


def test_files_of_the_list_are_private(home: Coordinator) -> None:
    for path in home.home.iterdir():
        if path.is_file() and path.suffix not in (".pub",):
            assert path.stat().st_mode & 0o077 == 0, path.name


def test_where_silos_reach_us_is_kept(tmp_path: Path) -> None:
    assert Reachable.load(tmp_path) is None
    Reachable(host="0.0.0.0", port=9092, advertise="fed.example.org").save(tmp_path)
    known = Reachable.load(tmp_path)
    assert known is not None
    assert known.address == "fed.example.org:9092"


def test_a_statement_tells_the_others_only_to_who_is_admitted(
    home: Coordinator, clock: Clock
) -> None:
    keys_of = {name: enrolled(home, name) for name in ("anna", "berta")}
    home.admit("anna")
    assert home.statement("berta")["statement"]["members"] == {}
    assert home.statement("anna")["statement"]["members"] == {"anna": keys_of["anna"]}
    assert home.statement("anna")["statement"]["time"] == iso(clock.now)
