"""``consilo run``: what a run left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from consilo.cli import group
from consilo.errors import ConfigInvalid
from flows.commands.terminal import (
    JsonFlag,
)

run_app = group("Look at what a run left.")


@run_app.command("show")
def run_show(
    record: Annotated[Path, typer.Argument(help="A run's directory or its record.jsonl.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what a run record says: who took part, under which contract and code, at what cost.

    A line each, in words; --json gives all that it says.

    Example: consilo run show coordinator/runs/RUN
    """
    from consilo.record.lines import in_words
    from consilo.record.run_record import read

    entries = read(_record(record))
    if as_json:
        print(json.dumps(entries))
        return
    for entry in entries:
        print(in_words(entry))


@run_app.command("verify")
def run_verify(
    record: Annotated[Path, typer.Argument(help="A run's directory or its record.jsonl.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="The coordinator's public key; else keys/record.key.pub beside the runs."
        ),
    ] = None,
    audit: Annotated[
        list[str] | None,
        typer.Option(
            help="SILO=FILE: a silo's audit log to hold against it; may be repeated.",
            metavar="SILO=FILE",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that a run record is whole, every reply signed, and that silos' logs tell the same.

    Example: consilo run verify coordinator/runs/RUN --audit cleveland=audit.jsonl
    """
    from consilo.record import chain
    from consilo.record.crosscheck import compare, signed_replies
    from consilo.record.run_record import read, verify

    path = _record(record)
    # The record of a match that a run made lies in a folder of that run.
    homes = list(path.resolve().parents)[2:4]
    beside = (home / "keys" / "record.key.pub" for home in homes)
    chosen = key or next((each for each in beside if each.exists()), None)
    body = verify(path, _public_key(chosen))
    entries = read(path)
    replies = len(signed_replies(entries))
    findings = []
    for each in audit or []:
        silo, _, log = each.partition("=")
        if silo not in entries[0]["body"]["silos"] or not Path(log).is_file():
            raise ConfigInvalid(each, ["expected SILO=FILE: a silo of this run and its audit log"])
        findings += [
            f"{silo}: {one}" for one in compare(entries, chain.verify_open(Path(log)), silo)
        ]
    trusted = "signed by the coordinator" if chosen else "signed (by the key it names itself)"
    if as_json:
        told = {"replies": replies, "findings": findings, "key": str(chosen) if chosen else None}
        print(json.dumps({"verified": not findings, **told, **body}))
    else:
        print(f"whole: {body['entries']} entries, {trusted}, run {body['status']}")
        print(f"{replies} replies, each signed by its silo")
        print("\n".join(findings) or f"{len(audit or [])} audit logs tell the same")
        if chosen is None:
            print("to check who signed it, give the coordinator's --key", file=sys.stderr)
    raise typer.Exit(1 if findings else 0)


def _record(path: Path) -> Path:
    file = path / "record.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise ConfigInvalid(str(path), ["no run record here; give a run's directory"])
    return file


def _public_key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(path.read_bytes())
        return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    except (OSError, ValueError):
        raise ConfigInvalid(str(path), ["expected the PEM file of an Ed25519 public key"]) from None
