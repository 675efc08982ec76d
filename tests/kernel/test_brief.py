"""Job and contract travel once a run, and again to a silo that has lost them."""

from __future__ import annotations

import shutil

import pytest
from three_silos import NAMES, run_of, silos_in

from consilo.errors import QuorumLost
from consilo.kernel.headers import Header
from consilo.runs.horizontal import run_all
from consilo.wire.parcel import Answer, Parcel
from consilo.wire.payload import unpack

Heard = list[tuple[str, Header, dict]]


def listening(heard: Heard, silo: str, answer: Answer) -> Answer:
    def listened(parcel: Parcel) -> Parcel:
        heard.append((silo, Header.decode(parcel.header), dict(unpack(parcel.body))))
        return answer(parcel)

    return listened


def test_job_and_contract_travel_once_to_each_silo(tmp_path):
    heard: Heard = []
    run = run_of(tmp_path / "run", silos_in(tmp_path), lambda n, a: listening(heard, n, a))
    assert run_all(run).status == "complete"
    told = [(silo, header.verb) for silo, header, body in heard if "contract" in body]
    assert sorted(told) == [(name, "brief") for name in NAMES]
    lean = {header.verb for _, header, body in heard if set(body) == {"payload"}}
    assert lean >= {"check", "train", "conclude"}


@pytest.mark.parametrize("verb", ["moments", "train"])
def test_a_silo_that_has_lost_them_is_told_again_and_the_run_is_whole(tmp_path, verb):
    heard: Heard = []
    lost = []

    def losing(silo: str, answer: Answer) -> Answer:
        def answered(parcel: Parcel) -> Parcel:
            if silo == "east" and Header.decode(parcel.header).verb == verb and not lost:
                lost.append(silo)
                shutil.rmtree(tmp_path / "east" / "runs")
            return answer(parcel)

        return listening(heard, silo, answered)

    result = run_all(run_of(tmp_path / "run", silos_in(tmp_path), losing))
    assert result.status == "complete", result.reason
    assert lost == ["east"]
    briefed = [silo for silo, header, _ in heard if header.verb == "brief"]
    assert sorted(briefed) == ["east", *NAMES]


def test_a_silo_keeps_nothing_of_them_once_the_run_has_ended(tmp_path):
    run_all(run_of(tmp_path / "run", silos_in(tmp_path)))
    for name in NAMES:
        assert not [each for each in (tmp_path / name / "runs").rglob("*") if each.is_file()]


def test_briefing_is_given_no_longer_than_the_question_that_it_comes_before(tmp_path):
    """A run that ended before its first question waited ten minutes for a silo that is stuck."""
    heard: Heard = []
    run = run_of(tmp_path / "run", silos_in(tmp_path), lambda n, a: listening(heard, n, a))
    run.close(QuorumLost("nobody came", missing={}))
    patience = {header.verb: header.expires - header.issued for _, header, _ in heard}
    assert patience["brief"] == pytest.approx(patience["conclude"], abs=1)


def test_another_job_under_the_same_payload_is_another_question(tmp_path):
    silos = silos_in(tmp_path)
    questions = []
    for number, lr in enumerate((0.01, 0.02)):
        heard: Heard = []
        run = run_of(
            tmp_path / f"run{number}",
            silos,
            lambda n, a, heard=heard: listening(heard, n, a),
            local={"lr": lr},
        )
        run_all(run)
        questions.append({header.question for _, header, _ in heard if header.verb == "check"})
    assert questions[0]
    assert not questions[0] & questions[1]
