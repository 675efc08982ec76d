"""The split network: one joined network, cut; what its gradients tell, what noise does to them."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import vertical

from consilo.errors import IncompatibleJob, JobInvalid, MatchUnusable, Refused
from consilo.kernel import seeds
from consilo.kernel.headers import Header
from consilo.kernel.verbs import Disclosure
from consilo.kernel.view import SiloView
from consilo.learners.modules import build_model
from consilo.metrics import roc_auc
from consilo.privacy.accounting import spent
from consilo.vertical import turns
from consilo.vertical.blocks import block_of
from consilo.vertical.parts import Part
from consilo.vertical.split.cut_layer import restored
from consilo.vertical.split.layers import clipped
from consilo.vertical.split.plan import Plan, SplitSettings
from consilo.vertical.split.protocol import VerticalSplit
from consilo.vertical.split.state import Shelf
from consilo.wire.payload import unpack
from silos.simulation.in_memory import InMemorySilo

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1", "s2"), "telecom": ("t0", "t1")}
NAMES = tuple(name for names in COLUMNS.values() for name in names)
WIDTH = 3
MLP = "consilo.learners.tabular:MLP"
SMALL = {"name": MLP, "args": {"hidden": [5]}}
PRIVATE = {"epsilon": 4.0, "delta": 1e-3, "accountant": "rdp", "reproducible": True}


def table(rows=90, seed=3):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, len(NAMES)))
    labels = (values[:, 0] + 2 * values[:, 2] * values[:, 5] + values[:, 3] > 0).astype(int)
    return pd.DataFrame(values, columns=list(NAMES)).assign(y=labels)


def job(**changes):
    controls = None if "privacy" in changes else False
    args = {"width": WIDTH, "bottom": SMALL, "controls": controls, **changes.pop("args", {})}
    changes = {
        "features": {"standardize": "none"},
        "local": {"batch_size": 16, "lr": 0.2},
        "protocol": {"rounds": 2},
        "model": SMALL,
        **changes,
    }
    return vertical.job_of("vertical_split", COLUMNS, args=args, **changes)


def run(job_, rows, hosts=None, transport=None):
    hosts = hosts or vertical.silos_of(rows, COLUMNS)
    for name, host in hosts.items():
        host.run_secrets.setdefault("r", hashlib.sha256(name.encode()).digest())
    contract = vertical.contract_of(COLUMNS)
    found, exchanges = vertical.driven(job_, contract, hosts, transport=transport)
    return found, exchanges, hosts


def net(host):
    """The silo's part of the final network, by name."""
    content = Part.from_bytes(host.part("r")).content
    names = [name for name in content if name.startswith("weights/")]
    return {name.removeprefix("weights/"): torch.tensor(content[name]) for name in names}


def plan_of(job_, rows):
    settings = SplitSettings.model_validate(job_.protocol.args)
    return Plan.of(job_, settings, rows)


def module(host, purpose, inputs, outputs):
    seed = seeds.seed32(host.run_secrets["r"].hex(), "vertical_split", purpose)
    spec = {"class": MLP, "args": {"hidden": [5]}}
    return build_model(spec, num_inputs=inputs, num_outputs=outputs, seed=seed)


