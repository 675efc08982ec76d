"""The operator's commands over what happens in a silo: code, requests, answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from consilo.cli import group

Directory = Annotated[Path, typer.Option("--dir", help="The silo's directory.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Digest = Annotated[str, typer.Argument(help="SHA-256 of the bundle, or how it begins.")]

_MAX_SHOWN = 3000
"""Characters of one line of the log; ``--json`` has all of it."""

audit_app = group("Read and verify the silo's audit log.")


def bundles(
    directory: Directory = Path("."),
    diff: Annotated[
        str | None, typer.Option(help="Show how this one differs from the last approved.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Show the text of this one, and what it imports.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the code that wants to run here, and what was decided.

    Example: consilo silo bundles --diff 3f5a --dir silos/cleveland
    """
    from silos.gate.bundle_source import difference
    from silos.gate.bundles import bundles as listed
    from silos.gate.bundles import resolve
    from silos.silo_config import require_directory

    require_directory(directory)
    if diff is not None:
        print(difference(directory, resolve(directory, diff)))
        return
    if source is not None:
        _show_source(directory, resolve(directory, source), as_json)
        return
    entries = listed(directory)
    if as_json:
        print(json.dumps({"bundles": [asdict(each) for each in entries]}))
        return
    if not entries:
        print("no bundle has come yet")
    for each in entries:
        label = each.label
        what = "Consilo's own frame, no modules" if each.size and label is None else "not kept here"
        if label is not None:
            who = f"signed by {label.signer[:16]}" if label.signer else "not signed"
            what = f"{label.package}: {', '.join(label.disclosures) or 'nothing leaves'}; {who}"
        print(f"{each.state:<10}{each.digest[:16]}  {each.size:>9,} B  {each.fault or what}")


def approve(
    digest: Digest,
    directory: Directory = Path("."),
    always: Annotated[
        bool,
        typer.Option(
            "--always", help="And whatever its signer signs for this package and these classes."
        ),
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; it stays in the audit log.")] = "",
) -> None:
    """Approve a bundle: the code with this hash may run on this silo's rows.

    Example: consilo silo approve 3f5a --dir silos/cleveland
    """
    from silos.gate.bundles import approve as approve_bundle
    from silos.gate.bundles import resolve

    new = approve_bundle(directory, resolve(directory, digest), always=always, reason=reason)
    print("approved" if new else "was approved before")


def reject(
    digest: Digest,
    directory: Directory = Path("."),
    reason: Annotated[str, typer.Option(help="Why; it stays in the audit log.")] = "",
) -> None:
    """Reject a bundle: the code with this hash does not run here, whatever a rule says.

    Example: consilo silo reject 3f5a --dir silos/cleveland
    """
    from silos.gate.bundles import reject as reject_bundle
    from silos.gate.bundles import resolve

    new = reject_bundle(directory, resolve(directory, digest), reason=reason)
    print("rejected" if new else "was rejected before")


def _show_source(directory: Path, digest: str, as_json: bool) -> None:
    from consilo.printable import printable, printable_lines
    from silos.gate.bundle_source import source_of

    found = source_of(directory, digest)
    if as_json:
        told = {"modules": dict(found.modules), "imports": [asdict(e) for e in found.imports]}
        print(json.dumps({"bundle": digest, **told}))
        return
    for each in found.imports:
        reaches = f"  reaches {each.reaches}" if each.reaches else ""
        files = ", ".join(map(printable, each.files))
        print(f"imports {printable(each.module):<24}{each.origin:<10}{files}{reaches}")
    for name, text in found.modules.items():
        print(f"\n# {printable(name)}\n{printable_lines(text)}")


@audit_app.command("show")
def audit_show(
    directory: Directory = Path("."),
    last: Annotated[int, typer.Option(min=1, help="How many lines.")] = 20,
    find: Annotated[str, typer.Option(help="Only lines with these words.")] = "",
    kind: Annotated[str, typer.Option(help="Only lines of this kind, such as asked.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Show the newest lines: who asked what, what was decided, what left.

    Example: consilo silo audit show --last 50 --dir silos/cleveland
    """
    from consilo.printable import printable
    from silos.gate.audit_lines import in_words, search

    found = search(directory, words=find, kind=kind, most=last)
    entries = found.entries[::-1]
    if as_json:
        print(json.dumps({"entries": entries}))
        return
    for entry in entries:
        said = f"{entry['time']}  {entry['kind']:<9} {in_words(entry)}"
        print(printable(said, most=_MAX_SHOWN))


@audit_app.command("verify")
def audit_verify(
    directory: Directory = Path("."),
    record: Annotated[
        list[Path] | None, typer.Option(help="A run record to hold against it; may be repeated.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify that no line was edited, removed or moved, and that ledger and records tell the same.

    Example: consilo silo audit verify --record record.jsonl --dir silos/cleveland
    """
    from consilo.config import parse, read_yaml
    from consilo.errors import RecordTampered
    from consilo.record import chain
    from consilo.record import run_record as records
    from consilo.record.crosscheck import compare
    from silos.gate.guard import CoordinatorConfig
    from silos.kept.ledger import Ledger
    from silos.silo_config import SiloConfig

    path = directory / "audit.jsonl"
    entries = chain.verify_open(path)
    name = parse(SiloConfig, read_yaml(directory / "silo.yaml"), where="silo.yaml").name
    keys = CoordinatorConfig.load(directory).signing_keys
    spent = {chain.START, *(each["hash"] for each in Ledger(directory / "ledger.db").entries())}
    findings = [
        f"the privacy ledger has not the entry that was its newest at the end of {told['run']}"
        for told in (each["body"] for each in entries if each["kind"] == "ledger")
        if told["head"] not in spent
    ]
    for each in record or []:
        closing = records.verify(each)
        if keys and closing["public_key"] not in keys:
            raise RecordTampered(f"{each.name}: not signed by the coordinator that we joined")
        findings += [f"{each.name}: {one}" for one in compare(chain.read(each), entries, name)]
    head = entries[-1]["hash"] if entries else chain.START
    if as_json:
        print(json.dumps({"lines": len(entries), "head": head, "findings": findings}))
    else:
        print("\n".join([*findings, f"{len(entries)} lines, head {head}"]))
        if record and not findings:
            print(f"{len(record)} run records tell the same")
    raise typer.Exit(1 if findings else 0)
