"""Have rows moved: the indices' laws, what the protocol tells, what it costs, what it keeps."""

import clinic
import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, ks_2samp

from consilo.contracts.bins import bins_of, unbinned
from consilo.errors import BudgetExhausted
from consilo.metrics.shifts import ks, psi, shift
from consilo.privacy.accounting import spent
from consilo.protocols.dispatch import answerer
from consilo.runs.analytics import DriftRun
from consilo.transports.local import LocalTransport

COUNTS = st.lists(st.integers(1, 500), min_size=3, max_size=12)
RETRAIN = {"when": "drift"}
PRIVACY = {"epsilon": 3.0, "delta": 1e-3, "accountant": "rdp", "statistics_epsilon": 1.0}


def shares(counts):
    found = np.array(counts, np.float64)
    return found / found.sum()


def test_the_index_is_that_of_a_worked_example():
    """Golden: incomes of 2020 and 2021 in geeksforgeeks.org, "Population Stability Index (PSI)"."""
    found = psi(np.array([0.4, 0.3, 0.3]), np.array([0.35, 0.25, 0.4]))
    assert found == pytest.approx(0.00667657 + 0.00911608 + 0.02876821, abs=1e-7)


@settings(deadline=None, max_examples=50)
@given(COUNTS, st.data())
def test_the_index_is_jeffreys_divergence_whichever_comes_first(before, data):
    """Oracle: scipy.stats.entropy, Kullback-Leibler in both directions."""
    size = len(before)
    now = data.draw(st.lists(st.integers(1, 500), min_size=size, max_size=size))
    e, a = shares(before), shares(now)
    assert psi(e, a) == pytest.approx(entropy(e, a) + entropy(a, e), abs=1e-12)
    assert psi(e, a) == pytest.approx(psi(a, e))
    assert psi(e, e) == 0.0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_the_distance_is_that_of_scipy_on_rows_that_are_rounded_to_their_bins(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 10, 80), rng.integers(0, rng.integers(3, 11), 50)
    counts = [np.bincount(each, minlength=10).astype(float) for each in (one, other)]
    assert ks(*counts) == pytest.approx(ks_2samp(one, other).statistic)


@pytest.mark.parametrize("rows", [40, 400, 4000])
@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_rows_of_the_same_population_stay_below_chance(rows, noise):
    """30 rows in ten bins have an index of 0.6 by chance: a rule of 0.2 alone calls it drift."""
    rng = np.random.default_rng(rows)
    law = np.array([1, 2, 4, 8, 16, 16, 8, 4, 2, 1, 3], float)
    over = {"psi": 0, "ks": 0, "missing": 0}
    trials = 600
    for _ in range(trials):
        before, now = (
            np.maximum(rng.multinomial(rows, law / law.sum()) + rng.normal(0, noise, 11), 0.0)
            for _ in range(2)
        )
        found = shift(before, now, is_ordered=True, noise_before=noise, noise_now=noise)
        over["psi"] += found.psi > found.psi_by_chance
        over["ks"] += found.ks > found.ks_by_chance
        over["missing"] += abs(found.missing) > found.missing_by_chance
    assert max(over.values()) <= 0.01 * trials, over


def test_a_moved_population_is_over_chance_and_a_few_rows_of_a_new_value_are_not_told():
    before = np.array([100.0, 200, 100, 0, 20])
    now = np.array([20.0, 100, 200, 4, 96])
    found = shift(before, now, is_ordered=True)
    assert found.psi > 0.3 > found.psi_by_chance
    assert found.ks > found.ks_by_chance
    assert found.missing == pytest.approx(96 / 420 - 20 / 420)
    assert found.unseen == 0.0
    many = shift(before, now + np.array([0, 0, 0, 40, 0]), is_ordered=False)
    assert many.unseen == pytest.approx(44 / 460)
    assert many.unseen > many.unseen_by_chance
    assert many.ks == 0.0


def test_bins_are_the_contracts_and_each_row_is_in_one():
    contract = clinic.contract()
    bins = {each.column: each for each in bins_of(contract)}
    assert {name: each.size for name, each in bins.items()} == {
        "age": 11,
        "smoker": 3,
        "ward": 4,
        "ill": 3,
    }
    assert unbinned(contract) == ()
    ages = pd.Series([0.0, 11.9, 12.0, 120.0, None, 500.0])
    assert list(bins["age"].places(ages)) == [0, 0, 1, 9, 10, 9]
    wards = pd.Series(["b", None, "a", "z"], dtype="string")
    assert list(bins["ward"].places(wards)) == [1, 3, 0, 3]
    assert list(bins["ill"].places(pd.Series([1, 0]))) == [1, 0]
    assert list(bins["smoker"].places(pd.Series([True, False]))) == [1, 0]


def question(job, hosts, path, run_id):
    run = DriftRun(
        job,
        clinic.contract(),
        LocalTransport({name: answerer(each) for name, each in hosts.items()}),
        silos=tuple(hosts),
        directory=path / run_id,
        run_id=run_id,
        key=Ed25519PrivateKey.generate(),
    )
    run.check_all()
    run.admit()
    return run


def asked(job, hosts, path, run_id):
    run = question(job, hosts, path, run_id)
    moved = run.compare()
    assert run.close().status == "complete"
    return moved


def told(job, hosts, path, run_id):
    run = question(job, hosts, path, run_id)
    assert run.remember() == ""
    run.close()


def older(rows):
    return rows.assign(age=np.clip(rows["age"] + 25.0, 0, 120))


