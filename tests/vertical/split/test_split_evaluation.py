"""What a split network is worth: beside the label silo alone, beside a wrong join, by folds."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
import vertical

from consilo.vertical.blocks import folds_of
from consilo.vertical.parts import Part
from consilo.vertical.scoring import scorer_of
from consilo.vertical.split.plan import Plan, SplitSettings
from consilo.vertical.split.protocol import VerticalSplit

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1", "s2"), "telecom": ("t0", "t1")}
NAMES = tuple(name for names in COLUMNS.values() for name in names)
LINEAR = "consilo.learners.tabular:LogisticRegression"
MLP = {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [8]}}


def table(rows=90, seed=3):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, len(NAMES)))
    score = values[:, 0] + 1.5 * values[:, 3] + values[:, 5] + 0.7 * rng.logistic(size=rows)
    return pd.DataFrame(values, columns=list(NAMES)).assign(y=(score > 0).astype(int))


def job_of(**changes):
    args = {"width": 3, "bottom": MLP, **changes.pop("args", {})}
    changes = {
        "features": {"standardize": "none"},
        "local": {"batch_size": 16, "lr": 0.2},
        "protocol": {"rounds": 2},
        "model": LINEAR,
        **changes,
    }
    return vertical.job_of("vertical_split", COLUMNS, args=args, **changes)


def run(job, rows, classes=2):
    hosts = vertical.silos_of(rows, COLUMNS)
    for name, host in hosts.items():
        host.run_secrets["r"] = hashlib.sha256(name.encode()).digest()
    contract = vertical.contract_of(COLUMNS, classes=classes)
    found, exchanges = vertical.driven(job, contract, hosts)
    return found, exchanges, hosts


def weights(hosts):
    return {
        name: {
            key: value
            for key, value in Part.from_bytes(host.part("r")).content.items()
            if key.startswith("weights/")
        }
        for name, host in hosts.items()
    }


def plan_of(job, rows):
    return Plan.of(job, SplitSettings.model_validate(job.protocol.args), rows)


def outputs_of(hosts, rows):
    """What the kept parts say of rows, each silo's scorer in turn."""
    scorers = {n: scorer_of(Part.from_bytes(host.part("r"))) for n, host in hosts.items()}
    columns = {n: rows[list(held)].to_numpy(np.float32) for n, held in COLUMNS.items()}
    others = {n: each.outward(columns[n]) for n, each in scorers.items() if n != "bank"}
    return scorers["bank"].outputs(columns["bank"], others)


def test_a_wrong_join_is_worth_no_more_than_the_label_silo_alone():
    job = job_of(local={"batch_size": 64, "lr": 0.5}, protocol={"rounds": 8}, args={"folds": 2})
    metrics = run(job, table(900))[0].metrics
    gain = metrics["joined/roc_auc"] - metrics["label_only/roc_auc"]
    assert gain > 0.1
    assert metrics["shuffled/roc_auc"] < metrics["label_only/roc_auc"] + 0.1 * gain


@pytest.mark.parametrize("folds", [None, 3])
def test_networks_beside_the_final_one_do_not_change_it(folds):
    """With folds it learns from all rows, without them from what is not held out."""
    rows = table(60)
    alone, _, bare = run(job_of(args={"controls": False}), rows)
    among, exchanges, hosts = run(job_of(args={"folds": folds}), rows)
    assert {"joined/accuracy", "joined/log_loss", "joined/roc_auc"} <= set(alone.metrics)
    ways = {name.split("/")[0] for name in among.metrics}
    assert ways == {"joined", "label_only", "shuffled"}
    plan = plan_of(job_of(args={"folds": folds}), 60)
    assert len(exchanges) == 3 + 3 + 3 + 3 * plan.total + 3 + 3
    if folds is None:
        assert among.metrics["joined/log_loss"] == alone.metrics["joined/log_loss"]
        for name, each in weights(bare).items():
            other = weights(hosts)[name]
            assert all(np.array_equal(value, other[key]) for key, value in each.items()), name
    else:
        assert list(plan.learnt(plan.networks[0])) == list(range(60))
        assert plan.total == 2 * 4