@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}])
def test_parts_learn_what_the_joined_network_learns(optimizer):
    """Weights after two epochs agree to 1e-6, with a learning rate of its own per silo."""
    rows = table()
    local = {"batch_size": 16, "lr": 0.2, **optimizer}
    job_ = job(local=local, args={"learning_rates": {"shop": 0.05}})
    found, exchanges, hosts = run(job_, rows)
    bottoms = {
        name: module(host, "bottom", len(COLUMNS[name]), WIDTH) for name, host in hosts.items()
    }
    top = module(hosts["bank"], "top", 3 * WIDTH, 1)
    kind = torch.optim.Adam if "optimizer" in optimizer else torch.optim.SGD
    extra = {"momentum": 0.9} if "momentum" in optimizer else {}
    groups = [
        {"params": list(part.parameters()), "lr": 0.05 if name == "shop" else local["lr"]}
        for name, part in (*bottoms.items(), ("top", top))
    ]
    joint = kind(groups, **extra)
    plan = plan_of(job_, len(rows))
    for step in range(1, plan.total + 1):
        batch = rows.iloc[plan.batch(plan.networks[0], step)]
        parts = [
            part(torch.tensor(batch[list(COLUMNS[name])].to_numpy(np.float32)))
            for name, part in bottoms.items()
        ]
        joint.zero_grad()
        outputs = top(torch.cat(parts, dim=1))[:, 0]
        targets = torch.tensor(batch["y"].to_numpy(np.float32))
        torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets).backward()
        joint.step()
    for name in ("shop", "telecom"):
        for key, value in net(hosts[name]).items():
            assert torch.allclose(value, bottoms[name].state_dict()[key], atol=1e-6), (name, key)
    label = net(hosts["bank"])
    for prefix, part in (("bottom", bottoms["bank"]), ("top", top)):
        for key, value in part.state_dict().items():
            assert torch.allclose(label[f"{prefix}.{key}"], value, atol=1e-6), (prefix, key)
    assert len(exchanges) == 3 + 3 + 3 + 3 * plan.total + 3 + 3
    assert found.facts == {"batches": plan.total, "held_out": 18}
    assert plan.total == 2 * -(-72 // 16)
    assert set(found.references) == set(COLUMNS)


def test_a_step_that_is_asked_again_learns_once():
    rows, nets = table(40), []
    for times in (1, 3):
        hosts = vertical.silos_of(rows, COLUMNS)
        for host in hosts.values():
            host.keep_replies = False
        answers = {n: again(vertical.answerer(host), times) for n, host in hosts.items()}
        run(job(), rows, hosts, vertical.LocalTransport(answers))
        nets.append({name: net(host) for name, host in hosts.items()})
    for name, first in nets[0].items():
        assert all(torch.equal(value, nets[1][name][key]) for key, value in first.items())


def again(answer, times):
    return lambda parcel: [answer(parcel) for _ in range(times)][-1]


def test_another_question_about_a_step_that_is_done_is_refused():
    """It would get further noise around the same embedding, which nobody has paid for."""
    rows = table(40)
    hosts = vertical.silos_of(rows, COLUMNS)
    held = {}

    def listening(parcel):
        header = Header.decode(parcel.header)
        held[header.scope] = header
        return answer(parcel)

    answer = vertical.answerer(hosts["shop"])
    answers = {n: vertical.answerer(host) for n, host in hosts.items()} | {"shop": listening}
    run(job(), rows, hosts, vertical.LocalTransport(answers))
    header = held[[scope for scope in held if scope.endswith("embed")][-1]]
    plan = plan_of(job(), 40)
    view = SiloView(
        hosts["shop"], job(), vertical.contract_of(COLUMNS), replace(header, scope="0/99/embed")
    )
    shelf = Shelf(view, plan.per_epoch)
    with pytest.raises(Refused, match="already"):
        shelf.keep(plan.total, np.zeros(1, np.uint8))


def test_clipped_rows_are_no_longer_than_the_limit():
    rows = torch.randn(50, 4) * 3
    short = clipped(rows, 1.0)
    assert (short.norm(dim=1) <= 1 + 1e-6).all()
    inside = rows.norm(dim=1) <= 1
    assert torch.equal(short[inside], rows[inside])
    assert clipped(rows, None) is rows


def overheard(job_, rows):
    """Run a job; return the silos, and what comes back to the shop: (step, gradients) each."""
    hosts = vertical.silos_of(rows, COLUMNS)
    contract = vertical.contract_of(COLUMNS)
    plan = plan_of(job_, len(rows))
    seen = []

    def curious(parcel):
        header = Header.decode(parcel.header)
        payload = unpack(parcel.body)["payload"]
        if header.verb == "embed" and payload["step"] > 1:
            view = SiloView(hosts["shop"], job_, contract, header)
            step = payload["step"] - 1
            post = turns.Post(view, block_of(view, VerticalSplit(job_).settings).mark)
            told = post.open("bank", "gradients", payload["envelopes"]["bank"])
            size = len(plan.batch(plan.networks[0], step))
            seen.append((step, restored(told["batches"]["final"], size, WIDTH)))
        return answer(parcel)

    answer = vertical.answerer(hosts["shop"])
    answers = {n: vertical.answerer(host) for n, host in hosts.items()} | {"shop": curious}
    run(job_, rows, hosts, vertical.LocalTransport(answers))
    return hosts, seen


def test_gradients_are_those_of_the_joined_network():
    """The first batch's, by the shop's embedding: each row's own loss, to 1e-6."""
    rows, job_ = table(), job()
    hosts, seen = overheard(job_, rows)
    step, found = seen[0]
    assert step == 1
    plan = plan_of(job_, len(rows))
    batch = rows.iloc[plan.batch(plan.networks[0], 1)]
    parts = {
        name: module(hosts[name], "bottom", len(held), WIDTH)(
            torch.tensor(batch[list(held)].to_numpy(np.float32))
        )
        for name, held in COLUMNS.items()
    }
    parts["shop"].retain_grad()
    top = module(hosts["bank"], "top", 3 * WIDTH, 1)
    outputs = top(torch.cat([parts[name] for name in COLUMNS], dim=1))[:, 0]
    targets = torch.tensor(batch["y"].to_numpy(np.float32))
    torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets).backward()
    wanted = parts["shop"].grad.numpy() * len(batch)
    assert np.abs(wanted).max() > 1e-2
    assert np.abs(found - wanted).max() < 1e-6


