import stat
import threading

import pytest

from consilo.kernel.roles import kept_number
from consilo.wire.parcel import Parcel
from silos.kept.store import Permit, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "silo")


def test_an_answer_is_remembered_by_its_step_and_the_first_one_stands(store, tmp_path):
    assert store.remembered("s") is None
    store.remember("s", Parcel(b"h", b"b"))
    store.remember("s", Parcel(b"other", b"x"))
    assert Store(tmp_path / "silo").remembered("s") == Parcel(b"h", b"b")


def test_the_newest_answers_are_kept(store):
    for number in range(40):
        store.remember(str(number), Parcel(b"h", bytes([number])))
    assert [n for n in range(40) if store.remembered(str(n))] == list(range(24, 40))


def test_a_number_is_built_once(store):
    assert kept_number(store, "k", lambda: 0.1) == 0.1
    assert kept_number(store, "k", lambda: 1 / 0) == 0.1


def test_a_secret_is_made_once_per_run_for_the_owner_only(store, tmp_path):
    first = store.secret("run")
    assert len(first) == 32
    assert store.secret("run") == first == Store(tmp_path / "silo").secret("run")
    assert store.secret("../../other") != first
    (path, *rest) = (tmp_path / "silo" / "secrets").iterdir()
    assert len(rest) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "silo" / "state.db").stat().st_mode) == 0o600


def test_threads_that_come_at_once_agree(store):
    found = []

    def work(number):
        found.append(store.secret("run"))
        store.note_request(str(number % 3), at=9.0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(found)) == 1
    assert store.count_requests(since=9.0) == 3


def test_a_step_that_judged_a_model_stays_one(tmp_path):
    """Its verb, or code of a bundle behind the wall, may ask the gate for more, and less exact."""
    store = Store(tmp_path)
    for at, judged in ((1.0, True), (2.0, False)):
        store.note_permit("step", Permit(judged, "", frozenset({str(at)})), run_id="run", at=at)
    assert store.count_judged(since=1.5, but="", run_id="run") == 1
    assert store.permit("step") == Permit(True, "", frozenset({"2.0"}))


def test_judgements_of_a_run_count_until_it_ends(tmp_path):
    store, day = Store(tmp_path), 86_400.0
    for run, step in (("long", "a"), ("ended", "b")):
        store.note_permit(step, Permit(judged=True), run_id=run, at=0.0)
    store.conclude("ended")
    store.note_permit("c", Permit(), run_id="long", at=2 * day)
    store.note_permit("d", Permit(), run_id="long", at=4 * day)
    assert store.count_judged(since=0.0, but="", run_id="long") == 1
    assert store.permit("b") is None
    assert store.permit("c") is None


def test_a_step_that_is_allowed_again_counts_in_the_hour_in_which_it_is(tmp_path):
    """Else all steps of a day could be asked again in any later hour."""
    store = Store(tmp_path)
    for at in (0.0, 5000.0):
        store.note_request("step", at=at)
    assert store.count_requests(since=4000.0) == 1


def test_a_run_that_has_ended_leaves_no_secret_and_one_that_nobody_ended_lapses(store, tmp_path):
    month = 31 * 86_400.0
    secrets = {run: store.secret(run) for run in ("ended", "left", "at work", "matching")}
    store.lasting("noise")
    for run in ("ended", "left", "at work", "matching"):
        store.note_owner(run, 1, at=0.0)
    store.conclude("ended")
    store.conclude("matching")
    assert len([*(tmp_path / "silo" / "secrets").iterdir()]) == 4
    assert store.secret("matching") == secrets["matching"]
    store.note_owner("at work", 1, at=month)
    assert len([*(tmp_path / "silo" / "secrets").iterdir()]) == 3
    assert store.secret("at work") == secrets["at work"]
    # Asked again they are other runs: with other noise, which is paid for again.
    assert store.secret("left") != secrets["left"]
    assert store.is_concluded("ended")


def test_ends_and_numbers_are_kept_of_the_newest(store, monkeypatch):
    monkeypatch.setattr("silos.kept.store._KEPT_ENDS", 3)
    monkeypatch.setattr("silos.kept.store._KEPT_NUMBERS", 3)
    for number in range(5):
        store.conclude(f"run-{number}")
        store.keep_number(str(number), number / 2)
    store.conclude("run-4")
    assert [n for n in range(5) if store.is_concluded(f"run-{n}")] == [2, 3, 4]
    assert [n for n in range(5) if store.number(str(n)) is not None] == [2, 3, 4]
