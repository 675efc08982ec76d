"""Make what a release keeps on disk: ``python make_kept.py TREE OUT.zip``.

TREE is a checkout of the release. Exported models hold the paths of all that they were traced
through, so tree and packages are reached by names that say nothing of a machine:

    mkdir -p /tmp/release/tree && git archive COMMIT | tar -x -C /tmp/release/tree
    ln -s SITE_PACKAGES /tmp/release/packages
    PYTHONPATH=/tmp/release/packages python3.11 make_kept.py /tmp/release/tree OUT.zip

This is a program of wire version 2 (commit a3849a5) and speaks
that tree's names; the next one to be frozen gets a copy with names of its own.
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

TREE, OUT = (Path(each).absolute() for each in sys.argv[1:])
sys.path[:0] = [str(TREE), str(TREE / "tests" / "support")]

import joint
import numpy as np
import torch
import yaml
from consilo.contract import Contract
from consilo.dispatch import answerer
from consilo.features import Encoding, Scale
from consilo.job import Job
from consilo.learning import learner_of
from consilo.run import Run, run_all
from consilo.vertical_run import VerticalRun, run_vertical
from silos.enrol import enrol_here
from silos.policy import TEMPLATE

from consilo.kernel import Party
from consilo.membership.coordinator import Coordinator
from consilo.transports.local import LocalTransport
from flows import registry, vertical_registry
from silos.silo import Silo

RISK = {
    "name": "risk",
    "version": 1,
    "columns": {
        "b0": {"type": "float", "range": {"min": -1e3, "max": 1e3}},
        "b1": {"type": "float", "range": {"min": -1e3, "max": 1e3}},
        "churned": {"type": "integer", "role": "target", "allowed": [0, 1]},
    },
}
PRIVATE = {
    "name": "risk",
    "contract": "risk@1",
    "model": {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [4]}},
    "protocol": {"name": "fedavg", "rounds": 2},
    "local": {"batch_size": 32, "epochs": 1, "lr": 0.1},
    "privacy": {"unit": "record", "epsilon": 3.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "quorum": {"min_silos": 1},
}
POLICY = {
    **joint.POLICY,
    "allow": [{"jobs": ["risk"]}],
    "min_cohort": 1,
    "privacy": {"budgets": {"*": {"epsilon": 10.0, "delta": 1e-3}}},
}


def make(place: Path) -> None:
    """Write silos, contracts, a coordinator's home with runs, and registered models."""
    people = joint.everybody(120)
    silos = joint.write_silos(place / "silos", people)
    rows = joint.holds(people, "bank")
    lender = joint.write_silo(place / "silos", "lender", rows, POLICY)
    (place / "silos" / "risk.yaml").write_text(yaml.safe_dump(RISK, sort_keys=False))
    recode = {"churned": {"from": "OUTCOME", "recode": {"left": 1, "stayed": 0}}}
    mapping = {"contract": "risk@1", "columns": recode}
    (lender / "mappings" / "risk@1.yaml").write_text(yaml.safe_dump(mapping))
    (place / "policy.template.yaml").write_text(TEMPLATE)
    home = place / "coordinator"
    for _ in range(2):  # the second time, everybody sees everybody
        for directory in (*silos.values(), lender):
            enrol_here(home, directory, address="127.0.0.1:9")
    with Coordinator(home) as coordinator:
        key = coordinator.signing_key

    def settings(run_id: str, names: tuple[str, ...]) -> dict:
        hosts = {
            name: Silo.open(place / "silos" / name, search_path=(place / "silos",))
            for name in names
        }
        return {
            "transport": LocalTransport({name: answerer(host) for name, host in hosts.items()}),
            "silos": names,
            "directory": home / "runs" / run_id,
            "run_id": run_id,
            "key": key,
            "parties": {name: Party(host.signing_key) for name, host in hosts.items()},
            "search_path": [place / "silos"],
        }

    private = Job.from_json(PRIVATE)
    risk = Contract.load("risk@1", search=[place / "silos"])
    if os.fork() == 0:  # before anything has made threads
        die_after_a_round(Run(private, risk, **settings("risk-2", ("lender",))))
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 9
    ended = run_all(Run(private, risk, **settings("risk-1", ("lender",))))
    assert ended.status == "complete", ended.reason

    both = Contract.load("joint@1", search=[place / "silos"])
    match = {**joint.MATCH, "expires_days": 3650}
    vertical = VerticalRun(joint.job_of(match=match), both, **settings("first", tuple(silos)))
    ended = run_vertical(vertical)
    assert ended.status == "complete", ended.reason

    register(place, private, risk, vertical)


def die_after_a_round(run: Run) -> None:
    """End this process once the run has written a checkpoint."""
    written = run._write_checkpoint

    def write_and_die(payload) -> None:
        written(payload)
        os._exit(9)

    run._write_checkpoint = write_and_die
    run_all(run)
    os._exit(1)


def register(place: Path, job: Job, contract: Contract, vertical: VerticalRun) -> None:
    """Save both kinds of registered models as the registry does, but for the tracking server."""
    from mlflow.models import Model

    encoding = Encoding.plan(contract, job)
    scored = registry.Scored(
        job,
        contract,
        encoding,
        Scale(np.array([5.0, 5.0]), np.array([1.0, 2.0])),
        learner_of(job, encoding),
    )

    def kept(name):
        def versioned(client, run_id, job, *, metrics, save):
            (place / "models" / name).mkdir(parents=True)
            with tempfile.TemporaryDirectory() as made:
                save(Path(made), Model(model_uuid="m-1"))
                (Path(made) / "saved").rename(place / "models" / name / "saved")

        return versioned

    registry.versioned = kept("risk")
    registry.register(None, "", scored, metrics={})
    vertical_registry.versioned = kept("joint")
    vertical_registry.register(None, "", vertical)
    frame = registry.example_frame(contract, encoding)
    from flows.scoring_model import ScoringModel

    model = ScoringModel()
    model.open(next((place / "models" / "risk" / "saved" / "artifacts").iterdir()))
    frame.to_csv(place / "models" / "risk" / "rows.csv", index=False)
    model.predict(None, frame).to_csv(place / "models" / "risk" / "said.csv", index=False)


def pack(place: Path, out: Path) -> None:
    """Write the files of ``place``; no path of this machine may be in any of them."""
    packages = Path(torch.__file__).resolve().parents[1]
    places = (place, packages, Path.home())
    odd = [str(each).encode() for each in places]
    wanted = [file for file in sorted(place.rglob("*")) if file.is_file()]
    # fingerprints.json only saves hashing, and names files by where they lie.
    left = ("fingerprints.json", ".pyc", ".lock")
    wanted = [file for file in wanted if not any(str(file).endswith(each) for each in left)]
    found = {
        file.relative_to(place).as_posix(): each
        for file in wanted
        for each in odd
        if each in file.read_bytes()
    }
    assert not found, found
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for file in wanted:
            packed.writestr(file.relative_to(place).as_posix(), file.read_bytes())


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="kept-"))
    os.chdir(folder)
    make(folder / "kept")
    pack(folder / "kept", OUT)
    shutil.rmtree(folder)
    print(OUT.name, OUT.stat().st_size, "bytes")
