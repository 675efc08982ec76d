"""The audit log as people read it: newest lines first, found by their words, in sentences.

The file is read backwards through memory that the system maps, so that the newest lines of a log of
any length come at once, while the node appends to it. A line that was not written to its end yet is
left out.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.errors import RecordTampered

Entry = Mapping[str, Any]

KINDS: Mapping[str, str] = {
    "asked": "requests",
    "answered": "answers",
    "bundle": "code",
    "voted": "votes",
    "monitored": "words on the model in use",
    "overruled": "people's word on a vote",
    "ledger": "ledger at a run's end",
    "match": "matches",
    "linked": "accounts that hold the same rows",
    "apart": "accounts that people told apart",
    "histograms": "released histograms",
    "part": "parts of models",
    "scored": "rows that a model scored",
    "model_dropped": "parts that were deleted",
    "accepted": "people went on after a loss",
    "folded": "lines that were only counted",
    "left": "the silo left",
}
"""Kind of a line → what such lines are about."""


@dataclass(frozen=True)
class Found:
    """Some lines of the log.

    Args:
        entries: the newest first.
        more: whether older lines fit as well.
    """

    entries: tuple[dict[str, Any], ...]
    more: bool


def search(
    directory: Path, *, words: str = "", kind: str = "", before: int | None = None, most: int = 50
) -> Found:
    """Return the newest lines that hold all of some words, whatever case they are written in.

    Args:
        directory: the silo's.
        words: each must stand in the line, or in what `in_words` says of it; none finds all.
        kind: of the lines; empty for any.
        before: only lines before the one of this number.
        most: how many are returned.

    Raises:
        RecordTampered: where a line is no entry.
    """
    wanted = words.casefold().split()
    found: list[dict[str, Any]] = []
    for entry in newest_first(directory / "audit.jsonl"):
        if before is not None and entry["seq"] >= before:
            continue
        if kind and entry["kind"] != kind:
            continue
        if wanted:
            text = f"{json.dumps(entry, ensure_ascii=False)} {in_words(entry)}".casefold()
            if not all(each in text for each in wanted):
                continue
        if len(found) == most:
            return Found(tuple(found), more=True)
        found.append(entry)
    return Found(tuple(found), more=False)


def newest_first(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log from the last whole one to the first; none where it is not there.

    Raises:
        RecordTampered: where a line is no entry.
    """
    if not path.exists() or not path.stat().st_size:
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        end = content.rfind(b"\n")
        while end >= 0:
            start = content.rfind(b"\n", 0, end) + 1
            yield _entry(content[start:end], path.name)
            end = start - 1


def in_words(entry: Entry) -> str:
    """Return what a line says; one of a kind that is not known here is told as it stands."""
    body: Mapping[str, Any] = entry["body"]
    say = _WORDS.get(entry["kind"], _as_it_stands)
    try:
        return say(body)
    except (KeyError, TypeError, ValueError, AttributeError):  # of another release
        return _as_it_stands(body)


def mood(entry: Entry) -> str:
    """Return how a line is marked: good, warn, bad, wait or off, as `consilo.pages` draws them."""
    body = entry["body"]
    said = str(body.get("decision", body.get("status", body.get("verdict", ""))))
    if said in ("refused", "rejected", "no"):
        return "bad"
    if said == "fault" or entry["kind"] in ("accepted", "folded"):
        return "warn"
    if said in ("allowed", "approved", "ok", "yes"):
        return "good"
    return "off"


def _entry(line: bytes, name: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if not isinstance(entry["body"], dict) or not isinstance(entry["kind"], str):
            raise ValueError("not as it was written")
        if not isinstance(entry["seq"], int) or not isinstance(entry["time"], str):
            raise ValueError("not as it was written")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RecordTampered(
            f"{name}: a line was edited; 'consilo silo audit verify' says which"
        ) from None
    return dict(entry)


def _asked(body: Mapping[str, Any]) -> str:
    why = f": {body['reason']}" if "reason" in body else ""
    return f"{body['decision']:<9}{body['run']} {body['protocol']}/{body['verb']}{why}"


def _answered(body: Mapping[str, Any]) -> str:
    if body["status"] == "fault":
        return f"fault    {body['code']}: {body['reason']}"
    sizes = ", ".join(f"{n} {each['bytes']:,} B" for n, each in body["fields"].items())
    return f"left     {sizes or 'nothing'}"


def _bundle(body: Mapping[str, Any]) -> str:
    by = f" by {body['by']}" if "by" in body else ""
    why = f": {body['reason']}" if "reason" in body else ""
    return f"{body['decision']:<9}code {str(body['bundle'])[:16]}{by}{why}"


def _voted(body: Mapping[str, Any]) -> str:
    why = f": {', '.join(map(str, body['reasons']))}" if body["reasons"] else ""
    return f"{body['verdict']:<9}on the model of {body['trained']}{why}"


def _overruled(body: Mapping[str, Any]) -> str:
    if not body["verdict"]:
        return f"people here take back what they said of the model of {body['trained']}"
    return (
        f"{body['verdict']:<9}say people here of the model of {body['trained']}: {body['reason']}"
    )


def _as_it_stands(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False)


_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "asked": _asked,
    "answered": _answered,
    "bundle": _bundle,
    "voted": _voted,
    "monitored": _voted,
    "overruled": _overruled,
}
