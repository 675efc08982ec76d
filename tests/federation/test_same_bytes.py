"""The same job and seed give the same parameters in process and over the network, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paced import Paced, arrivals

from consilo.contracts.contract import SHIPPED, Contract
from consilo.jobs.job import Job
from consilo.machine.files import write_atomic
from consilo.machine.processes import Supervisor
from consilo.membership.keys import load_or_create_signing_key
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import Run, run_all
from consilo.transports.flower.bundle import bundle_hash
from consilo.transports.flower.transport import FlowerTransport
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Transport
from consilo.wire.signing import public_hex
from flows.demo.demo_data import write_hospitals
from flows.services.federation import (
    job_bundle,
    parties_of,
    start_silos,
    wait_online,
)
from silos.gate.bundles import approve
from silos.gate.policy import TEMPLATE
from silos.silo import Silo

pytestmark = [pytest.mark.federation, pytest.mark.timeout(240)]


def trained(
    job: Job,
    transport: Transport,
    silos: dict[str, Path],
    folder: Path,
    key: Ed25519PrivateKey,
    follow: Callable[[Run], None] = lambda run: None,
) -> Run:
    contract = Contract.load(job.contract)
    run = Run(
        job,
        contract,
        transport,
        silos=list(silos),
        directory=folder,
        run_id=folder.name,
        key=key,
        parties=parties_of(silos),
        bundle=bundle_hash(job_bundle(job, ())),
    )
    follow(run)
    result = run_all(run, wait_s=60)
    assert result.status == "complete", result.reason
    return run


@contextmanager
def as_many_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pin_each_other(home: Path, silos: Mapping[str, Path]) -> None:
    """Let silos of this machine take requests of the coordinator in ``home``, and know each other.

    What onboarding does for a silo elsewhere: keys are made in the silo's directory, public halves
    are pinned.
    """
    coordinator = public_hex(load_or_create_signing_key(home / "keys" / "record.key"))
    keys = {n: public_hex(load_or_create_signing_key(d / "signing.key")) for n, d in silos.items()}
    for name, directory in silos.items():
        pinned = {"signing_keys": [coordinator]}
        write_atomic(directory / "coordinator.yaml", yaml.safe_dump(pinned).encode())
        others = {n: {"signing_key": key} for n, key in keys.items() if n != name}
        write_atomic(directory / "partners.yaml", yaml.safe_dump(others).encode())


def test_both_transports_give_the_same_parameters(tmp_path: Path) -> None:
    job = Job.load(SHIPPED / "jobs" / "breast_cancer.yaml").changed(
        protocol={"rounds": 2}, privacy={"reproducible": True}
    )
    there, here = tmp_path / "there", tmp_path / "here"
    hospitals = [each for each in write_hospitals(there, count=4, seed=3) if not each.broken]
    names = [each.name for each in hospitals]
    bundle = job_bundle(job, ())
    for name in names:
        policy = TEMPLATE.replace("allow_reproducible: no", "allow_reproducible: yes")
        (there / name / "policy.yaml").write_text(policy)
        approve(there / name, bundle_hash(bundle))
        shutil.copytree(there / name, here / name)

    home = tmp_path / "coordinator"
    copies = {name: here / name for name in names}
    pin_each_other(home, copies)
    key = load_or_create_signing_key(home / "keys" / "record.key")
    silos = {name: Silo.open(path) for name, path in copies.items()}
    local = LocalTransport({name: answerer(silo) for name, silo in silos.items()})
    with as_many_threads(4):  # a node's child has one, until the step says how many
        alone = trained(job, local, copies, tmp_path / "run-local", key)

    with Supervisor() as supervisor:
        directories = {name: there / name for name in names}
        address, certificate = start_silos(supervisor, home, directories, say=lambda _: None)
        wait_online(address, Path(certificate), directories, supervisor.services)
        with FlowerTransport.open(address, Path(certificate), bundle, home=home) as transport:
            together = trained(job, transport, directories, tmp_path / "run-flower", key)
            eager = job.changed(protocol={"name": "fedbuff", "rounds": 3, "buffer": 2})
            as_it_came = trained(eager, transport, directories, tmp_path / "run-eager", key)

    assert alone.params.keys() == together.params.keys()
    for name, value in alone.params.items():
        np.testing.assert_array_equal(value, together.params[name])
    sizes = [
        [(e.verb, e.silo, e.round, e.bytes_down) for e in run.exchanges if e.verb == "train"]
        for run in (alone, together)
    ]
    assert [row[:3] for row in sizes[0]] == [row[:3] for row in sizes[1]]

    # Answers that were taken as they came: in the recorded order, the same again.
    came = arrivals(tmp_path / "run-eager")
    script = Paced(local, script=[each for number in sorted(came) for each in came[number]])
    replay = trained(eager, script, copies, tmp_path / "run-replay", key, follow=script.follow)
    assert arrivals(tmp_path / "run-replay") == came
    assert {n: each.epsilon for n, each in replay.outcomes.items()} == {
        n: each.epsilon for n, each in as_it_came.outcomes.items()
    }
    for name, value in replay.params.items():
        np.testing.assert_array_equal(value, as_it_came.params[name])
