"""``consilo demo --vertical``: three organisations with different columns of the same patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from consilo.contracts.contract import SHIPPED
from consilo.jobs.job import Job
from consilo.jobs.joint import JointJob
from consilo.machine.environment import quieten
from consilo.machine.files import write_atomic
from consilo.machine.processes import Supervisor
from consilo.yaml_text import to_yaml
from flows.demo.demo import DemoOptions
from flows.demo.vertical_demo_data import Organisation, write_organisations
from flows.services.federation import Addresses, job_bundle, rise
from flows.services.launch import launch
from flows.services.place import Say
from flows.services.watch import Watch
from silos.gate.bundles import approve
from silos.kept.matches import read_match

_TRAINING, _SCORING = "breast_cancer_vertical", "breast_cancer_scores"


def run_vertical_demo(
    supervisor: Supervisor, options: DemoOptions, say: Say
) -> tuple[dict[str, Any], Addresses]:
    """Match, train, evaluate, register and score; return the summary, and where services answer.

    The summary is that of the training, with ``match`` as the demo knows it, who has made the
    people up, ``parts`` and ``scores``: where the silos keep what they have.

    Raises:
        ServiceFailed: where something does not come up.
    """
    quieten()
    home = options.directory
    say(f"work directory {home}")
    job, training = _write_job(home, _TRAINING, options)
    scoring_job, scoring = _write_job(home, _SCORING, options)
    organisations = write_organisations(home / "silos", job, seed=options.seed)
    from consilo.transports.flower.bundle import bundle_hash

    digest = bundle_hash(job_bundle(job, (training.parent,)))
    for each in organisations:
        approve(each.directory, digest)
    names = ", ".join(f"{each.name} {len(each.patients)}" for each in organisations)
    say(f"rows: {names}; each approves bundle {digest[:12]}")
    silos = {each.name: each.directory for each in organisations}
    rising = rise(supervisor, home, silos, say=say)
    running = launch(supervisor, home, job, {"job": str(training)})
    addresses = rising.wait()
    watch = Watch(home, supervisor, say)
    summary = running.wait(say, watch.look)
    if summary.get("status") != "failed":
        summary |= _kept(summary, organisations, job.holders.match)
        say("scoring the matched patients with the registered model")
        going = launch(supervisor, home, scoring_job, {"job": str(scoring)})
        scored = going.wait(say, watch.look)
        summary["scoring"] = _scoring(scored, silos[job.holders.label_silo])
    write_atomic(home / "summary.json", json.dumps(summary, indent=1).encode())
    return summary, addresses


def quality(organisations: Sequence[Organisation], handle: str) -> dict[str, Any]:
    """Return how good a match is, by what the demo knows and no silo does.

    Returns:
        ``matched``, ``right`` (the same patient in every silo), ``in_all`` (patients that every
        silo has), ``precision`` and ``recall`` of them.
    """
    pairs = [each.patients[read_match(each.directory, handle).rows] for each in organisations]
    same = np.all([each == pairs[0] for each in pairs], axis=0)
    in_all = set.intersection(*({int(n) for n in each.patients} for each in organisations))
    recalled = len({int(patient) for patient in pairs[0][same]} & in_all)
    return {
        "matched": len(same),
        "right": int(same.sum()),
        "in_all": len(in_all),
        "precision": float(same.mean()) if len(same) else 0.0,
        "recall": recalled / len(in_all),
    }


def _kept(
    summary: Mapping[str, Any], organisations: Sequence[Organisation], handle: str
) -> dict[str, Any]:
    run = str(summary["run_id"])
    parts = {each.name: str(each.directory / "models" / run) for each in organisations}
    match = dict(summary.get("match") or {}) | {"truth": quality(organisations, handle)}
    return {"match": match, "parts": parts}


def _scoring(scored: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return what the summary tells of the scoring; the scores themselves are the silo's."""
    place = directory / "scores" / f"{scored.get('run_id')}.csv"
    told = {key: scored.get(key) for key in ("run_id", "status", "reason", "record")}
    return told | {"scores": str(place) if place.exists() else None}


def _write_job(home: Path, name: str, options: DemoOptions) -> tuple[JointJob, Path]:
    job = JointJob.of(Job.load(SHIPPED / "jobs" / f"{name}.yaml"))
    changes: dict[str, Any] = {"seed": options.seed}
    if options.rounds is not None and job.trains:
        changes["protocol"] = {"rounds": options.rounds}
    job = job.changed(**changes)
    path = home / "jobs" / f"{job.name}.yaml"
    write_atomic(path, to_yaml(job.to_json()).encode())
    return job, path
