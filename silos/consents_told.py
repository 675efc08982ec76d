"""Where a silo's consents are, and how many rows they let be used: for its people, in counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consilo.config import parse, read_yaml
from consilo.jobs.job import UNSTATED
from silos.gate.audit_lines import newest_first
from silos.gate.policy import Policy
from silos.rows.consent import Consent
from silos.rows.tables import Tables
from silos.silo_config import SiloConfig, require_directory

REASONS = {
    "withdrawn": "withdrawn",
    "expired": "expired, or not begun",
    "other_purpose": "for another purpose only",
    "none": "no consent",
}
_MOST_LINES = 5_000
_MOST_PURPOSES = 20


@dataclass(frozen=True)
class Consents:
    """The consents of one data set.

    Args:
        data: the data set's name.
        sentences: where they are, and what they are held to be.
        last: purpose → time, run and counts of the newest request that looked at them.
    """

    data: str
    sentences: tuple[str, ...]
    last: dict[str, dict[str, Any]]


def consents(directory: Path) -> tuple[list[Consents], list[str]]:
    """Return what is known of consents without reading them; and data sets that ask for none.

    Raises:
        ConfigInvalid: where ``silo.yaml`` is not valid.
    """
    config = _config(directory)
    last: dict[str, dict[str, Any]] = {}
    if config.consent:
        for body, time in _looked(directory):
            last.setdefault(body["purpose"], {"time": time, "run": body["run"], **body["consent"]})
    found = [Consents(name, tuple(_sentences(spec)), last) for name, spec in config.consent.items()]
    return found, [name for name in config.data if name not in config.consent]


def purposes(directory: Path) -> list[str]:
    """Return the purposes that are worth counting for: of the policy, of consents, of requests."""
    config = _config(directory)
    found: dict[str, None] = {}
    for spec in config.consent.values():
        for covered in (spec.purposes or {}).values():
            found |= dict.fromkeys(covered)
    for rule in Policy.load(directory / "policy.yaml").allow:
        found |= dict.fromkeys(each for each in rule.purposes or () if not set(each) & set("*?["))
    found |= dict.fromkeys(str(body["purpose"]) for body, _ in _looked(directory))
    return sorted(list(found)[:_MOST_PURPOSES]) or [UNSTATED]


def count(directory: Path, asked: list[str] | None = None) -> dict[str, dict[str, dict[str, int]]]:
    """Return data set → purpose → how many rows may be used now, and why the others may not.

    Args:
        directory: the silo's.
        asked: purposes; None takes `purposes`.

    Raises:
        SourceUnreadable: where rows or consents cannot be read.
    """
    config = _config(directory)
    tables = Tables(
        directory.resolve(),
        config.data,
        config.consent,
        docs=False,
        now=lambda: datetime.now(UTC),
    )
    return tables.consents(asked or purposes(directory))


def _config(directory: Path) -> SiloConfig:
    require_directory(directory)
    path = directory / "silo.yaml"
    return parse(SiloConfig, read_yaml(path), where=str(path))


def _looked(directory: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield requests that looked at consents, the newest first, each with its time."""
    for at, entry in enumerate(newest_first(directory / "audit.jsonl")):
        if at >= _MOST_LINES:
            return
        if entry["kind"] == "asked" and "consent" in entry["body"]:
            yield entry["body"], entry["time"]


def _sentences(spec: Consent) -> Iterator[str]:
    if spec.source is None:
        yield "Each row says itself whether it may be used."
    else:
        yield f"They are in a table of their own ({spec.source.description.get('type', 'table')})."
    if spec.subject is not None:
        key = spec.key or spec.subject
        yield f"Whose row it is says '{spec.subject}'; in the consents that is '{key}'."
    yield f"What a consent is for says '{spec.purpose}'."
    for stated, covered in (spec.purposes or {}).items():
        yield f"'{stated}' there covers the purposes {', '.join(covered) or 'of nobody'}."
    dates = {
        "begins": spec.granted_at,
        "ends": spec.expires,
        "was withdrawn": spec.withdrawn_at,
    }
    for word, column in dates.items():
        if column is not None:
            yield f"When it {word} says '{column}'."
    yield "What cannot be read allows nothing."
