"""Two of three silos a round, in real processes: the same cohorts, model and ε as in process."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from consilo.contracts.contract import SHIPPED
from consilo.jobs.job import Job
from consilo.machine.processes import Supervisor
from consilo.membership.keys import load_or_create_signing_key
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read
from consilo.runs.horizontal import Run
from consilo.transports.flower.bundle import bundle_hash
from consilo.transports.flower.transport import FlowerTransport
from consilo.transports.local import LocalTransport
from flows.demo.demo_data import write_hospitals
from flows.services.federation import job_bundle, start_silos, wait_online
from silos.gate.bundles import approve
from silos.gate.policy import TEMPLATE
from silos.silo import Silo
from tests.federation.test_same_bytes import pin_each_other, trained

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(240)]


def rounds(run: Run) -> list[tuple[list[str], list[str]]]:
    """Who was drawn, and whose update counts, round by round."""
    told = [each["body"] for each in read(run.directory / "record.jsonl")]
    return [(each["cohort"]["drawn"], list(each["silos"])) for each in told if "cohort" in each]


def test_the_drawn_are_asked_and_their_policies_count_them_alone(tmp_path: Path) -> None:
    job = Job.load(SHIPPED / "jobs" / "breast_cancer.yaml").changed(
        protocol={"rounds": 3},
        privacy={"reproducible": True},
        quorum={"min_silos": 2},
        cohort={"size": 2, "by": "rows"},
    )
    there, here = tmp_path / "there", tmp_path / "here"
    names = [each.name for each in write_hospitals(there, count=4, seed=3) if not each.broken]
    bundle = job_bundle(job, ())
    for name in names:
        policy = TEMPLATE.replace("allow_reproducible: no", "allow_reproducible: yes")
        assert "min_cohort: 2" in policy
        (there / name / "policy.yaml").write_text(policy)
        approve(there / name, bundle_hash(bundle))
        shutil.copytree(there / name, here / name)

    home = tmp_path / "coordinator"
    copies = {name: here / name for name in names}
    pin_each_other(home, copies)
    key = load_or_create_signing_key(home / "keys" / "record.key")
    hosts = {name: Silo.open(path) for name, path in copies.items()}
    local = LocalTransport({name: answerer(silo) for name, silo in hosts.items()})
    alone = trained(job, local, copies, tmp_path / "run-local", key)
    with Supervisor() as supervisor:
        directories = {name: there / name for name in names}
        address, certificate = start_silos(supervisor, home, directories, say=lambda _: None)
        wait_online(address, Path(certificate), directories, supervisor.services)
        with FlowerTransport.open(address, Path(certificate), bundle, home=home) as transport:
            together = trained(job, transport, directories, tmp_path / "run-flower", key)

    assert rounds(together) == rounds(alone)
    assert [len(drawn) for drawn, _ in rounds(alone)] == [2, 2, 2]
    assert all(drawn == took for drawn, took in rounds(alone))
    for name, value in alone.params.items():
        np.testing.assert_array_equal(value, together.params[name])
    assert {n: each.epsilon for n, each in together.outcomes.items()} == {
        n: each.epsilon for n, each in alone.outcomes.items()
    }
