"""`evaluate` with chosen weights read 38 of 40 rows back, whatever the policy said of privacy."""

import time

import attacker
import clinic
import numpy as np
import pytest

from silos.gate.policy import TEMPLATE

OPEN = TEMPLATE.replace("min_cohort: 2", "min_cohort: 1")
CHEAP = {"epsilon": 0.9, "delta": 1e-5, "metrics_epsilon": 0.4}


def probe(weight: float = 2.0, bias: float = -110.0) -> dict:
    """A model whose score says how old somebody is, to half a month."""
    payload = attacker.model()
    names = list(payload["params"])
    wide = np.array([[weight, 256.0, 0.0, 512.0, 1024.0]], np.float32)
    payload["params"] = {names[0]: wide, names[1]: np.array([bias], np.float32)}
    return payload


@pytest.mark.parametrize("attest", [False, True], ids=["alone", "in a cohort"])
@pytest.mark.parametrize("verb", [("evaluation", "evaluate"), ("fedavg", "train")], ids="/".join)
def test_where_privacy_is_wanted_no_figure_leaves_exactly(tmp_path, verb, attest) -> None:
    silo = attacker.make(tmp_path, attacker.STRICT.replace("min_cohort: 5", "min_cohort: 2"))
    for number, privacy in enumerate((None, {"epsilon": 0.9, "delta": 1e-5})):
        job = clinic.job(privacy=privacy, features={"standardize": "none"})
        _, fields = attacker.ask(silo, *verb, probe(), job, run=f"r{number}", attest=attest)
        assert not fields.keys() & {"metrics", "tally", "loss"}


def test_what_is_paid_is_noisy_and_ends_with_the_budget(tmp_path) -> None:
    policy = attacker.STRICT.replace("min_cohort: 5", "min_cohort: 2")
    silo = attacker.make(tmp_path, policy)
    job = clinic.job(privacy=CHEAP, features={"standardize": "none"})
    answered, faults = [], set()
    for number in range(12):
        header, fields = attacker.ask(
            silo, "evaluation", "evaluate", probe(), job, run=f"r{number}", attest=True
        )
        if fields:
            answered.append(np.asarray(fields["tally"]["scores_0"]))
            assert float(fields["tally"]["noise_variance/correct"]) > 1
        else:
            faults.add(header.code)
    assert faults == {"budget_exhausted"}
    assert 1 <= len(answered) == attacker.reserved(silo) <= 10
    assert all(not np.array_equal(answered[0], each) for each in answered[1:])


def test_a_job_cannot_hold_out_more_than_the_silo_bears(tmp_path) -> None:
    silo = attacker.make(tmp_path, OPEN)
    job = clinic.job(evaluation={"holdout": 0.99})
    for verb in (("evaluation", "evaluate"), ("fedavg", "train"), ("statistics", "moments")):
        payload = {"moments": {}, "classes": {}} if verb[1] == "moments" else probe()
        header, _ = attacker.ask(silo, *verb, payload, job, attest=True)
        assert (header.status, "evaluation.holdout" in header.reason) == ("fault", True)


def test_min_rows_counts_the_rows_that_a_figure_is_made_of(tmp_path) -> None:
    silo = attacker.make(tmp_path, OPEN.replace("metric: yes", "metric: {min_rows: 30}"))
    for verb in (("evaluation", "evaluate"), ("fedavg", "train")):
        header, fields = attacker.ask(silo, *verb, probe())
        assert header.status == "ok", header.reason
        assert not fields.keys() & {"metrics", "tally"}
    enough = attacker.make(tmp_path / "b", OPEN.replace("metric: yes", "metric: {min_rows: 5}"))
    _, fields = attacker.ask(enough, "evaluation", "evaluate", probe())
    assert fields.keys() >= {"metrics", "tally"}


def test_a_silo_judges_so_many_models_a_day_and_trains_on_without(tmp_path) -> None:
    silo = attacker.make(tmp_path, OPEN + "\nevaluation: {per_day: 2}\n")
    told = []
    for number in range(4):
        verb = ("evaluation", "evaluate") if number % 2 else ("fedavg", "train")
        header, fields = attacker.ask(silo, *verb, probe(), run=f"r{number}")
        assert header.status == "ok", header.reason
        told.append("tally" in fields)
    assert told == [True, True, False, False]


def test_a_run_of_many_days_is_judged_no_more_often_than_a_run_may(tmp_path) -> None:
    """After a day the silo had forgotten that it had judged in this run."""
    silo = attacker.make(tmp_path, OPEN + "\nevaluation: {per_run: 2}\n")
    told = []
    for number in range(1, 5):
        at = time.time() + number * 90_000.0
        silo.gate.now = lambda at=at: at
        said = {"scope": f"{number}/0/train", "round": number, "issued": at, "expires": at + 60}
        header, fields = attacker.ask(silo, "fedavg", "train", probe(), **said)
        assert header.status == "ok", header.reason
        told.append("tally" in fields)
    assert told == [True, True, False, False]
