"""``consilo status``: what is up of a federation, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.services.health import Health


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

    from consilo.machine.environment import quieten
    from flows.services.health import look

    quieten()
    health = look(directory.resolve(), datetime.now(UTC))
    if as_json:
        print(json.dumps(health.to_json()))
    else:
        _show(health)
    raise typer.Exit(1 if health.wrong else 0)


def _show(health: Health) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="Federation")
    for column in ("", "name", "state", ""):
        table.add_column(column)
    for each in health.parts:
        table.add_row(each.kind, each.name, each.state, each.detail)
    console.print(table)
    now_wrong = "\n".join(health.wrong)
    for fault in health.faults:
        if str(fault) not in now_wrong:
            print(f"earlier, not of late: {fault}")
    for line in health.wrong:
        print(f"wrong: {line}")
    if not health.wrong:
        print("all is well")
