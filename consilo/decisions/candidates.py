"""Which versions of a model there are, by the run records: no registry is believed or needed.

The record of a run is signed, names the version that came of it and the digest of its parameters,
and says how the run ended. A tag in the registry is whatever somebody wrote there last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from consilo.decisions.signed_lines import coordinators_keys
from consilo.errors import DecisionRefused, RecordTampered
from consilo.jobs.sections.promotion import Promotion
from consilo.record import run_record
from consilo.record.chain import Chain

_MODEL = b'"kind":"model"'


@dataclass(frozen=True)
class Candidate:
    """One version of a model, and the run that it came of.

    Args:
        model: its name.
        version: counted by the registry.
        run: the run's name.
        digest: SHA-256 of its parameters; of a vertical model, of its references.
        record: hash of the last line of the run's record.
        kind: of the run's job.
        status: how the run ended: complete or degraded.
        reason: why it is degraded; else empty.
        ended: UTC, ISO 8601.
        author: the login that started the run; empty where its record does not say.
        silos: who was asked.
        promotion: what the job holds it to.
    """

    model: str
    version: int
    run: str
    digest: str
    record: str
    kind: str
    status: str
    reason: str
    ended: str
    author: str
    silos: tuple[str, ...]
    promotion: Promotion

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        told = asdict(self)
        return {**told, "silos": list(self.silos), "promotion": self.promotion.model_dump()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote; what a later release adds is left out."""
        known = {name: value[name] for name in cls.__dataclass_fields__}
        promotion = Promotion.model_validate(dict(value["promotion"]))
        return cls(**{**known, "silos": tuple(value["silos"]), "promotion": promotion})


def versions(home: Path, model: str) -> dict[int, Path]:
    """Return which version of a model came of which run's record, the oldest first."""
    found = {}
    for record in home.glob("runs/*/record.jsonl"):
        told = _registered(record)
        if told.get("name") == model:
            found[int(told["version"])] = record
    return dict(sorted(found.items()))


def look_up(home: Path, model: str, version: int | None = None) -> Candidate:
    """Return a version of a model as its run's record tells of it.

    Args:
        home: the coordinator's directory.
        model: its name.
        version: which; None takes the newest of a complete run, else the newest.

    Raises:
        DecisionRefused: where there is no such version.
        RecordTampered: where the run's record does not verify.
    """
    known = versions(home, model)
    if version is not None and version not in known:
        told = f"known: {', '.join(map(str, known))}" if known else "none is known"
        raise DecisionRefused(
            f"{model} version {version}: no run whose record is in {home / 'runs'} made it; {told}"
        )
    if not known:
        raise DecisionRefused(
            f"{model}: no run whose record is in {home / 'runs'} made a version of it"
        )
    if version is not None:
        return _read(home, model, version, known[version])
    newest = None
    for each in reversed(known):
        candidate = _read(home, model, each, known[each])
        newest = newest or candidate
        if candidate.status == "complete":
            return candidate
    assert newest is not None
    return newest


def _read(home: Path, model: str, version: int, record: Path) -> Candidate:
    run = record.parent.name
    try:
        closing = run_record.verify(record)
    except RecordTampered as cause:
        raise RecordTampered(f"run {run}, which made {model} version {version}: {cause}") from None
    if closing.get("public_key") not in coordinators_keys(home):
        raise RecordTampered(
            f"run {run}, which made {model} version {version}: its record is signed by a key that "
            "is none of this coordinator's"
        )
    entries = run_record.read(record)
    opened = entries[0]["body"]
    told = next(each["body"] for each in reversed(entries) if each["kind"] == "model")
    job = opened["job"]
    return Candidate(
        model,
        version,
        run,
        str(told["params"]),
        str(entries[-1]["hash"]),
        str(job.get("kind", "horizontal")),
        str(closing["status"]),
        str(closing["reason"]),
        str(entries[-1]["time"]),
        str(opened.get("started_by", "")),
        tuple(opened["silos"]),
        Promotion.model_validate(job.get("promotion") or {}),
    )


def _registered(record: Path) -> Mapping[str, Any]:
    """Return what a record says of the registry's version that its run made; nothing where none."""
    try:
        line = Chain(record).last_with(_MODEL)
    except (json.JSONDecodeError, OSError):
        return {}
    if line is None or line.get("kind") != "model":
        return {}
    return line["body"].get("model") or {}
