"""A split network learns a standardised target, whose scale stays in the label silo."""

import numpy as np
import pytest
from test_split_evaluation import job_of, outputs_of, plan_of, run, table

from consilo.errors import IncompatibleJob
from consilo.vertical.parts import Part
from consilo.vertical.scoring import told

REGRESSION = {
    "task": "regression",
    "model": "consilo.learners.tabular:LinearRegression",
    "local": {"batch_size": 16, "lr": 0.1},
    "protocol": {"rounds": 6},
}


def rows_of(factor=1.0, offset=0.0):
    rows = table(200)
    score = rows["b0"] - 2 * rows["t1"] + rows["s1"]
    return rows.assign(y=factor * score + offset)


@pytest.mark.parametrize(("factor", "offset"), [(3.0, 10.0), (1e6, 0.0), (1.0, 1e8)])
def test_a_target_in_other_units_gives_the_same_parts(factor, offset):
    """A numeric target of 0 to 20 made a split job diverge."""
    plain, other = (
        run(job_of(**REGRESSION), each, None) for each in (rows_of(), rows_of(factor, offset))
    )
    assert plain[0].metrics["joined/r2"] > 0.8
    assert other[0].metrics["joined/r2"] == pytest.approx(plain[0].metrics["joined/r2"], abs=1e-3)
    assert other[0].metrics["joined/rmse"] == pytest.approx(
        factor * plain[0].metrics["joined/rmse"], rel=1e-2
    )
    rows = rows_of()
    scores = [outputs_of(each[2], rows) for each in (plain, other)]
    assert np.allclose(scores[1], factor * scores[0] + offset, atol=0.02 * factor)


def test_scores_are_in_the_targets_units_and_its_scale_stays_in_the_label_silo():
    rows = rows_of(4.0, 100.0)
    found, _, hosts = run(job_of(**REGRESSION), rows, None)
    part = Part.from_bytes(hosts["bank"].part("r"))
    column = told(part, outputs_of(hosts, rows))["prediction"]
    held = plan_of(job_of(**REGRESSION), 200)
    places = held.held_out(held.networks[0])
    rmse = np.sqrt(np.mean((column[places] - rows["y"].to_numpy()[places]) ** 2))
    assert found.metrics["joined/rmse"] == pytest.approx(rmse, abs=1e-4)
    assert b'"target"' in part.content["about"].tobytes()
    for name in ("shop", "telecom"):
        assert b"target" not in Part.from_bytes(hosts[name].part("r")).content["about"].tobytes()


def test_the_target_may_be_learnt_as_it_is():
    features = {"standardize": "none", "standardize_target": "none"}
    job = job_of(**REGRESSION, features=features)
    part = Part.from_bytes(run(job, rows_of(), None)[2]["bank"].part("r"))
    assert b'"target"' not in part.content["about"].tobytes()


@pytest.mark.parametrize("name", ["vertical_linear", "vertical_trees"])
def test_what_is_the_same_in_any_units_does_not_read_the_key(name):
    import vertical
    from test_split_evaluation import COLUMNS

    from consilo.protocols.names import find_protocol
    from consilo.runs.planning.unread import unread

    features = {"standardize_target": "global"}
    job = vertical.job_of(name, COLUMNS, task="regression", model=None, features=features)
    faults = unread(job, find_protocol(name))
    (fault,) = [each for each in faults if "features.standardize_target" in each]
    assert "vertical_split" in fault


def test_with_privacy_it_is_by_the_contracts_range():
    import vertical
    from test_split_evaluation import COLUMNS

    from consilo.horizontal.scaling import target_mode

    job = job_of(**REGRESSION, privacy={"epsilon": 2.0, "delta": 1e-5}, args={"clip": 1.0})
    contract = vertical.contract_of(COLUMNS, classes=None)
    with pytest.raises(IncompatibleJob, match="with privacy, the target is standardised by its"):
        target_mode(job, contract, own_loss=False)
