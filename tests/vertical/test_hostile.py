"""What a coordinator or a partner that does not keep to the protocol tries in vertical jobs."""

import hashlib
from dataclasses import replace

import joint
import numpy as np
import pandas as pd
import pytest
import torch
import vertical

from consilo.errors import (
    ConsiloError,
    IncompatibleJob,
    ModelDiverged,
    Refused,
    ReplyInvalid,
    SiloFailed,
)
from consilo.kernel.federation import Federation
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.loop import Kernel
from consilo.kernel.view import Message, SiloView
from consilo.learners.tasks import Task
from consilo.privacy.noise import SecretStream
from consilo.runs.vertical import run_vertical
from consilo.vertical import turns
from consilo.vertical.blocks import block_of
from consilo.vertical.held import MatchHeld
from consilo.vertical.linear.protocol import VerticalLinear
from consilo.vertical.parts import Part
from consilo.vertical.score import VerticalScore
from consilo.vertical.scoring import scorer_of
from consilo.vertical.split.layers import Joined, Noise, embed_apart, learn_top
from consilo.vertical.split.part import SplitPart
from consilo.vertical.split.protocol import VerticalSplit
from consilo.vertical.split.state import Shelf
from consilo.vertical.training import Turn
from consilo.vertical.trees.paillier import MAX_BITS, PublicKey

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1")}
PRIVACY = {"epsilon": 4.0, "delta": 1e-3, "accountant": "rdp"}


def hosts_of(rows=60):
    rng = np.random.default_rng(3)
    table = pd.DataFrame(rng.normal(size=(rows, 4)), columns=["b0", "b1", "s0", "s1"])
    score = table.sum(axis=1) + rng.logistic(size=rows)
    hosts = vertical.silos_of(table.assign(y=(score > 0).astype(int)), COLUMNS)
    for name, host in hosts.items():
        host.run_secrets["r"] = hashlib.sha256(name.encode()).digest()
    return hosts


def linear_job(**args):
    return vertical.job_of("vertical_linear", COLUMNS, args={"folds": 2, **args})


def split_job(**changes):
    return vertical.job_of(
        "vertical_split",
        COLUMNS,
        args={"width": 2, "clip": 1.0, "bottom": "consilo.learners.tabular:LinearRegression"},
        features={"standardize": "none"},
        model="consilo.learners.tabular:LogisticRegression",
        protocol={"rounds": 3},
        local={"batch_size": 16},
        **changes,
    )


def view_of(host, job, verb="x", *, scope="0/0/x", content="", run="r"):
    contract = vertical.contract_of(COLUMNS)
    manifest = Manifest.of(run, job, contract, "")
    header = Header(
        run, scope, content, 0, host.name, job.protocol.name, verb, tuple(COLUMNS), manifest
    )
    return SiloView(host, job, contract, header)


def test_an_epoch_that_is_over_is_not_done_again():
    """Noise would be drawn anew for rows that have paid once."""
    hosts, job = hosts_of(), split_job(privacy=PRIVACY)
    vertical.driven(job, vertical.contract_of(COLUMNS), hosts)
    view = view_of(hosts["shop"], job, content="another question")
    view = replace(view, header=replace(view.header, scope="9/9/embed"))
    with pytest.raises(Refused, match="has done step 1 of this run already"):
        Shelf(view, 3).keep(1, np.zeros(1, np.uint8))


def test_a_run_is_not_begun_anew_at_the_old_price_where_its_state_is_gone():
    """A run's state lapses after 30 days, its reservation never: the noise was drawn anew."""
    hosts, job = hosts_of(), split_job(privacy=PRIVACY)
    vertical.driven(job, vertical.contract_of(COLUMNS), hosts)
    shop = hosts["shop"]
    shop.state.clear()
    part = SplitPart(view_of(shop, job), VerticalSplit(job).settings)
    with pytest.raises(Refused, match="no longer holds which of them"):
        part.pay()


def test_a_step_of_long_ago_is_not_asked_anew():
    """Who asked for it was forgotten after two more: a partner had more directions than agreed."""
    shop, job = hosts_of()["shop"], linear_job()
    for step in range(1, 5):
        turns.keep(view_of(shop, job, content=f"step {step}"), "basis", step, {})
    turns.keep(view_of(shop, job, content="step 3"), "basis", 3, {})  # asked again
    for step in range(1, 5):
        with pytest.raises(Refused, match=f"has done step {step} of this run already"):
            turns.keep(view_of(shop, job, content="another question"), "basis", step, {})


