"""Under differential privacy no fault depends on a row: neither whether there is one, nor which."""

from __future__ import annotations

import clinic
import numpy as np
import pytest

from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import learner_of
from consilo.kernel.headers import Header, Manifest, ReplyHeader
from consilo.protocols.dispatch import answerer
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack, unpack
from silos.simulation.in_memory import InMemorySilo

PRIVACY = {"epsilon": 0.5, "delta": 1e-5, "accountant": "rdp"}


def job_of(**changes):
    return clinic.job(
        model={"name": "consilo.learners.tabular:MLP", "args": {"hidden": [2]}},
        features={"standardize": "none"},
        local={"batch_size": 1000, "steps": 1, "lr": 0.1},
        **{"privacy": PRIVACY, **changes},
    )


def ask(rows, params, job):
    contract = clinic.contract()
    payload = {"params": params, "scale": {"mean": np.zeros(2), "deviation": np.ones(2)}}
    body = pack({"job": job.to_json(), "contract": contract.to_json(), "payload": payload})
    header = Header(
        "run", "1/0/train", digest(body), 1, "north", "fedavg", "train", ("north",),
        Manifest.of("run", job, contract, ""),
    )  # fmt: skip
    silo = InMemorySilo("north", rows)
    reply = answerer(silo)(Parcel(header.encode(), body))
    said = ReplyHeader.decode(reply.header)
    return said, unpack(reply.body) if said.status == "ok" else None


def weights(job, *, first, bias, last):
    """Weights with which one input alone decides whether the loss is finite."""
    made = learner_of(job, Encoding.plan(clinic.contract(), job)).parameters()
    found = {name: np.zeros_like(value) for name, value in made.items()}
    names = list(found)
    found[names[0]][0, 0] = first
    found[names[1]][0] = bias
    found[names[2]][0, 0] = last
    return found


def everybody_at(age, *, person):
    rows = clinic.frame(200, seed=5, missing=0)
    rows["age"] = float(age)
    rows.loc[7, "age"] = float(person)
    return rows


@pytest.mark.parametrize(
    "crafted",
    [
        {"first": 1.0, "bias": -100.0, "last": 3e38},  # the proof: who is older than 100
        {"first": 3e38, "bias": 0.0, "last": 1e-30},  # what a layer gives is infinite
        {"first": 1e20, "bias": -1e22, "last": 1e20},  # a gradient is, and no loss
        {"first": float("nan"), "bias": 0.0, "last": 1.0},
    ],
)
def test_whether_a_loss_is_finite_decides_nothing(crafted):
    job = job_of()
    params = weights(job, **crafted)
    said = [ask(everybody_at(60, person=age), params, job)[0] for age in (60.0, 118.0)]
    assert {(each.status, each.code, each.reason) for each in said} == {
        (said[0].status, said[0].code, said[0].reason)
    }


def test_what_is_answered_is_finite_where_every_row_is_not():
    job = job_of()
    params = weights(job, first=1.0, bias=-100.0, last=3e38)
    said, fields = ask(everybody_at(118, person=118), params, job)
    assert said.status == "ok"
    assert all(np.isfinite(each).all() for each in fields["delta"].values())
    assert "loss" not in fields


@pytest.mark.parametrize("fault", ["target", "shape"])
def test_faults_have_one_code_and_no_reason_of_their_own(fault):
    rows = clinic.frame(50, missing=0)
    job = job_of()
    params = weights(job, first=1.0, bias=0.0, last=1.0)
    if fault == "target":
        rows["ill"] = rows["ill"].astype("Int64")
        rows.loc[3, "ill"] = 7
    else:
        params = {name: value[:1] for name, value in params.items()}
    said, _ = ask(rows, params, job)
    plain, _ = ask(rows, params, job_of(privacy=None))
    assert said.status == plain.status == "fault"
    assert said.code == "failed"
    assert "log says" in said.reason
    if fault == "target":
        assert "1 rows have a target" in plain.reason
