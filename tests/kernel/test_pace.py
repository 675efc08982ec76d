import json

import clinic

from consilo.kernel.pace import Pace, kind_of


def test_times_are_kept_over_runs_which_may_end_side_by_side(tmp_path):
    one, two = Pace(tmp_path / "pace.json"), Pace(tmp_path / "pace.json")
    one.note("a", 1.0)
    two.note("a", 2.0)
    two.note("b", 3.0)
    one.save()
    two.save()
    two.save()
    kept = Pace(tmp_path / "pace.json")
    assert (kept.times("a"), kept.times("b"), kept.times("c")) == ((1.0, 2.0), (3.0,), ())


def test_the_file_is_bounded_and_the_longest_unused_kind_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr("consilo.kernel.pace._MOST_KINDS", 3)
    for number in range(200):
        pace = Pace(tmp_path / "pace.json")
        pace.note("always", number)
        pace.note(f"kind {number}", 1.0)
        pace.save()
    kept = json.loads((tmp_path / "pace.json").read_bytes())
    assert set(kept) == {"always", "kind 198", "kind 199"} or len(kept) == 3
    assert kept["always"] == list(map(float, range(136, 200)))


def test_what_is_not_a_time_is_not_learnt_from(tmp_path):
    place = tmp_path / "pace.json"
    for text in ("", "[]", '{"a": 3}', '{"a": ["1"]}', '{"a": [-1, NaN, Infinity]}', "\x00"):
        place.write_text(text)
        assert Pace(place).times("a") == ()
    place.write_text('{"a": [2, "x", 3.5]}')
    assert Pace(place).times("a") == (2.0, 3.5)


def test_a_disk_that_is_full_ends_no_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    pace = Pace(tmp_path / "pace.json")
    pace.note("a", 1.0)
    monkeypatch.setattr("consilo.kernel.pace.write_atomic", full)
    pace.save()
    assert Pace(tmp_path / "pace.json").times("a") == ()


def test_jobs_that_differ_in_length_and_quorum_are_of_one_kind_and_no_others():
    job = clinic.job()
    same = job.changed(protocol={"rounds": 99}, quorum={"min_silos": 1}, seed=4)
    assert kind_of(job) == kind_of(same)
    assert kind_of(job) != kind_of(job.changed(local={"batch_size": 7}))