def test_what_a_run_did_under_one_job_is_not_used_under_another():
    """The same run's id, and the price paid under it, with other arguments."""
    hosts, job = hosts_of(), split_job(privacy=PRIVACY)
    vertical.driven(job, vertical.contract_of(COLUMNS), hosts)
    other = job.changed(seed=1)
    same = view_of(hosts["shop"], job)
    changed = view_of(hosts["shop"], other)
    assert same.kept("net-0") is not None
    with pytest.raises(Refused, match="another job or contract"):
        changed.kept("net-0")
    with pytest.raises(Refused, match="another job or contract"):
        changed.keep("anything", b"x")


def test_a_protocol_is_asked_in_its_own_jobs_alone():
    """Policies go by what the job says of itself: its kind, its privacy, its matched rows."""
    hosts, job = hosts_of(), linear_job()
    moved = vertical.LocalTransport({n: vertical.answerer(host) for n, host in hosts.items()})
    contract = vertical.contract_of(COLUMNS)
    other = job.changed(protocol={"name": "vertical_trees", "args": {"folds": 3}})
    kernel = Kernel(moved, run_id="r", job=other, contract=contract, observe=lambda _: None)
    fed = Federation(tuple(hosts), other, contract, lambda: tuple(hosts))
    with pytest.raises(Refused, match="'vertical_linear' is not asked"):
        kernel.run("vertical_linear", VerticalLinear(job), fed, Turn())


def test_a_part_is_not_released_by_a_job_that_did_not_train_it():
    hosts = hosts_of()
    vertical.driven(linear_job(), vertical.contract_of(COLUMNS), hosts)
    asks = linear_job(release_top=True)

    def answered(run):
        view = view_of(hosts["bank"], asks, "release", run=run)
        return VerticalLinear(asks).release(view, Message({}, 0, tuple(COLUMNS)))

    with pytest.raises(Refused, match="another job or contract"):
        answered("r")
    hosts["bank"].conclude("r")
    with pytest.raises(Refused, match="trained by another job"):
        answered("r")
    with pytest.raises(Refused):
        answered("s")


def test_rows_are_told_to_those_alone_who_matched_them():
    """A silo that is pinned here, but with whom nobody was matched, is put into a job."""
    hosts = hosts_of()
    found = hosts["shop"].kept_matches["m"]
    hosts["shop"].keep_match(replace(found, partners=("telecom",)))
    job = linear_job()
    view = view_of(hosts["shop"], job)
    with pytest.raises(Refused, match="was not made with bank"):
        block_of(view, job.holders)
    told = MatchHeld(job.holders).held(view, Message({}, 0, ()))
    assert (told["rows"], told["problem"], told["mark"]) == (0, 1, {})


def test_a_silo_that_is_not_well_is_not_matched_anew():
    """A new match spends queries of partners and overwrites the old one."""
    hosts, job = hosts_of(), linear_job()

    def broken(handle, *, purpose):
        raise OSError("the disk is away")

    hosts["shop"].match = broken
    answers = {name: vertical.answerer(host) for name, host in hosts.items()}
    moved = vertical.LocalTransport(answers)
    contract = vertical.contract_of(COLUMNS)
    kernel = vertical.Kernel(moved, run_id="r", job=job, contract=contract, observe=lambda _: None)
    fed = vertical.Federation(tuple(hosts), job, contract, lambda: tuple(hosts))
    with pytest.raises(SiloFailed, match=r"shop: failed: the silo's computation failed"):
        kernel.run("match_held", MatchHeld(job.holders), fed)


def test_consents_that_change_while_rows_are_read_move_no_row():
    hosts, job = hosts_of(), linear_job()
    host, found = hosts["shop"], hosts["shop"].kept_matches["m"]

    def frame(contract, *, purpose=""):
        host.keep_match(replace(found, fingerprint="of other rows"))
        return host.table

    host.frame = frame
    with pytest.raises(Refused, match="rows changed"):
        block_of(view_of(host, job), job.holders)
    assert not host.arrays


