"""Faults as data: the known ones, and those that a person writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilo.contracts.contract import SHIPPED
from consilo.errors import ConfigInvalid
from consilo.jobs.job import Job
from flows.rehearsal.acts import ACTS
from flows.rehearsal.copies import Rehearsed
from flows.rehearsal.faults import CATALOGUE, FITS, Fault, chosen, together
from flows.rehearsal.place import Place
from flows.rehearsal.rehearse import rehearse
from flows.rehearsal.survival import EITHER, can_miss, chosen_silo, is_kept, promise_of

WANTED = {
    *("silo-dead-before", "silo-dead-during", "silo-dead-after", "silo-restarted"),
    *("silo-restarted-late", "silo-stopped", "silo-slow", "link-lost", "packets-lost", "low-rate"),
    *("superlink-restarted", "superlink-database-gone", "flow-killed", "worker-killed"),
    *("prefect-down", "mlflow-down", "silo-disk-full", "coordinator-disk-full", "silo-clock"),
    *("silo-release-before", "update-nan", "update-exploding", "checkpoint-corrupted"),
    *("contract-broken", "budget-exhausted", "two-schedules", "cache-deleted", "machine-lost"),
}


def test_every_fault_that_is_promised_is_known_and_can_be_played() -> None:
    assert {each.name for each in CATALOGUE} == WANTED
    assert set(ACTS) == set(FITS)


def test_faults_are_chosen_by_name() -> None:
    assert [each.name for each in chosen("flow-killed, silo-slow")] == ["flow-killed", "silo-slow"]
    with pytest.raises(ConfigInvalid, match="did you mean 'flow-killed'"):
        chosen("flow-kiled")


def test_faults_strike_one_run_together_by_name_or_as_pairs_that_a_seed_draws() -> None:
    named = together("flow-killed+silo-slow,mlflow-down", pairs=None, seed=0)
    assert [[each.name for each in one] for one in named] == [
        ["flow-killed", "silo-slow"],
        ["mlflow-down"],
    ]
    drawn = together(None, pairs=60, seed=1)
    assert drawn == together(None, pairs=60, seed=1)
    assert drawn != together(None, pairs=60, seed=2)
    assert len({frozenset(each.name for each in one) for one in drawn}) == 60
    assert {len(one) for one in drawn} == {2}
    with pytest.raises(ConfigInvalid, match="2 faults make 1 pairs"):
        together("flow-killed,silo-slow", pairs=2, seed=0)


def test_a_person_writes_faults_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(
        "faults:\n"
        "  - flow-killed\n"
        "  - {name: line gone, part: silo, silo: north, what: cut, when: during round 3,\n"
        "     lasts: 2 min, promise: survives}\n"
        "  - {name: restarted, part: silo, what: kill, lasts: at once}\n"
        "  - {name: dead, part: silo, what: kill, lasts: for good}\n"
    )
    known, own, restarted, dead = chosen(str(file))
    assert known.name == "flow-killed"
    assert (own.silo, own.round, own.lasts, own.promise) == ("north", 3, 120.0, "survives")
    assert (restarted.lasts, dead.lasts) == (0.0, None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{name: a, part: mlflow, what: cut}", "can be done to silo"),
        ("{name: a, part: silo, what: kil}", "what"),
        ("{name: a, part: silo, what: kill, when: during round 0}", "during round K"),
        ("{name: a, part: silo, what: kill, when: sometimes}", "during round K"),
        ("{name: a, part: silo, what: kill, lasts: a while}", "'90 s'"),
        ("{name: a, part: mlflow, silo: north, what: kill}", "leave it out"),
        ("{name: flow-killed, part: mlflow, what: kill}\n  - flow-killed", "there twice"),
        ("{name: a, part: silo, what: kill, wen: before}", "when"),
        ("{name: a, part: silo, what: kill, amount: 3}", "'kill' has none"),
        ("{name: a, part: silo, what: lose packets, amount: 20}", "a share up to 0.9, found 20"),
        ("{name: a, part: silo, what: poison, amount: 5}", "expected 1e[+]30, or none, found 5"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(f"faults:\n  - {line}\n")
    with pytest.raises(ConfigInvalid, match=told):
        chosen(str(file))


def test_a_fault_of_a_silo_that_there_is_not_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    job = Job.load(SHIPPED / "jobs" / "heart.yaml")
    rehearsed = Rehearsed(job, tmp_path / "job.yaml", {"north": tmp_path / "north"}, "made up")
    fault = Fault(name="line gone", part="silo", silo="nord", what="cut")
    with pytest.raises(ConfigInvalid, match="line gone: no silo 'nord'; there are north"):
        rehearse(Place(tmp_path), rehearsed, [(fault,)], lambda text: None)
    assert list(tmp_path.iterdir()) == []


def test_what_must_come_of_a_fault_is_what_the_jobs_quorum_says() -> None:
    job = Job.load(SHIPPED / "jobs" / "heart.yaml")  # three silos, cleveland, 60 % of the rows
    rows = {"cleveland": 100, "hungarian": 100, "switzerland": 100, "va": 500}
    missed = {name for name in rows if can_miss(job, rows, name)}
    assert missed == {"hungarian", "switzerland"}
    assert chosen_silo(job, rows) == "hungarian"
    dead = Fault(name="dead", part="silo", what="kill")
    assert promise_of(dead, job, rows, "hungarian") == "survives"
    assert promise_of(dead, job, rows, "cleveland") == "refuses"
    assert (
        promise_of(dead.model_copy(update={"promise": "survives"}), job, rows, "va") == "survives"
    )
    joint = Job.load(SHIPPED / "jobs" / "breast_cancer_vertical.yaml")
    assert not can_miss(joint, {"clinic": 9, "laboratory": 9, "imaging": 9}, "imaging")
    restarted = Fault(name="restarted", part="silo", what="kill", lasts=0.0)
    assert promise_of(restarted, joint, {"clinic": 9, "imaging": 9}, "imaging") == "refuses"
    waits = joint.changed(quorum={"on_loss": "wait", "for": "2m"})
    assert promise_of(restarted, waits, {"clinic": 9, "imaging": 9}, "imaging") == "survives"
    assert promise_of(dead, waits, {"clinic": 9, "imaging": 9}, "imaging") == "refuses"
    assert chosen_silo(job, rows, ["hungarian"]) == "switzerland"
    assert chosen_silo(joint, {"clinic": 9, "laboratory": 9, "imaging": 9}) != "clinic"


@pytest.mark.parametrize(
    ("promise", "status", "reason", "equal", "orphans", "kept"),
    [
        ("survives", "complete", "", True, 0, True),
        ("survives", "degraded", "one was missing", True, 0, True),
        ("survives", "complete", "", False, 0, False),  # another model than it must be
        ("survives", "complete", "", True, 1, False),  # a process is left
        ("survives", "failed", "QuorumLost: …", None, 0, False),
        ("refuses", "failed", "QuorumLost: …", None, 0, True),
        ("refuses", "failed", "", None, 0, False),  # nobody knows why
        ("refuses", "failed", "the pipeline ended without a result (exit code 1)", None, 0, False),
        ("refuses", "failed", "TypeError: see the coordinator's log", None, 0, False),
        ("refuses", "degraded", "", True, 0, True),  # better than promised
        ("refuses", "degraded", "", False, 0, False),  # it took what it should refuse
        (EITHER, "failed", "QuorumLost: …", None, 0, True),
        (EITHER, "complete", "", False, 0, False),
    ],
)
def test_a_promise_is_kept_by_the_right_result_or_a_true_reason(
    promise: str, status: str, reason: str, equal: bool | None, orphans: int, kept: bool
) -> None:
    assert is_kept(promise, status, reason, equal=equal, orphans=orphans) is kept


def test_the_quorum_of_a_cohort_is_that_of_whoever_may_be_drawn_with_a_silo() -> None:
    """A rehearsal took all silos for those of a round, and promised what no draw can keep."""
    rows = {"a": 100, "b": 100, "c": 100, "d": 500}
    job = Job.load(SHIPPED / "jobs" / "heart.yaml")
    all_of = job.changed(quorum={"min_silos": 2, "min_data_share": 0.3, "mandatory": []})

    def missed(**cohort: object) -> set[str]:
        drawn = all_of.changed(cohort=cohort)
        return {name for name in rows if can_miss(drawn, rows, name)}

    assert {name for name in rows if can_miss(all_of, rows, name)} == set(rows)
    assert missed(size=3) == {"a", "b", "c"}  # with d, the others hold 200 of 700 rows
    assert missed(size=2) == set()
    assert missed(rate=0.9, by="poisson") == set()  # a draw may have just two
