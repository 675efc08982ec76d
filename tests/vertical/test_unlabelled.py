"""A target that may be empty: rows without a label keep their place in the match, teach nothing.

Case A21: a contract allowed gaps in the target, and then each silo was left out for having them.
"""

import dataclasses
from pathlib import Path

import boosted
import joint
import numpy as np
import pandas as pd
import pytest
import torch
import vertical
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from consilo.errors import IncompatibleJob, Refused
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.verbs import Disclosure, Permitted
from consilo.kernel.view import SiloView
from consilo.record.run_record import read
from consilo.runs.vertical import run_vertical
from consilo.vertical.blocks import block_of, folds_of
from consilo.vertical.linear.protocol import VerticalLinear
from consilo.vertical.parts import Part
from consilo.vertical.split.plan import Plan, SplitSettings
from consilo.vertical.split.protocol import VerticalSplit

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1", "s2"), "telecom": ("t0", "t1")}
NAMES = tuple(name for names in COLUMNS.values() for name in names)
MLP = {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [5]}}


def with_gaps(rows, *, every=4):
    """The same rows, every ``every``-th without a label, whatever the fold."""
    gaps = np.random.default_rng(9).permutation(len(rows))[: len(rows) // every]
    kind = "Int64" if rows["y"].dtype.kind in "iu" else "float64"
    target = rows["y"].astype(kind)
    target.iloc[gaps] = pd.NA if kind == "Int64" else np.nan
    return rows.assign(y=target), np.isin(np.arange(len(rows)), gaps, invert=True)


def table(rows=400, *, seed=1, task="binary"):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, len(NAMES)))
    score = values @ rng.normal(size=len(NAMES)) + rng.logistic(size=rows)
    y = (score > 0).astype(int) if task == "binary" else score
    return pd.DataFrame(values, columns=list(NAMES)).assign(y=y)


def driven(name, rows, task="binary", columns=COLUMNS, **changes):
    hosts = vertical.silos_of(rows, columns)
    for silo, host in hosts.items():
        host.run_secrets.setdefault("r", silo.encode().ljust(32))
    contract = vertical.contract_of(columns, classes=2 if task == "binary" else None)
    job = vertical.job_of(name, columns, task=task, **changes)
    found, exchanges = vertical.driven(job, contract, hosts)
    return found, exchanges, hosts


def part(hosts, name):
    return Part.from_bytes(hosts[name].part("r")).content


def standard(rows):
    values = rows[list(NAMES)].to_numpy()
    return (values - values.mean(0)) / values.std(0)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_linear_model_is_that_of_the_rows_with_a_label(task):
    rows, known = with_gaps(table(task=task))
    found, _, hosts = driven("vertical_linear", rows, task)
    inputs, labels = standard(rows), rows["y"].to_numpy(np.float64, na_value=np.nan)
    if task == "binary":
        pooled = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    else:
        pooled, labels = Ridge(alpha=1.0), np.float32(labels)
    pooled.fit(inputs[known], labels[known])
    weights = np.concatenate([part(hosts, name)["weights"] for name in COLUMNS])
    assert weights == pytest.approx(np.ravel(pooled.coef_), abs=1e-5)
    assert (found.rows, found.unlabelled) == (400, 100)
    if task == "binary":
        aucs, folds = [], folds_of(400, 5)
        for fold in range(5):
            seen, held = known & (folds != fold), known & (folds == fold)
            model = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000)
            model.fit(inputs[seen], labels[seen])
            aucs.append(roc_auc_score(labels[held], model.decision_function(inputs[held])))
        assert found.metrics["joined/roc_auc"] == pytest.approx(np.mean(aucs), abs=1e-6)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_trees_are_those_of_the_rows_with_a_label(task):
    """A label that is missing weighs as nothing: the same trees with any number in its place."""
    rows, known = with_gaps(boosted.table(600, task=task))
    found, hosts = boosted.run(rows, task)
    assert (found.rows, found.unlabelled) == (600, 150)
    # The oracle: the label silo's view of a tree's leaves, worked out from labelled rows alone.
    labels = rows["y"].to_numpy(np.float64, na_value=np.nan)
    base = part(hosts, "bank")["base"]
    mean = labels[known].mean()
    expected = np.log(mean / (1 - mean)) if task == "binary" else np.float32(labels[known]).mean()
    assert base == pytest.approx(expected, rel=1e-5)
    scored = boosted.scored(hosts, task)
    assert len(scored) == 600
    assert np.isfinite(scored.iloc[:, -1]).all()
    if task == "binary":
        said = scored["probability"].to_numpy()
        assert roc_auc_score(labels[known], said[known]) > 0.85