def test_a_scoring_job_with_a_privacy_section_is_none():
    """A policy that wants privacy would take it for private, and a share is exact."""
    args = {"match": "m", "label_silo": "bank", "model": "r"}
    held = {name: list(each) for name, each in COLUMNS.items()}
    job = vertical.clinic.job(
        kind="scoring",
        contract="joint@1",
        protocol={"name": "vertical_score", "args": {**args, "columns": held}},
        privacy=PRIVACY,
    )
    with pytest.raises(IncompatibleJob, match="adds no noise"):
        VerticalScore.from_job(job)


def contrast(outputs, targets):
    """A loss of one's own that compares rows with each other."""
    return (outputs - targets).mean() ** 2


class Compares(torch.nn.Module):
    """A top model whose loss is `contrast`."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, rows):
        return self.linear(rows)

    def loss(self, outputs, targets):
        return contrast(outputs, targets)


class Centred(torch.nn.Module):
    """A bottom model that takes the batch's mean away."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, rows):
        return self.linear(rows - rows.mean(dim=0))


def test_a_row_moves_its_own_gradient_alone_where_it_is_hidden():
    """Noise hides as much as one row can move; a loss that mixes rows would let it move more."""
    torch.manual_seed(0)
    rows, others, targets = torch.randn(6, 2), torch.randn(6, 2), torch.randint(0, 2, (6,)).float()
    told, known = [], torch.ones(6, dtype=torch.bool)
    for first in (targets[0], 1 - targets[0]):
        torch.manual_seed(1)
        model = Joined(torch.nn.Linear(2, 2), Compares(), None)
        noise = Noise(1e-12, 10.0, 10.0, SecretStream(bytes(32), "test"))
        task = Task.of("custom", num_classes=2, num_targets=1, num_outputs=1)
        labels = torch.cat([first[None], targets[1:]])[:, None]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        told.append(learn_top(model, optimizer, task, rows, others, labels, known, noise))
    assert not torch.allclose(told[0][0], told[1][0], atol=1e-6)
    assert torch.allclose(told[0][1:], told[1][1:], atol=1e-6)


def test_a_row_moves_its_own_embedding_alone_where_it_is_hidden():
    torch.manual_seed(0)
    bottom, rows = Centred(), torch.randn(5, 2)
    other = rows.clone()
    other[0] += 1
    assert not torch.allclose(bottom(rows)[1:], bottom(other)[1:])
    found = embed_apart(bottom, rows, 1.0), embed_apart(bottom, other, 1.0)
    assert torch.equal(found[0][1:], found[1][1:])
    plain = torch.nn.Linear(2, 2)
    alike = embed_apart(plain, rows, None)
    assert torch.allclose(alike, plain(rows), atol=1e-6)


@pytest.mark.parametrize(
    ("topic", "lie", "said"),
    [
        ("scores", lambda told: {"scores": told["scores"] * np.nan}, "numbers that are none"),
        ("scores", lambda told: {"scores": told["scores"] * 1e30}, "larger than 2 standardised"),
        ("scores", lambda told: {"scores": np.ones((60, 3))}, "3 score columns, of 2"),
        ("part", lambda told: {"coordinates": told["coordinates"] * np.inf}, "that are none"),
        ("residuals", lambda told: {n: each[:1] for n, each in told.items()}, "another shape"),
    ],
)
def test_a_partners_numbers_that_cannot_be_end_the_run(monkeypatch, caplog, topic, lie, said):
    """Nothing of them is kept: neither a part of NaN, nor a model that learnt from them."""
    seal = turns.Post.seal

    def lying(self, receiver, each, content):
        return seal(self, receiver, each, lie(content) if each == topic else content)

    monkeypatch.setattr(turns.Post, "seal", lying)
    hosts = hosts_of()
    with pytest.raises(ConsiloError):
        vertical.driven(linear_job(), vertical.contract_of(COLUMNS), hosts)
    assert said in caplog.text
    assert "r" not in hosts["shop"].kept_parts


def test_a_part_that_holds_no_numbers_is_not_kept():
    hosts, job = hosts_of(), linear_job()
    view = view_of(hosts["shop"], job)
    block = block_of(view, job.holders)
    with pytest.raises(ModelDiverged, match="'weights' of the part"):
        VerticalLinear(job).keep_part(view, block, {"weights": np.array([1.0, np.nan])})
    assert hosts["shop"].kept_parts == {}


