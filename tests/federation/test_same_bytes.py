"""The same job and seed give the same parameters in process and over the network, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contract import SHIPPED, Contract
from consilo.dispatch import answerer
from consilo.job import Job
from consilo.parcel import Transport
from consilo.processes import Supervisor
from consilo.run import Run, run_all
from consilo.transports.flower.bundle import bundle_hash
from consilo.transports.flower.transport import FlowerTransport
from consilo.transports.local import LocalTransport
from flows.demo_data import write_hospitals
from flows.federation import job_bundle, start_silos, wait_online
from silos.bundles import approve
from silos.policy import TEMPLATE
from silos.silo import Silo

pytestmark = [pytest.mark.federation, pytest.mark.timeout(240)]


def trained(job: Job, transport: Transport, names: list[str], folder: Path) -> Run:
    contract = Contract.load(job.contract)
    run = Run(
        job,
        contract,
        transport,
        silos=names,
        directory=folder,
        run_id=folder.name,
        key=Ed25519PrivateKey.generate(),
    )
    result = run_all(run, wait_s=60)
    assert result.status == "complete", result.reason
    return run


def test_both_transports_give_the_same_parameters(tmp_path: Path) -> None:
    job = Job.load(SHIPPED / "jobs" / "breast_cancer.yaml").changed(
        protocol={"rounds": 2}, privacy={"reproducible": True}
    )
    there, here = tmp_path / "there", tmp_path / "here"
    hospitals = [each for each in write_hospitals(there, count=4, seed=3) if not each.broken]
    names = [each.name for each in hospitals]
    bundle = job_bundle(job, ())
    for name in names:
        policy = TEMPLATE.replace("allow_reproducible: false", "allow_reproducible: true")
        (there / name / "policy.yaml").write_text(policy)
        approve(there / name, bundle_hash(bundle))
        shutil.copytree(there / name, here / name)

    silos = {name: Silo.open(here / name) for name in names}
    local = LocalTransport({name: answerer(silo) for name, silo in silos.items()})
    alone = trained(job, local, names, tmp_path / "run-local")

    with Supervisor() as supervisor:
        home = tmp_path / "coordinator"
        directories = {name: there / name for name in names}
        address, certificate = start_silos(supervisor, home, directories, say=lambda _: None)
        wait_online(address, Path(certificate), directories, supervisor.services)
        with FlowerTransport.open(address, Path(certificate), bundle, home=home) as transport:
            together = trained(job, transport, names, tmp_path / "run-flower")

    assert alone.params.keys() == together.params.keys()
    for name, value in alone.params.items():
        np.testing.assert_array_equal(value, together.params[name])
    sizes = [
        [(e.verb, e.silo, e.round, e.bytes_down) for e in run.exchanges if e.verb == "train"]
        for run in (alone, together)
    ]
    assert [row[:3] for row in sizes[0]] == [row[:3] for row in sizes[1]]
