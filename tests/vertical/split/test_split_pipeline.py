"""A split network over real silos: trained, judged, and its kept parts score the same rows."""

import hashlib

import joint
import numpy as np
import pandas as pd
import pytest

from consilo.kernel.headers import Header
from consilo.metrics import log_loss, roc_auc
from consilo.protocols.dispatch import answerer
from consilo.runs.vertical import run_vertical
from consilo.vertical.parts import Part
from consilo.vertical.split.plan import Plan, SplitSettings
from consilo.wire.payload import pack

pytestmark = pytest.mark.flow


def job_of(**args):
    return joint.job_of(
        protocol={"name": "vertical_split", "rounds": 3},
        args={"width": 3, "bottom": "consilo.learners.tabular:LinearRegression", **args},
        model="consilo.learners.tabular:LogisticRegression",
        local={"batch_size": 32, "lr": 0.3},
    )


def test_scores_of_held_out_rows_give_the_figures_that_they_were_judged_by(tmp_path):
    people = joint.everybody()
    federation = joint.Federation(joint.write_silos(tmp_path, people), tmp_path)
    job = job_of()
    run = federation.opened(job, "first")
    result = run_vertical(run)
    assert result.status == "complete", result.reason
    scoring = joint.job_of(
        name="joint-scores",
        kind="scoring",
        protocol={"name": "vertical_score", "rounds": 1},
        args={"model": "first"},
    )
    result = run_vertical(federation.opened(scoring, "scores"))
    assert result.status == "complete", result.reason
    place = federation.hosts["bank"].directory
    scores = pd.read_csv(place / "scores" / "scores.csv")
    settings = SplitSettings.model_validate(job.protocol.args)
    plan = Plan.of(job, settings, len(scores))
    held = scores.iloc[plan.held_out(plan.networks[0])]
    who = held["account"].str.removeprefix("ACC-").astype(int)
    truth = people["churned"].loc[who].to_numpy()
    odds = held["probability"].to_numpy()
    assert run.metrics["joined/roc_auc"] == pytest.approx(roc_auc(truth, odds), abs=1e-9)
    logits = np.log(odds / (1 - odds))
    assert run.metrics["joined/log_loss"] == pytest.approx(log_loss(truth, logits), abs=1e-5)
    assert set(run.references) == set(joint.COLUMNS)


def test_a_training_without_a_silo_goes_on_with_the_columns_there_are(tmp_path):
    federation = joint.Federation(joint.write_silos(tmp_path, joint.everybody()), tmp_path)
    job = job_of(missing_blocks="leave_out", folds=2, learning_rates={"telecom": 0.1})
    run = federation.opened(job, "first", online=("bank", "shop"))
    result = run_vertical(run)
    assert result.status == "degraded", result.reason
    assert set(run.references) == {"bank", "shop"}
    assert {"joined/roc_auc", "label_only/roc_auc", "shuffled/roc_auc"} < set(run.metrics)


class Killed(BaseException):
    """What ends a coordinator's process."""


@pytest.mark.slow
def test_a_run_whose_process_died_within_an_epoch_ends_in_the_same_weights(tmp_path):
    """By then silos have forgotten what they answered at the epoch's first steps."""
    silos = joint.write_silos(tmp_path, joint.everybody())
    federation = joint.Federation(silos, tmp_path)
    for name, place in silos.items():  # networks start from a run's secret: the same for both
        for run_id in ("whole", "died"):
            file = place / "secrets" / f"{hashlib.sha256(run_id.encode()).hexdigest()[:32]}.key"
            file.write_bytes(hashlib.sha256(name.encode()).digest())
    job = job_of(bits=8, controls=False).changed(local={"batch_size": 4})
    whole = run_vertical(federation.opened(job, "whole"))
    assert whole.status == "complete", whole.reason
    shop, embedded = answerer(federation.hosts["shop"]), []

    def dying(parcel):
        header = Header.decode(parcel.header)
        embedded.extend([header.round] if header.verb == "embed" else [])
        if embedded.count(2) == 20:
            raise Killed
        return shop(parcel)

    run = federation.opened(job, "died", answers={"shop": dying})
    for name in silos:
        run.check(name)
    run.admit()
    run.match()
    run.train_round()
    with pytest.raises(Killed):  # and nobody closes the run
        run.train_round()
    assert embedded.count(1) > 20
    result = run_vertical(federation.opened(job, "died", resume=True))
    assert result.status == "complete", result.reason
    assert result.metrics == whole.metrics
    for host in federation.hosts.values():
        models = [Part.from_bytes(host.parts.part(run_id)) for run_id in ("whole", "died")]
        assert pack(dict(models[0].content)) == pack(dict(models[1].content))