def test_a_share_that_is_no_number_makes_no_score():
    hosts = hosts_of()
    vertical.driven(linear_job(), vertical.contract_of(COLUMNS), hosts)
    scorer = scorer_of(Part.from_bytes(hosts["bank"].part("r")))
    rows = np.zeros((3, 2), np.float32)
    with pytest.raises(ReplyInvalid, match="'share' from silo 'shop'"):
        scorer.outputs(rows, {"shop": {"share": np.array([0.0, np.nan, 0.0])}})


def test_a_modulus_of_any_length_is_no_key():
    pytest.importorskip("gmpy2")
    with pytest.raises(ReplyInvalid, match="bits long"):
        PublicKey.from_bytes(np.full(MAX_BITS // 8 + 1, 255, np.uint8), sender="bank")


def test_nobody_decrypts_more_sums_than_there_can_be(monkeypatch, caplog):
    """Half a million ciphertexts would keep the label silo busy for twenty minutes."""
    pytest.importorskip("gmpy2")
    seal = turns.Post.seal

    def more(told):
        room = 3000 - int(told["counts"].sum())
        counts = np.concatenate([[told["counts"][0] + room], told["counts"][1:]])
        return {"counts": counts, "sums": np.repeat(told["sums"][:1], 400, axis=0)}

    def lying(self, receiver, topic, content):
        if topic == "sums":
            content = {"models": [more(each) for each in content["models"]]}
        return seal(self, receiver, topic, content)

    monkeypatch.setattr(turns.Post, "seal", lying)
    job = vertical.job_of(
        "vertical_trees",
        COLUMNS,
        args={"histograms": "secure", "folds": 2, "depth": 1, "min_rows": 2, "max_bins": 8},
        protocol={"rounds": 1},
    )
    with pytest.raises(ReplyInvalid):
        vertical.driven(job, vertical.contract_of(COLUMNS), hosts_of(40))
    assert "offers 3000 splits of a node, of 16" in caplog.text


@pytest.mark.parametrize(
    ("verb", "change", "said"),
    [
        ("start", lambda fields: {"envelopes": {}}, "sent no envelope for 'shop'"),
        ("directions", lambda fields: {**fields, "envelopes": {}}, "sent no envelope for 'bank'"),
        ("keep_part", lambda fields: {"reference": {}}, "no SHA-256"),
        ("keep_part", lambda fields: {"reference": {"sha256": np.zeros(9)}}, "no SHA-256"),
    ],
)
def test_an_answer_without_what_it_must_hold_is_told_by_its_sender(monkeypatch, verb, change, said):
    """The coordinator says who it was, in place of failing by itself."""
    declared = VerticalLinear.verbs()[verb]
    lying = replace(declared, function=lambda *given: change(declared.function(*given)))
    every = {**VerticalLinear.verbs(), verb: lying}
    monkeypatch.setattr(VerticalLinear, "verbs", classmethod(lambda cls: every))
    with pytest.raises(ReplyInvalid, match=said):
        vertical.driven(linear_job(), vertical.contract_of(COLUMNS), hosts_of())


@pytest.mark.flow
def test_min_rows_counts_the_matched_rows(tmp_path):
    """The silos have 221 rows each, of which fewer are matched."""
    disclosures = {**joint.POLICY["disclosures"], "embedding": {"min_rows": 200}}
    policy = {**joint.POLICY, "disclosures": disclosures}
    silos = joint.write_silos(tmp_path, joint.everybody(), policy)
    result = run_vertical(joint.Federation(silos, tmp_path).opened(joint.job_of(), "first"))
    assert result.status == "failed"
    assert "'embedding' leave for 200 rows or more only" in result.reason


@pytest.mark.flow
def test_a_run_that_died_before_its_first_checkpoint_is_not_narrowed(tmp_path):
    """Silos keep to the job that it began with; one with fewer columns would be another."""
    silos = joint.write_silos(tmp_path, joint.everybody())
    federation = joint.Federation(silos, tmp_path)
    job = joint.job_of(args={"missing_blocks": "leave_out"})
    run = federation.opened(job, "died")
    for name in run.silos:
        run.check(name)
    run.admit()
    run.match()
    again = federation.opened(job, "died", online=("bank", "shop"), resume=True)
    result = run_vertical(again)
    assert result.status == "failed"
    assert "mandatory: telecom" in result.reason