def inferred(job_, rows):
    """AUC of the labels as the shop sees them in its gradients, knowing one row's label.

    Li et al., Label Leakage and Protection in Two-party Split Learning (ICLR 2022): the gradients
    of the two classes point in opposite directions.
    """
    plan = plan_of(job_, len(rows))
    aucs = []
    for step, gradients in overheard(job_, rows)[1]:
        truth = rows["y"].to_numpy()[plan.batch(plan.networks[0], step)]
        if len(set(truth)) == 2:
            known = gradients[np.flatnonzero(truth == 1)[0]]
            aucs.append(roc_auc(truth, gradients @ known))
    return float(np.mean(aucs))


def test_gradients_tell_the_labels_and_noise_hides_them():
    rows = table(300)
    linear = {"name": "consilo.learners.tabular:LogisticRegression", "args": {"zero_init": False}}
    plain = job(local={"batch_size": 60, "lr": 0.1}, model=linear)
    hidden = plain.changed(privacy=PRIVATE, protocol={"args": {**plain.protocol.args, "clip": 1.0}})
    assert inferred(plain, rows) > 0.99
    assert 0.4 < inferred(hidden, rows) < 0.65


def test_a_private_run_pays_for_all_its_epochs_before_its_first_answer():
    found, _, hosts = run(job(args={"clip": 1.0}, privacy=PRIVATE), table())
    assert set(found.epsilon) == set(COLUMNS)
    for name, host in hosts.items():
        ((_, mechanism, row),) = host.spends["r"]
        assert mechanism == "vertical_split"
        assert row[1:] == (1.0, 4)  # an embedding or gradient, and an update, in each of 2 epochs
        assert found.epsilon[name] == pytest.approx(spent([row], 1e-3).epsilon_rdp)
        assert found.epsilon[name] <= 4.0


def test_few_bits_shrink_what_crosses():
    rows, local = table(120), {"batch_size": 48, "lr": 0.2}
    sizes = {}
    for bits in (None, 8, 2):
        job_ = job(local=local, protocol={"rounds": 1}, args={"width": 32, "bits": bits})
        _, exchanges, _ = run(job_, rows)
        sizes[bits] = sum(each.bytes_up for each in exchanges if each.verb == "embed")
    assert sizes[None] > 2 * sizes[8] > 2 * sizes[2]


def test_the_classes_of_what_is_sealed_are_declared():
    verbs = VerticalSplit.verbs()
    assert Disclosure.EMBEDDING in verbs["embed"].disclosures
    assert Disclosure.LABEL not in verbs["embed"].disclosures
    assert Disclosure.LABEL in verbs["learn"].disclosures


def test_a_silo_whose_policy_refuses_ends_the_run():
    hosts = vertical.silos_of(table(40), COLUMNS)
    hosts["telecom"].refusal = "embeddings do not leave"
    with pytest.raises(Refused, match="embeddings do not leave"):
        run(job(), None, hosts)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"args": {"bits": 9}}, "bits"),
        ({"args": {"learning_rates": {"nobody": 0.1}}}, "no silo is called nobody"),
        ({"privacy": PRIVATE}, "args.clip"),
        (
            {"privacy": PRIVATE, "args": {"clip": 1}, "features": {"standardize": "global"}},
            "standardize",
        ),
        ({"privacy": PRIVATE, "args": {"clip": 1, "folds": 3}}, "folds and controls"),
        ({"privacy": PRIVATE, "args": {"clip": 1, "controls": True}}, "folds and controls"),
    ],
)
def test_a_job_that_cannot_work_is_refused_before_any_message(changes, says):
    with pytest.raises((JobInvalid, IncompatibleJob), match=says):
        VerticalSplit.from_job(job(**changes))


def test_the_match_must_be_there():
    hosts = vertical.silos_of(table(40), COLUMNS)
    hosts["shop"] = InMemorySilo("shop", hosts["shop"].table)
    with pytest.raises(MatchUnusable, match="no match"):
        run(job(), None, hosts)
