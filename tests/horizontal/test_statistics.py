import clinic
import numpy as np
import pandas as pd
import pytest

from consilo.horizontal.features import Encoding
from consilo.horizontal.statistics import Statistics

ROWS = clinic.frames(40, 25, 60)


def pooled(job):
    """The training rows of all silos, as numbers: the oracle."""
    encoding = Encoding.plan(clinic.contract(), job)
    kept = []
    for name, frame in ROWS.items():
        kept.append(clinic.learnt(frame, name, job))
    return encoding.raw_numeric(pd.concat(kept)), [each["ill"].to_numpy() for each in kept]


@pytest.fixture
def run(tmp_path):
    run = clinic.run_of(clinic.job(), clinic.hosts(ROWS), tmp_path)
    run.admit()
    return run


def test_count_mean_and_variance_equal_those_of_the_pooled_rows_gaps_and_all(run):
    summary = run.standardize()
    values, labels = pooled(run.job)
    assert np.isnan(values).any()
    np.testing.assert_array_equal(summary.moments.count, (~np.isnan(values)).sum(axis=0))
    np.testing.assert_allclose(summary.moments.mean, np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(summary.moments.variance, np.nanvar(values, axis=0), rtol=1e-12)
    assert list(summary.rows.values()) == [len(each) for each in labels]
    assert summary.class_counts == {
        name: tuple(np.bincount(each, minlength=2)) for name, each in zip(ROWS, labels, strict=True)
    }


def test_histograms_equal_those_of_the_pooled_rows(run):
    summary = run.standardize(bins=7)
    values, _ = pooled(run.job)
    for place, name in enumerate(summary.columns):
        known = values[:, place][~np.isnan(values[:, place])]
        edges = summary.edges[name].copy()
        assert summary.histogram[name].sum() == len(known)
        edges[[0, -1]] = -np.inf, np.inf
        np.testing.assert_array_equal(summary.histogram[name], np.histogram(known, edges)[0])


def test_the_global_scale_makes_the_pooled_training_rows_standard(run):
    run.standardize()
    values, _ = pooled(run.job)
    scaled = (values - run.state.scale.mean) / run.state.scale.deviation
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1, atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "expected"), [("silo", None), ("none", ([0, 0], [1, 1])), ("contract", ([60, 0.5],))]
)
def test_other_modes_take_nothing_from_the_statistics(mode, expected, tmp_path):
    job = clinic.job(features={"standardize": mode})
    run = clinic.run_of(job, clinic.hosts(ROWS), tmp_path)
    run.admit()
    run.standardize()
    if expected is None:
        assert run.state.scale is None
    else:
        assert run.state.scale.mean.tolist() == expected[0]
    assert run.train_round()["loss"] > 0


def test_a_column_that_nobody_has_does_no_harm(tmp_path):
    rows = {name: each.assign(age=np.nan) for name, each in ROWS.items()}
    run = clinic.trained(clinic.job(), clinic.hosts(rows), tmp_path)
    assert run.summary.moments.count[0] == 0
    assert run.state.scale.deviation[0] == 1


def test_a_regression_has_no_class_counts(tmp_path):
    job = clinic.job(task="regression", model="consilo.learners.tabular:LinearRegression")
    run = clinic.run_of(job, clinic.hosts(ROWS), tmp_path)
    run.admit()
    assert set(run.standardize().class_counts.values()) == {()}


def test_the_verbs_disclose_statistics_only():
    kinds = {kind for each in Statistics.verbs().values() for kind in each.disclosures}
    assert kinds == {"statistic"}
