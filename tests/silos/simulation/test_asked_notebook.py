"""Questions in a notebook: answers, a page, files; over silos in this process."""

from __future__ import annotations

import re

import asked_rows as rows
import pytest

from consilo.errors import IncompatibleJob, JobInvalid, RunFailed
from consilo.horizontal.asked.answers import Answers
from consilo.record.run_record import read
from silos import analytics

FRAMES = {"north": rows.frame(300, 1), "south": rows.frame(400, 2)}


@pytest.fixture(scope="module")
def report():
    return analytics(rows.contract(), FRAMES)


def test_everything_declared_is_answered(report):
    assert report.status == "complete"
    asked = {(each.ask, each.column) for each in report.answers}
    assert {("counts", "arm"), ("means", "age"), ("survival", "weeks")} <= asked
    assert {"ask", "column", "by", "survival", "mean", "noisy"} <= set(report.frame.columns)
    assert not report.frame["noisy"].any()
    counts = report.answers.of("counts", "sex").frame
    assert counts["count"].sum() == 700


def test_the_page_is_whole_and_holds_the_numbers(report, tmp_path):
    told = report.save(tmp_path / "report")
    page = (tmp_path / "report" / "analytics.html").read_text()
    assert sorted(told) == ["csv", "html", "json"]
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert page.count("<svg") >= 10
    for each in report.answers.of("means", "age").rows:
        assert f"{each['mean']:.6g}" in page
    assert "survival of weeks by arm" in page


def test_answers_survive_the_way_through_a_summary(report):
    assert Answers.from_json(report.answers.to_json()).to_json() == report.answers.to_json()


def test_the_record_holds_what_was_told(tmp_path):
    found = analytics(rows.contract(), FRAMES, questions=["counts"], directory=tmp_path / "home")
    (entry,) = [
        e["body"] for e in read(tmp_path / "home" / "run" / "record.jsonl") if e["kind"] == "asked"
    ]
    assert entry["answers"] == found.answers.to_json()["answers"]
    assert {each.status for each in found.result.silos.values()} == {"answered"}


def test_noisy_answers_say_so(tmp_path):
    privacy = {"epsilon": 2.0, "delta": 1e-5, "statistics_epsilon": 1.9}
    found = analytics(rows.contract(), FRAMES, questions=["counts", "survival"], privacy=privacy)
    assert found.frame["noisy"].all()
    assert "The numbers are noisy" in found.html()


def test_a_silo_that_breaks_the_contract_is_said_to_be_absent():
    broken = rows.frame(50, 3).assign(bmi=900.0)
    found = analytics(rows.contract(), {**FRAMES, "west": broken}, questions=["counts"])
    assert found.status == "degraded"
    assert set(found.answers.about["absent"]) == {"west"}
    assert "west" in found.html()


def test_what_is_not_declared_cannot_be_asked():
    with pytest.raises(IncompatibleJob, match=r"questions\.0\.by: 'stage' is none of the groups"):
        analytics(rows.contract(), FRAMES, questions=[{"ask": "means", "by": ["stage"]}])
    with pytest.raises(IncompatibleJob, match=r"does not declare 'agee' .* did you mean 'age'"):
        analytics(rows.contract(), FRAMES, questions=[{"ask": "means", "of": ["agee"]}])
    with pytest.raises(JobInvalid, match="questions"):
        analytics(rows.contract(), FRAMES, questions=[{"ask": "means", "where": "age > 60"}])
    plain = rows.contract(re.sub(r"groups:.*", "", rows.CONTRACT, flags=re.S))
    with pytest.raises(IncompatibleJob, match="no section 'analytics'"):
        analytics(plain, FRAMES)


def test_too_few_silos_are_a_failed_run():
    broken = rows.frame(50, 3).assign(bmi=900.0)
    with pytest.raises(RunFailed, match="silos"):
        analytics(rows.contract(), {"north": FRAMES["north"], "west": broken}, questions=["counts"])
