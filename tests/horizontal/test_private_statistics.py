"""Differentially private statistics: clipped, noisy, paid from the job's ε and the account."""

import clinic
import numpy as np
import pytest

from consilo.errors import BudgetExhausted, IncompatibleJob, JobInvalid, Refused
from consilo.privacy.accounting import spent

ROWS = clinic.frames(400, 300)
PRIVACY = {"epsilon": 3.0, "delta": 1e-3, "accountant": "rdp", "statistics_epsilon": 1.0}
OPEN = clinic.CONTRACT.replace("range: {min: 0, max: 120}, ", "")


def job(**changes):
    privacy = {**PRIVACY, **changes.pop("privacy", {})}
    return clinic.job(privacy=privacy, local={"steps": 4}, **changes)


def standardized(path, private, *, rows=ROWS, bins=0, run_id="r1", hosts=None):
    hosts = hosts or clinic.hosts(rows)
    run = clinic.run_of(private, hosts, path, run_id=run_id)
    run.admit()
    return run.standardize(bins=bins), hosts, run


def test_figures_are_near_the_exact_ones_and_not_the_exact_ones(tmp_path):
    exact, _, _ = standardized(tmp_path / "exact", clinic.job())
    noisy, _, _ = standardized(tmp_path / "noisy", job())
    assert noisy.rows == exact.rows
    assert (noisy.moments.mean != exact.moments.mean).all()
    np.testing.assert_allclose(noisy.moments.mean, exact.moments.mean, atol=0.15 * 60)
    np.testing.assert_allclose(noisy.moments.variance[0], exact.moments.variance[0], rtol=0.5)
    for name in ROWS:
        told, true = noisy.class_counts[name], exact.class_counts[name]
        assert all(abs(a - b) < 60 for a, b in zip(told, true, strict=True))


def test_a_job_with_much_budget_gets_nearly_the_exact_figures(tmp_path):
    exact, _, _ = standardized(tmp_path / "exact", clinic.job())
    rich = job(privacy={"epsilon": 45.0, "statistics_epsilon": 40.0})
    noisy, _, _ = standardized(tmp_path / "noisy", rich)
    np.testing.assert_allclose(noisy.moments.mean, exact.moments.mean, rtol=0.05)
    np.testing.assert_allclose(noisy.moments.count, exact.moments.count, atol=8)
    np.testing.assert_allclose(noisy.moments.variance, exact.moments.variance, rtol=0.1)


def test_what_lies_outside_the_contracts_ranges_counts_as_their_end(tmp_path):
    rich = job(privacy={"epsilon": 45.0, "statistics_epsilon": 40.0})
    rows = {name: each.assign(age=1e12) for name, each in ROWS.items()}
    noisy, _, _ = standardized(tmp_path, rich, rows=rows)
    assert noisy.moments.mean[0] == pytest.approx(120, rel=0.05)


def test_statistics_and_training_together_cost_no_more_than_the_jobs_epsilon(tmp_path):
    hosts = clinic.hosts(ROWS)
    run = clinic.trained(job(), hosts, tmp_path)
    for name, host in hosts.items():
        booked = host.reserved("r1")
        assert [mechanism for mechanism, _ in booked] == ["gaussian_sums", *["dp_sgd"] * 3]
        (_, sums), *_ = booked
        assert sums[1:] == (1.0, 1)
        assert 0.98 < spent([sums], 1e-3).epsilon_rdp <= 1.0
        whole = spent([row for _, row in booked], 1e-3).epsilon_rdp
        assert 0.98 * 3.0 < whole <= 3.0
        assert run.rounds[-1]["silos"][name]["epsilon"] == whole
    assert run.rounds[0]["silos"]["east"]["epsilon"] > 1.0


