"""What is rehearsed with: copies of silos and of the job, so that a rehearsal costs nobody any ε.

A copy has its silo's data, mapping and policy, and nothing of what it remembers: no keys, ledger,
log, answers or matches.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from consilo.config import read_yaml
from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.machine.files import write_atomic
from consilo.yaml_text import to_yaml
from flows.rehearsal.made_up_silos import write_made_up
from flows.rehearsal.place import Place
from flows.services.bundle_modules import local_modules
from flows.services.federation import find_silos
from silos.simulation.in_memory import write_made_up_root

_REMEMBERED = (
    *("*.db", "*.db-*", "*.jsonl", "*.key", "*.key.*", "*.crt", "*.lock", "*.log"),
    *("runs", "replies", "secrets", "matches", "models", "scores", "flwr", "bundles", "cache"),
    *("gx", "sketches", "bundles.yaml", "partners.yaml", "coordinator.yaml", "node.yaml"),
    *("forgotten.json", "given-up.json"),
)
"""Names in a silo's directory; what its data sources name is data, whatever it is called."""


@dataclass(frozen=True)
class Rehearsed:
    """A job and silos to rehearse with.

    Args:
        job: with few rounds, and noise that a second run has too.
        file: of that job; its modules and contracts are beside it.
        silos: name → directory.
        data: how its rows came about, in words.
    """

    job: Job
    file: Path
    silos: Mapping[str, Path]
    data: str


def prepare(path: Path, at: Place, silos: Path | None, *, rounds: int | None) -> Rehearsed:
    """Copy a job and its silos into a rehearsal's place; without silos, make some up.

    Args:
        path: the job's file.
        at: where to.
        silos: folder of silo directories; None makes rows of the job's contract.
        rounds: of training; None keeps the job's, up to 6.

    Raises:
        ConfigInvalid: where ``silos`` holds none.
        JobInvalid: where the job is not valid.
    """
    job = _short(Job.load(path), rounds)
    place = at.jobs
    place.mkdir(mode=0o700, parents=True)
    for module in local_modules(job, path.parent):
        target = place / module.relative_to(path.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, target)
    contract = _keep_contract(job.contract, path.parent, place)
    keys = None
    if job.matching is not None and job.matching.contract:
        keys = _keep_contract(job.matching.contract, path.parent, place)
    job = job.changed(contract=contract.ref)
    file = place / path.name
    write_atomic(file, to_yaml(job.to_json()).encode())
    folder = at.silos
    if silos is None:
        write_made_up(folder, job, contract, keys)
    else:
        for name, source in find_silos(silos).items():
            copy_silo(source, folder / name)
    made = find_silos(folder)
    for name, directory in made.items():
        write_made_up_root(directory, name)
        _open_policy(directory / "policy.yaml")
    return Rehearsed(job, file, made, "made up" if silos is None else f"copied from {silos}")


def _short(job: Job, rounds: int | None) -> Job:
    """Return a job with few rounds, whose noise is the same in each run of it."""
    changes: dict[str, Any] = {}
    if isinstance(job, ModelJob) and job.trains:
        changes["protocol"] = {"rounds": rounds or min(job.protocol.rounds, 6)}
    if job.privacy is not None:
        changes["privacy"] = {"reproducible": True}
    return job.changed(**changes) if changes else job


def _keep_contract(ref: str, beside: Path, place: Path) -> Contract:
    contract = Contract.load(ref, search=[beside])
    write_atomic(place / "contracts" / f"{contract.ref}.yaml", contract.to_json().encode())
    return contract


def copy_silo(source: Path, to: Path) -> None:
    """Copy a silo's data, mapping and policy; of what keys its held-out rows a made-up root."""
    words = read_yaml(source / "silo.yaml")
    data = {Path(each).parts[0] for each in _texts(words.get("data")) if Path(each).parts}

    def remembered(folder: str, names: Sequence[str]) -> set[str]:
        if Path(folder) != source:
            return set()
        return {
            name
            for name in names
            if any(fnmatch(name, each) for each in _REMEMBERED)
            and not any(fnmatch(name, each) for each in data)
        }

    shutil.copytree(source, to, ignore=remembered, symlinks=False)
    file = to / "silo.yaml"
    words = _reachable(words, source)
    write_atomic(file, to_yaml(words).encode())
    write_made_up_root(to, str(words["name"]))


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in the words of a YAML file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _reachable(value: Any, source: Path) -> Any:
    """Return the words of a ``silo.yaml`` whose paths lead where they led before it was copied."""
    if isinstance(value, dict):
        return {key: _reachable(each, source) for key, each in value.items()}
    if isinstance(value, list):
        return [_reachable(each, source) for each in value]
    outside = isinstance(value, str) and value.startswith("../")
    return str((source / value).resolve()) if outside else value


def _open_policy(path: Path) -> None:
    """Let a silo's policy stand for many runs at any hour, with noise that can be compared."""
    policy = read_yaml(path)
    privacy = {**(policy.get("privacy") or {}), "allow_reproducible": True}
    if privacy.pop("budgets", None):
        privacy["required"] = True
    limits = {k: v for k, v in (policy.get("limits") or {}).items() if k != "per_hour"}
    policy = {k: v for k, v in policy.items() if k not in ("hours", "expires")}
    path.write_text(to_yaml({**policy, "privacy": privacy, "limits": limits}))
