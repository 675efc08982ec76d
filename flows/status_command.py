"""``consilo status``: what is up of a federation, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.health import Health


def status(
    directory: Annotated[Path, typer.Option("--dir", help="Work directory of the coordinator.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")
    ] = False,
) -> None:
    """Tell what is up: services, worker, silos, schedules; 1 where something is wrong.

    Example: consilo status --dir coordinator/
    """
    from datetime import UTC, datetime

    from consilo.environment import quieten
    from flows.health import look

    quieten()
    found = look(directory.resolve(), datetime.now(UTC))
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        _show(found)
    raise typer.Exit(1 if found.wrong else 0)


def _show(found: Health) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="Federation")
    for column in ("", "name", "state", ""):
        table.add_column(column)
    for each in found.parts:
        table.add_row(each.kind, each.name, each.state, each.detail)
    console.print(table)
    now_wrong = "\n".join(found.wrong)
    for fault in found.faults:
        if str(fault) not in now_wrong:
            print(f"earlier, not of late: {fault}")
    for line in found.wrong:
        print(f"wrong: {line}")
    if not found.wrong:
        print("all is well")