def test_folds_are_judged_on_rows_that_their_network_did_not_see():
    job = job_of(args={"folds": 3})
    plan = plan_of(job, 50)
    folds = folds_of(50, 3)
    assert [each.name for each in plan.networks[:4]] == [
        "final",
        "joined-0",
        "joined-1",
        "joined-2",
    ]
    for network in plan.networks[1:]:
        held = plan.held_out(network)
        assert list(held) == list(np.flatnonzero(folds == network.held))
        for epoch in (1, 2):
            seen = [plan.batch(network, step) for step in plan.steps(epoch)]
            assert sorted(np.concatenate(seen)) == sorted(np.flatnonzero(folds != network.held))
        assert not np.array_equal(plan.batch(network, 1), plan.batch(network, 1 + plan.per_epoch))


def test_a_wrong_join_gives_each_row_one_other_row():
    plan = plan_of(job_of(), 50)
    (shuffled,) = [each for each in plan.networks if each.way == "shuffled"]
    places = np.arange(50)
    theirs = plan.theirs(shuffled, places)
    assert sorted(theirs) == list(range(50))
    assert (theirs != places).mean() > 0.8
    assert np.array_equal(plan.theirs(plan.networks[0], places), places)


def test_every_row_is_trained_on_once_an_epoch_and_never_held_out():
    plan = plan_of(job_of(), 90)
    for network in plan.networks:
        for epoch in (1, 2):
            seen = np.concatenate([plan.batch(network, step) for step in plan.steps(epoch)])
            assert sorted(seen) == list(range(72))
        assert list(plan.held_out(network)) == list(range(72, 90))


def test_label_only_is_the_label_silos_network_alone():
    """Trained here by plain torch from the same start: the same loss on the held-out rows."""
    from consilo.kernel import seeds
    from consilo.learners.modules import build_model

    rows, job = table(60), job_of()
    found, _, hosts = run(job, rows)
    secret = hosts["bank"].run_secrets["r"].hex()

    def built(spec, inputs, outputs, purpose):
        seed = seeds.seed32(secret, "vertical_split", purpose)
        named = {"class": spec["name"], "args": spec["args"]}
        return build_model(named, num_inputs=inputs, num_outputs=outputs, seed=seed)

    net = torch.nn.Sequential(
        built(MLP, 2, 3, "bottom"), built({"name": LINEAR, "args": {}}, 3, 1, "top")
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    features = torch.tensor(rows[["b0", "b1"]].to_numpy(np.float32))
    targets = torch.tensor(rows["y"].to_numpy(np.float32))
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    plan = plan_of(job, 60)
    (network,) = [each for each in plan.networks if each.way == "label_only"]
    for step in range(1, plan.total + 1):
        batch = torch.tensor(plan.batch(network, step))
        optimizer.zero_grad()
        loss_of(net(features[batch])[:, 0], targets[batch]).backward()
        optimizer.step()
    held = torch.tensor(plan.held_out(network))
    loss = loss_of(net(features[held])[:, 0], targets[held]).item()
    assert found.metrics["label_only/log_loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "custom"])
def test_kept_parts_score_held_out_rows_as_they_were_judged(task):
    rows, classes = table(80), {"binary": 2, "multiclass": 3}.get(task)
    changes = {}
    if task == "multiclass":
        rows = rows.assign(y=np.digitize(rows["b0"] + rows["s0"], [-0.5, 0.5]))
    if task in ("regression", "custom"):
        rows = rows.assign(y=rows["b0"] - 2 * rows["t1"])
    if task == "custom":
        changes = {"loss": "torch.nn.functional:mse_loss", "outputs": 1}
    job = job_of(task=task, args={"clip": 2.0}, **changes)
    found, _, hosts = run(job, rows, classes=classes)
    held = rows.iloc[plan_of(job, 80).held_out(plan_of(job, 80).networks[0])]
    outputs, truth = outputs_of(hosts, held), held["y"].to_numpy()
    if task == "binary":
        loss = np.mean(np.logaddexp(0, np.where(truth == 1, -outputs, outputs)))
        assert found.metrics["joined/log_loss"] == pytest.approx(loss, abs=1e-6)
    elif task == "multiclass":
        assert found.metrics["joined/accuracy"] == np.mean(outputs.argmax(1) == truth)
    elif task == "regression":
        rmse = np.sqrt(np.mean((outputs - truth) ** 2))
        assert found.metrics["joined/rmse"] == pytest.approx(rmse, abs=1e-5)
    else:
        loss = np.mean((outputs[:, 0] - truth) ** 2)
        assert found.metrics["joined/loss"] == pytest.approx(loss, abs=1e-5)


def test_the_protocol_says_what_it_can_be_asked():
    assert set(VerticalSplit.label_verbs) | set(VerticalSplit.feature_verbs) < set(
        VerticalSplit.verbs()
    )
