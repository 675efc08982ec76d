"""One noise for two questions: what differed was not in the step's name, and neither was it paid.

A step's noise was keyed by protocol, place and body; job and contract came into it from wire
version 3 on, the code never. A request of version 2 without a job in its body was answered by the
job that the run had been told, of which there may be two. Two answers with one noise, one of them
scaled, are two equations for the exact sums. Neighbours of `repeated_answers`.
"""

from __future__ import annotations

import time

import attacker
import clinic
import numpy as np
import pytest

from consilo.horizontal.features import Encoding
from consilo.horizontal.statistics import _templates
from consilo.kernel.headers import Header, Manifest, ReplyHeader, attestation
from consilo.protocols.dispatch import answerer
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack, unpack
from silos.gate.policy import TEMPLATE

WANTED = TEMPLATE.replace("required: no", "required: yes")
PRIVACY = {"epsilon": 5.0, "delta": 1e-5, "accountant": "rdp"}


@pytest.fixture
def silo(tmp_path):
    return attacker.make(tmp_path, WANTED)


def ask(silo, verb, payload, job, *, wire=3, told=True, bundle="", run="run"):
    """Ask with a header and a body of one's own; return the reply's header and its fields."""
    contract, now = clinic.contract(), time.time()
    content = {"payload": payload}
    content |= {"job": job.to_json(), "contract": contract.to_json()} if told else {}
    body, manifest = pack(content), Manifest.of(run, job, contract, bundle)
    header = Header(
        run, f"1/0/{verb[1]}", digest(body), 1, "north", *verb, ("north", "south"), manifest,
        {"south": attestation(attacker.SOUTH, manifest, "south")}, now, now + 60, wire=wire,
    )  # fmt: skip
    reply = answerer(silo)(Parcel(header.signed(attacker.KEY).encode(), body))
    said = ReplyHeader.decode(reply.header)
    return said, unpack(reply.body) if said.status == "ok" else {}


def forget_answers(silo) -> None:
    """Have a silo answer more than it keeps; what costs nothing will do."""
    for number in range(17):
        said, _ = ask(silo, ("brief", "brief"), {}, clinic.job(), run=f"other-{number}")
        assert said.status == "ok", said.reason


def test_a_step_is_of_the_job_that_its_name_holds(silo) -> None:
    """Class counts with 1 and 1.1 times the same noise."""
    for part in (0.4, 0.44):
        job = clinic.job(privacy={**PRIVACY, "statistics_epsilon": part})
        assert ask(silo, ("brief", "brief"), {}, job)[0].status == "ok"
        asked = _templates(Encoding.plan(clinic.contract(), job), moments=False, target=False)
        said, fields = ask(silo, ("statistics", "moments"), asked, job, wire=2, told=False)
        assert (said.code, fields) == ("invalid_reply", {})
        said, _ = ask(silo, ("statistics", "moments"), asked, job, told=False)
        assert said.status == "ok", said.reason
    assert attacker.reserved(silo) == 2


def test_other_code_has_other_noise_and_is_paid_for(silo) -> None:
    """The same parameters under two models: the difference of their gradients, without noise."""
    job = clinic.job(privacy=PRIVACY, features={"standardize": "none"})
    found = []
    for bundle in ("a" * 64, "b" * 64, "a" * 64):
        said, fields = ask(silo, ("fedavg", "train"), attacker.model(job), job, bundle=bundle)
        assert said.status == "ok", said.reason
        found.append(np.concatenate([each.ravel() for each in fields["delta"].values()]))
        forget_answers(silo)
    # The stand-in for the model is the same here, so that one noise would give one answer.
    assert not np.isclose(found[0], found[1]).any()
    assert np.array_equal(found[0], found[2])
    assert attacker.reserved(silo) == 2