def test_trees_do_not_change_with_what_stands_in_a_row_without_a_label():
    """Its other columns cannot move a bin's edge where all values have bins of their own."""
    rows, known = with_gaps(boosted.table(300).round(0))
    other = rows.copy()
    other.loc[~known, list(boosted.NAMES)] = rows.loc[~known, list(boosted.NAMES)].to_numpy()[::-1]
    models = []
    for each in (rows, other):
        _, hosts = boosted.run(each, features={"standardize": "none"})
        models.append({name: part(hosts, name) for name in boosted.COLUMNS})
    for name in boosted.COLUMNS:
        for key, value in models[0][name].items():
            assert np.array_equal(value, models[1][name][key]), (name, key)


def test_secure_trees_are_the_plain_ones_and_do_not_say_which_rows_have_no_label():
    rows, _ = with_gaps(boosted.table(240))
    few = {"protocol": {"rounds": 2}}
    args = {"judged_folds": 1, "max_bins": 6, "depth": 2, "min_rows": 1}
    plain, others = boosted.run(rows, args=args, **few)
    found, hosts = boosted.run(rows, args=args | {"histograms": "secure"}, **few)
    assert found.metrics == pytest.approx(plain.metrics, abs=1e-9)
    for silo in boosted.COLUMNS:
        for name, value in part(others, silo).items():
            assert part(hosts, silo)[name] == pytest.approx(value, abs=1e-12), (silo, name)
    told = vertical_state(hosts["shop"], "numbers-0")
    used = np.array([np.unpackbits(bits, count=240) for bits in told["used"]]).astype(bool)
    assert used[0].all()  # the model of all rows: a ciphertext for each, labelled or not
    assert np.array_equal(used[1], folds_of(240, 3) != 0)


def vertical_state(host, name):
    from consilo.wire.payload import unpack

    return unpack(host.state["r", name])["value"]


def test_a_split_network_learns_what_the_joined_one_learns_from_rows_with_a_label():
    rows, known = with_gaps(table(90))
    args = {"width": 3, "bottom": MLP, "controls": False}
    changes = {
        "features": {"standardize": "none"},
        "local": {"batch_size": 16, "lr": 0.2, "momentum": 0.9},
        "protocol": {"rounds": 2},
        "model": MLP,
        "args": args,
    }
    found, _, hosts = driven("vertical_split", rows, **changes)
    job = vertical.job_of("vertical_split", COLUMNS, **changes)
    plan = Plan.of(job, SplitSettings.model_validate(job.protocol.args), len(rows))
    bottoms = {n: module(h, "bottom", len(COLUMNS[n]), 3) for n, h in hosts.items()}
    top = module(hosts["bank"], "top", 9, 1)
    both = [p for part_ in (*bottoms.values(), top) for p in part_.parameters()]
    joined = torch.optim.SGD(both, lr=0.2, momentum=0.9)
    for step in range(1, plan.total + 1):
        places = plan.batch(plan.networks[0], step)
        batch = rows.iloc[places[known[places]]]
        parts = [
            each(torch.tensor(batch[list(COLUMNS[name])].to_numpy(np.float32)))
            for name, each in bottoms.items()
        ]
        joined.zero_grad()
        targets = torch.tensor(batch["y"].to_numpy(np.float32))
        outputs = top(torch.cat(parts, dim=1))[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets).backward()
        joined.step()
    for name in ("shop", "telecom"):
        mine = part(hosts, name)
        for key, value in bottoms[name].state_dict().items():
            assert np.allclose(mine[f"weights/{key}"], value, atol=1e-6), (name, key)
    held = plan.held_out(plan.networks[0])
    assert 0 < known[held].sum() < len(held)
    assert found.unlabelled == 22
    assert "joined/roc_auc" in found.metrics


def module(host, purpose, inputs, outputs):
    from consilo.kernel import seeds
    from consilo.learners.modules import build_model

    seed = seeds.seed32(host.run_secrets["r"].hex(), "vertical_split", purpose)
    spec = {"class": MLP["name"], "args": MLP["args"]}
    return build_model(spec, num_inputs=inputs, num_outputs=outputs, seed=seed)


