"""Rows of a notebook are judged once per content: never again, and never by an old verdict."""

import clinic
import numpy as np
import pytest
import yaml

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.horizontal.partition import Partition
from silos.rows import check as checking
from silos.rows.checks.verdicts import Verdicts
from silos.simulation import simulation
from silos.simulation.simulation import simulate, simulate_cut

JOB = clinic.job(protocol={"rounds": 1})


@pytest.fixture
def judged(monkeypatch):
    """The verdicts that were worked out, in a process that has given none."""
    monkeypatch.setattr(simulation, "_VERDICTS", Verdicts())
    given = []
    check = checking.check

    def watched(*args, **how):
        report = check(*args, **how)
        given.append(report.verdict)
        return report

    monkeypatch.setattr(checking, "check", watched)
    return given


def run(frames, contract=None):
    return simulate(JOB, frames, contract=contract or clinic.contract())


def test_the_same_frames_are_judged_once_whatever_they_are_used_for(judged):
    frames = clinic.frames(30, 20)
    first = run(frames)
    assert judged == ["passed", "passed"]
    again = run({name: frame.copy() for name, frame in frames.items()})
    assert judged == ["passed", "passed"]
    assert first.to_json()["metrics"] == again.to_json()["metrics"]
    assert [each.contract for each in again.silos.values()] == ["passed", "passed"]


def test_a_frame_that_was_changed_in_place_is_judged_anew_each_way(judged):
    frames = clinic.frames(30, 20)
    run(frames)
    name = next(iter(frames))
    good = frames[name].loc[3, "age"]
    frames[name].loc[3, "age"] = 4_801_234.0
    bad = run(frames)
    assert judged == ["passed", "passed", "failed"]
    assert bad.silos[name].contract == "failed"
    assert run(frames).silos[name].contract == "failed"
    frames[name].loc[3, "age"] = good
    assert run(frames).silos[name].contract == "passed"
    assert judged == ["passed", "passed", "failed"]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.astype({"age": "float32"}),
        lambda frame: frame.iloc[::-1],
        lambda frame: frame.iloc[:-1],
        lambda frame: frame.assign(age=np.nextafter(frame["age"], np.inf)),
        lambda frame: frame.assign(age=frame["age"].mask(frame.index == 2)),
    ],
)
def test_any_other_content_is_judged(judged, change):
    frame = clinic.frames(30)
    run(frame)
    run({name: change(each) for name, each in frame.items()})
    assert len(judged) == 2


def test_another_contract_of_the_same_name_is_judged_by_itself(judged):
    frames = clinic.frames(30)
    run(frames)
    value = yaml.safe_load(clinic.CONTRACT)
    value["columns"]["age"]["range"] = {"min": 0, "max": 1}
    stricter = Contract.parse(value, where="contract")
    assert stricter.ref == clinic.contract().ref
    assert [each.contract for each in run(frames, stricter).silos.values()] == ["failed"]
    assert judged == ["passed", "failed"]


def test_a_table_that_is_cut_is_judged_once_too(judged, tmp_path):
    (frame,) = clinic.frames(90).values()
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for table in (frame, frame, tmp_path / "rows.csv", tmp_path / "rows.csv"):
        simulate_cut(JOB, table, Partition(silos=2), contract=clinic.contract(), engine="inline")
    assert judged == ["passed", "passed"]


def test_the_newest_verdicts_are_kept_and_no_more():
    report = CheckReport(contract="a@1", contract_digest="0" * 64, verdict="passed", findings=())
    verdicts = Verdicts(most=2)
    verdicts.add("a", (report, None))
    verdicts.add("b", (report, None))
    assert verdicts.of("a") == (report, None)
    verdicts.add("c", (report, None))
    assert [verdicts.of(key) is None for key in ("a", "b", "c")] == [False, True, False]


def test_a_silo_that_is_set_up_judges_what_it_holds_by_itself(judged, tmp_path):
    """The verdicts of a notebook are none of a real silo's."""
    from silos.silo import Silo

    (tmp_path / "silo.yaml").write_text("name: north\ndata:\n  data: {type: csv, path: rows.csv}\n")
    (frame,) = clinic.frames(30).values()
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for _ in range(2):
        Silo.open(tmp_path).rows.check(clinic.contract())
    assert judged == ["passed"]
