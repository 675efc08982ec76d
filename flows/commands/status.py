"""``consilo status``: what is up of a federation, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.services.health import Health
    from flows.tending.outlook import Outlook


def status(
    directory: Annotated[Path, typer.Option("--dir", help="Work directory of the coordinator.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")
    ] = False,
) -> None:
    """Tell what is up, which runs go on, what nobody owns; 1 where something needs a person.

    It changes nothing, and says as much as it can of a directory whose federation is not up.

    Example: consilo status --dir coordinator/
    """
    from datetime import UTC, datetime

    from consilo.machine.environment import quieten
    from flows.services.health import look
    from flows.tending.outlook import outlook

    quieten()
    home = directory.resolve()
    health, runs = look(home, datetime.now(UTC)), outlook(home)
    wrong = (*health.wrong, *runs.wrong)
    if as_json:
        told = health.to_json()
        for each in told["services"]:
            if since := _since(each["name"], runs):
                each["since"] = since
        told |= {"healthy": not wrong, "wrong": list(wrong), **runs.to_json()}
        print(json.dumps(told))
    else:
        _show(health, runs)
    raise typer.Exit(1 if wrong else 0)


def _since(part: str, runs: Outlook) -> str | None:
    """Return since when a part is up; None where ``consilo up`` does not say."""
    found = [when for name, when in runs.since.items() if part.lower() in name.lower()]
    return found[0] if found else None


def _show(health: Health, runs: Outlook) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="Federation")
    for column in ("", "name", "state", ""):
        table.add_column(column)
    for each in health.parts:
        since = _since(each.name, runs) if each.kind == "service" else None
        detail = each.detail + (f", since {since}" if since else "")
        table.add_row(each.kind, each.name, each.state, detail)
    console.print(table)
    for name in runs.running:
        print(f"running: {name}")
    if runs.waiting:
        print(f"{runs.waiting} flow runs wait for their turn")
    if runs.queued:
        print(f"{runs.queued} runs of 'consilo job run' wait for their turn")
    if runs.last is not None:
        how = runs.last.status or f"not over, after '{runs.last.kind}'"
        print(f"last run: {runs.last.name}, {how}, {runs.last.time}")
    for told in runs.settled:
        print(f"settled by 'consilo up' at {runs.tended_at}: {told}")
    for finding in runs.findings:
        if not finding.todo:
            print(f"found: {finding}")
    now_wrong = "\n".join(health.wrong)
    for fault in health.faults:
        if str(fault) not in now_wrong:
            print(f"earlier, not of late: {fault}")
    wrong = (*health.wrong, *runs.wrong)
    for line in wrong:
        print(f"wrong: {line}")
    if not wrong:
        print("all is well")