def test_training_that_paid_for_no_statistics_has_all_of_the_epsilon(tmp_path):
    """Calibration takes what was booked, not what the job says that might be."""
    hosts = clinic.hosts(ROWS)
    run, with_statistics = clinic.run_of(job(), hosts, tmp_path / "a"), {}
    run.admit()
    run.standardize()
    run.train_round()
    with_statistics = {n: h.reserved("r1")[-1][1][0] for n, h in hosts.items()}
    for host in hosts.values():
        host.spends.clear()
        host.replies.clear()
    run.train_round()
    assert all(h.reserved("r1")[-1][1][0] < with_statistics[n] for n, h in hosts.items())


def test_asked_again_the_answer_is_the_same_and_is_paid_once(tmp_path):
    first, hosts, _ = standardized(tmp_path / "a", job())
    for host in hosts.values():
        host.replies.clear()
    again, _, _ = standardized(tmp_path / "b", job(), hosts=hosts)
    assert again.moments.mean.tobytes() == first.moments.mean.tobytes()
    assert all(len(host.reserved("r1")) == 1 for host in hosts.values())
    other, _, _ = standardized(tmp_path / "c", job(), hosts=hosts, run_id="r2")
    assert (other.moments.mean != first.moments.mean).all()


def test_other_rows_under_the_same_question_are_paid_for_again(tmp_path):
    """The rows changed and the answer has lapsed: the difference would tell of the change."""
    _, hosts, _ = standardized(tmp_path / "a", job())
    for host in hosts.values():
        host.replies.clear()
        host.table = host.table.iloc[9:]
    standardized(tmp_path / "b", job(), hosts=hosts)
    assert all(len(host.reserved("r1")) == 2 for host in hosts.values())


def test_histograms_are_noisy_and_paid_for_too(tmp_path):
    exact, _, _ = standardized(tmp_path / "exact", clinic.job(), bins=5)
    noisy, hosts, _ = standardized(tmp_path / "noisy", job(), bins=5)
    for host in hosts.values():
        assert [m for m, _ in host.reserved("r1")] == ["gaussian_sums", "gaussian_histogram"]
    for name, counts in noisy.histogram.items():
        assert (counts != exact.histogram[name]).any()
        assert (counts >= 0).all()
        assert abs(counts.sum() - exact.histogram[name].sum()) < 200


def test_without_moments_only_the_class_counts_are_noisy_and_cost_the_same(tmp_path):
    private = job(features={"standardize": "contract"})
    summary, hosts, _ = standardized(tmp_path, private)
    exact, _, _ = standardized(tmp_path / "exact", clinic.job())
    assert summary.class_counts != exact.class_counts
    assert all(len(host.reserved("r1")) == 1 for host in hosts.values())


def test_a_contract_without_ranges_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(IncompatibleJob, match=r"range with min and max .* gives none for age"):
        clinic.run_of(job(), clinic.hosts(ROWS), tmp_path, contract_=clinic.contract(OPEN))


def test_a_silo_too_refuses_a_contract_without_ranges(tmp_path):
    """The coordinator's plan did not: the class counts need no ranges, the moments do."""
    private = job(features={"standardize": "none"})
    run = clinic.run_of(private, clinic.hosts(ROWS), tmp_path, contract_=clinic.contract(OPEN))
    run.admit()
    with pytest.raises(Refused, match=r"refused: .* gives none for age"):
        run.standardize(bins=4)


def test_the_questions_of_one_run_stay_within_its_epsilon(tmp_path):
    """Two questions at ε 2.9 of 3: the second one is refused."""
    greedy = job(privacy={"statistics_epsilon": 2.9})
    with pytest.raises(BudgetExhausted, match=r"budget_exhausted: .* the job allows 3"):
        standardized(tmp_path, greedy, bins=4)


def test_statistics_are_a_part_of_epsilon():
    with pytest.raises(JobInvalid, match="must be below epsilon"):
        job(privacy={"statistics_epsilon": 3.0})


def test_a_job_without_the_key_reads_as_before():
    plain = clinic.job(privacy={"epsilon": 3.0, "delta": 1e-3})
    assert "statistics_epsilon" not in plain.to_json()["privacy"]
    assert job().from_json(job().to_json()) == job()