def test_rows_that_stay_have_not_drifted_and_rows_that_move_say_which_column(tmp_path):
    job = clinic.job(retrain=RETRAIN)
    hosts = clinic.hosts(clinic.frames(400, 300))
    told(job, hosts, tmp_path, "r1")
    same = asked(job, hosts, tmp_path, "r2")
    assert all(each.compared and not each.drifted for each in same.values())
    assert same["east"].indices["psi"] == {"age": 0.0, "smoker": 0.0, "ward": 0.0, "ill": 0.0}
    hosts["east"].table = older(hosts["east"].table)
    moved = asked(job, hosts, tmp_path, "r3")
    assert moved["east"].drifted
    assert not moved["north"].drifted
    assert set(moved["east"].over) == {"age"}
    assert moved["east"].reason().startswith("age (psi ")
    assert all(
        round(figure, 2) == figure
        for each in moved["east"].indices.values()
        for figure in each.values()
    )


def test_a_silo_that_remembers_nothing_says_so_and_compares_with_this_from_now_on(tmp_path):
    job = clinic.job(retrain=RETRAIN)
    hosts = clinic.hosts(clinic.frames(400))
    assert not asked(job, hosts, tmp_path, "r1")["east"].compared
    hosts["east"].table = older(hosts["east"].table)
    assert asked(job, hosts, tmp_path, "r2")["east"].drifted


def test_the_thresholds_are_the_jobs(tmp_path):
    hosts = clinic.hosts(clinic.frames(400))
    told(clinic.job(retrain=RETRAIN), hosts, tmp_path, "r1")
    hosts["east"].table = older(hosts["east"].table)
    lenient = clinic.job(retrain={"when": "drift", "psi": 90, "ks": 1, "unseen": 1})
    found = asked(lenient, hosts, tmp_path, "r2")["east"]
    assert not found.drifted
    assert found.indices["psi"]["age"] > 0.2


def test_under_privacy_it_is_noisy_and_paid_once_a_night_however_often_it_is_asked(tmp_path):
    """A coordinator that asks again and again learns nothing more, and does not spend the ε."""
    job = clinic.job(retrain=RETRAIN, privacy=PRIVACY)
    hosts = clinic.hosts(clinic.frames(4000))
    east, now = hosts["east"], [1e9]
    east.clock = lambda: now[0]
    assert not asked(job, hosts, tmp_path, "r1")["east"].compared
    answers = []
    for night in range(3):
        now[0] += 24 * 3600
        for again in range(3):
            answers.append(asked(job, hosts, tmp_path, f"r2-{night}-{again}")["east"])
            now[0] += 60
    paid = {run: each for run, each in east.spends.items() if each}
    assert sorted(paid) == ["r1", "r2-0-0", "r2-1-0", "r2-2-0"]
    for booked in paid.values():
        ((_, mechanism, row),) = booked
        assert mechanism == "gaussian_drift"
        assert 0.98 < spent([row], 1e-3).epsilon_rdp <= 1.0
    assert answers[0] == answers[1] == answers[2]
    assert not any(each.drifted for each in answers)
    # A row that changes, their number being the same, does not show: the answer is the same one.
    east.table = older(east.table)
    assert asked(job, hosts, tmp_path, "r3")["east"] == answers[-1]
    now[0] += 24 * 3600
    assert asked(job, hosts, tmp_path, "r4")["east"].drifted


def test_a_row_more_is_another_question_and_is_paid_for(tmp_path):
    job = clinic.job(retrain=RETRAIN, privacy=PRIVACY)
    hosts = clinic.hosts(clinic.frames(400))
    asked(job, hosts, tmp_path, "r1")
    asked(job, hosts, tmp_path, "r2")
    hosts["east"].table = hosts["east"].table.iloc[1:]
    asked(job, hosts, tmp_path, "r3")
    assert sorted(run for run, each in hosts["east"].spends.items() if each) == ["r1", "r3"]


def test_what_was_counted_exactly_is_never_held_against_what_is_noisy(tmp_path):
    """The difference of both would be of exact rows, and cost nothing."""
    hosts = clinic.hosts(clinic.frames(400))
    told(clinic.job(retrain=RETRAIN), hosts, tmp_path, "r1")
    private = clinic.job(retrain=RETRAIN, privacy=PRIVACY)
    assert not asked(private, hosts, tmp_path, "r2")["east"].compared


def test_a_private_training_pays_nothing_for_its_reference(tmp_path):
    job = clinic.job(retrain=RETRAIN, privacy=PRIVACY)
    hosts = clinic.hosts(clinic.frames(400))
    now = [1e9]
    hosts["east"].clock = lambda: now[0]
    asked(job, hosts, tmp_path, "r1")
    told(job, hosts, tmp_path, "r2")  # tonight's spread is paid for
    assert hosts["east"].reserved("r2") == []
    assert asked(job, hosts, tmp_path, "r3")["east"].compared
    now[0] += 3 * 24 * 3600
    told(job, hosts, tmp_path, "r4")  # that of three days ago is no reference of today's training
    assert hosts["east"].reserved("r4") == []
    assert not asked(job, hosts, tmp_path, "r5")["east"].compared


def test_one_question_that_the_jobs_epsilon_cannot_pay_is_refused(tmp_path, monkeypatch):
    job = clinic.job(retrain=RETRAIN, privacy=PRIVACY)
    hosts = clinic.hosts(clinic.frames(400))

    def full(account, charge, admit):
        raise BudgetExhausted("the data set's budget is spent")

    monkeypatch.setattr(hosts["east"], "reserve", full)
    run = question(job, hosts, tmp_path, "r1")
    with pytest.raises(Exception, match="budget"):
        run.compare()
    assert hosts["east"].kept_spreads == {}


def test_a_job_without_the_section_is_not_answered(tmp_path):
    hosts = clinic.hosts(clinic.frames(400))
    run = question(clinic.job(), hosts, tmp_path, "r1")
    with pytest.raises(Exception, match="does not say that it trains"):
        run.compare()
