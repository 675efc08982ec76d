"""Entity matching between real nodes, and all that the coordinator has of it on its disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from agreed import agree
from typer.testing import CliRunner

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.machine.processes import Supervisor
from consilo.membership.keys import load_or_create_signing_key
from consilo.transports.flower.bundle import bundle_hash
from flows.commands.match import match_app
from flows.services.federation import Addresses, job_bundle, start_silos, wait_online
from silos.gate.bundles import approve
from silos.kept.matches import read_match

pytestmark = [pytest.mark.federation, pytest.mark.timeout(280)]

CONTRACT = """
name: people
version: 1
columns:
  number: {type: string, role: id, nullable_share: 1.0}
  surname: {type: string, role: id, nullable_share: 1.0}
"""
JOB = {
    "name": "joint",
    "contract": "people.yaml",
    "kind": "match",
    "quorum": {"min_silos": 3},
    "match": {
        "hub": "bank",
        "recipe": {
            "keys": [{"parts": [{"column": "number"}]}, {"parts": [{"column": "surname"}]}],
        },
    },
}
POLICY = {
    "allow": [{"jobs": ["joint"]}],
    "disclosures": {"sealed": True, "match": True},
    "matching": {"min_set_size": 100, "min_intersection": 50},
}
PEOPLE = {"bank": range(600), "clinic": range(200, 900), "telecom": range(100, 700, 2)}


def table(numbers, seed: int) -> pd.DataFrame:
    order = np.random.default_rng(seed).permutation(list(numbers))
    return pd.DataFrame(
        {
            "number": [f"NUM-{n}-SENTINEL" if n % 5 else None for n in order],
            "surname": [f"Name-{n}-Sentinel" for n in order],
        }
    )


def held(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def test_three_nodes_match_their_people_and_the_coordinator_holds_none(
    tmp_path: Path,
) -> None:
    home, silos = tmp_path / "coordinator", {}
    (tmp_path / "people.yaml").write_text(CONTRACT)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    home.mkdir()
    signer = load_or_create_signing_key(home / "keys" / "record.key")
    digest = bundle_hash(job_bundle(Job.load(tmp_path / "job.yaml"), (tmp_path,), signer))
    tables = {name: table(each, seed) for seed, (name, each) in enumerate(PEOPLE.items())}
    for name, rows in tables.items():
        place = silos[name] = tmp_path / "silos" / name
        place.mkdir(parents=True)
        rows.to_parquet(place / "rows.parquet", index=False)
        source = {"people": {"type": "parquet", "path": "rows.parquet"}}
        (place / "silo.yaml").write_text(yaml.safe_dump({"name": name, "data": source}))
        (place / "policy.yaml").write_text(yaml.safe_dump(POLICY))
        agree(place, Contract.load(tmp_path / "people.yaml"))
        approve(place, digest)
    with Supervisor() as supervisor:
        superlink, certificate = start_silos(supervisor, home, silos, lambda _: None)
        wait_online(superlink, Path(certificate), silos, supervisor.services)
        where = Addresses(superlink, certificate, "", "", {n: str(p) for n, p in silos.items()})
        (home / "federation.json").write_text(json.dumps(asdict(where)))
        asked = ["run", str(tmp_path / "job.yaml"), "--dir", str(home), "--json"]
        result = CliRunner().invoke(match_app, asked)
        told = json.loads(result.stdout)
        assert told["status"] == "complete", told["reason"]
        seen = held(home)
    halves = {name: read_match(place, "joint") for name, place in silos.items()}
    names = [tables[n]["surname"].iloc[half.rows].tolist() for n, half in halves.items()]
    assert names[0] == names[1] == names[2]
    assert set(names[0]) == {f"Name-{n}-Sentinel" for n in range(200, 600, 2)}
    # No silo lets statistics leave: not even how many matched is on the coordinator's disk.
    assert told["silos"] == {}
    assert len(seen) > 100_000
    assert b"SENTINEL" not in seen
    assert b"entinel" not in seen
    assert not any(list(place.glob("runs/*/*")) for place in silos.values())
    for place in silos.values():  # neither do the silos' logs tell it
        assert b"entinel" not in (place / "audit.jsonl").read_bytes()
        assert b"entinel" not in (place / "node.log").read_bytes()
