"""Hold a run record against the silos' audit logs: neither side can rewrite history unnoticed.

Every signed reply in the record names the line of the silo's audit log that tells of it; every
line of the log that tells of a request names the line of the run record that was newest then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from consilo.errors import RecordTampered, ReplyInvalid
from consilo.kernel.headers import ReplyHeader
from consilo.wire.payload import canonical_json

Entry = Mapping[str, Any]


def signed_replies(record: Sequence[Entry]) -> list[ReplyHeader]:
    """Return the replies in a run record, each with the signature of the silo that it names.

    Raises:
        RecordTampered: where one is not signed with the key that the record's first line names.
    """
    keys = record[0]["body"].get("signing_keys", {})
    found = []
    for number, value in _replies(record):
        try:
            header = ReplyHeader.decode(canonical_json(value))
        except (ReplyInvalid, ValueError):
            header = None
        if header is None or not header.is_signed_by(str(keys.get(header.silo, ""))):
            raise RecordTampered(f"line {number}: a reply is not signed by its silo")
        found.append(header)
    return found


def compare(record: Sequence[Entry], audit: Sequence[Entry], silo: str) -> list[str]:
    """Return what does not fit between a run record and one silo's audit log; empty if all does.

    Args:
        record: entries of a verified run record.
        audit: entries of the verified audit log.
        silo: whose log it is.
    """
    run_id = str(record[0]["body"]["run_id"])
    heads = {str(entry["hash"]) for entry in record}
    restored = any(entry["kind"] == "restored" for entry in record)
    lines = {str(entry["hash"]): entry for entry in audit}
    findings = []
    told = set()
    for header in signed_replies(record):
        if header.silo != silo:
            continue
        told.add(header.step_id)
        line = lines.get(header.head)
        said = {} if line is None else line["body"]
        same = all(said.get(n) == getattr(header, n) for n in ("status", "content"))
        if line is None or line["kind"] != "answered" or said.get("step") != header.step_id:
            findings.append(f"the reply to step {header.step_id} is not in the silo's log")
        elif not same:
            findings.append(f"the reply to step {header.step_id} is another one in the silo's log")
    steps = set()
    for entry in audit:
        body = entry["body"]
        if entry["kind"] == "asked" and body.get("run") == run_id:
            steps.add(body["step"])
            if body["coordinator_head"] not in heads:
                lost = "a line that was lost when the coordinator was restored from a backup"
                other = lost if restored else "a record that is not this one"
                findings.append(f"step {body['step']} was asked under {other}")
    for entry in audit:
        body = entry["body"]
        if entry["kind"] == "answered" and body["status"] == "ok" and body["step"] in steps - told:
            findings.append(f"the silo answered step {body['step']}, the record has no such reply")
            told.add(body["step"])
    return findings


def _replies(record: Sequence[Entry]) -> Iterator[tuple[int, Any]]:
    for number, entry in enumerate(record, start=1):
        if entry["kind"] == "replies":
            for value in entry["body"].get("headers", ()):
                yield number, value