def test_a_batch_without_any_label_teaches_nothing():
    rows, _ = with_gaps(table(60), every=2)
    rows["y"] = pd.Series([0, 1] * 8 + [None] * 44, dtype="Int64")
    found, _, hosts = driven(
        "vertical_split",
        rows,
        local={"batch_size": 2, "lr": 0.1},
        protocol={"rounds": 1},
        model=MLP,
        args={"width": 2, "bottom": MLP, "folds": 2},
    )
    assert found.unlabelled == 44
    for name in COLUMNS:
        assert all(np.isfinite(v).all() for n, v in part(hosts, name).items() if n != "about")


PRIVATE = {"epsilon": 4.0, "delta": 1e-3, "accountant": "rdp", "reproducible": True}


def test_where_rows_are_hidden_nobody_is_told_how_many_have_no_label():
    rows, _ = with_gaps(table(90))
    changes = {
        "features": {"standardize": "none"},
        "local": {"batch_size": 30, "lr": 0.1},
        "protocol": {"rounds": 1},
        "model": MLP,
        "privacy": PRIVATE,
        "args": {"width": 2, "bottom": MLP, "clip": 1.0},
    }
    found, _, _ = driven("vertical_split", rows, **changes)
    assert (found.rows, found.unlabelled) == (90, 0)
    contract = vertical.contract_of(COLUMNS)
    column = contract.columns["y"].model_copy(update={"nullable_share": 0.5})
    contract = contract.model_copy(update={"columns": {**contract.columns, "y": column}})
    job = vertical.job_of(
        "vertical_split", COLUMNS, **changes | {"privacy": PRIVATE | {"metrics_epsilon": 1.0}}
    )
    with pytest.raises(IncompatibleJob, match="metrics_epsilon: 'y' of joint@1 may be empty"):
        VerticalSplit.from_job(job).require_fit(contract)


@pytest.mark.parametrize("protocol", ["vertical_linear", "vertical_trees", "vertical_split"])
def test_too_few_labels_are_no_training(protocol):
    rows = table(60).assign(y=pd.Series([0, 1] * 4 + [None] * 52, dtype="Int64"))
    extra = {"model": MLP} if protocol == "vertical_split" else {}
    with pytest.raises(Refused, match="fewer than 10 have a label"):
        driven(protocol, rows, protocol={"rounds": 2}, **extra)


def test_a_policys_floor_counts_rows_with_a_label():
    rows, known = with_gaps(table(60))
    host = vertical.silos_of(rows, COLUMNS)["bank"]
    contract = vertical.contract_of(COLUMNS)
    job = vertical.job_of("vertical_linear", COLUMNS)
    about = ("r", "0/0/x", "", 0, "bank", "vertical_linear", "x", tuple(COLUMNS))
    view = SiloView(host, job, contract, Header(*about, Manifest.of("r", job, contract, "")))
    for floor, fits in ((int(known.sum()), True), (int(known.sum()) + 1, False)):
        strict = dataclasses.replace(
            view, permitted=Permitted(floors={Disclosure.STATISTIC: floor})
        )
        settings = VerticalLinear.from_job(job).settings
        if fits:
            assert len(block_of(strict, settings)) == 60
        else:
            with pytest.raises(Refused, match="rows or more only"):
                block_of(strict, settings)


@pytest.mark.flow
def test_silos_on_disk_train_with_gaps_and_score_them(tmp_path, monkeypatch):
    gaps = {**joint.JOINT["columns"]["churned"], "nullable_share": 0.5}
    columns = {**joint.JOINT["columns"], "churned": gaps}
    monkeypatch.setitem(joint.JOINT, "columns", columns)
    people = joint.everybody()
    people["churned"] = people["churned"].astype("Int64")
    people.loc[people.index % 3 == 0, "churned"] = pd.NA
    silos = joint.write_silos(tmp_path, people)
    federation = joint.Federation(silos, tmp_path)
    result = run_vertical(federation.opened(joint.job_of(), "first"))
    assert result.status == "complete", result.reason
    (judged,) = [e["body"] for e in read(Path(result.record)) if e["kind"] == "evaluated"]
    assert 0 < judged["unlabelled"] < judged["rows"]
    assert result.extra["unlabelled"] == judged["unlabelled"]
    assert {each.num_examples for each in result.silos.values()} == {
        judged["rows"] - judged["unlabelled"]
    }
    args = {"model": "first"}
    scoring = joint.job_of(
        name="joint-scores",
        kind="scoring",
        protocol={"name": "vertical_score", "rounds": 1},
        match=None,
        args=args,
    )
    scores = run_vertical(federation.opened(scoring, "scores"))
    assert scores.status == "complete", scores.reason
    table_ = pd.read_csv(silos["bank"] / "scores" / "scores.csv")
    assert len(table_) == judged["rows"]
    assert table_["probability"].notna().all()
