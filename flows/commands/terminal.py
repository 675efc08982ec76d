"""What the coordinator's commands have in common: options, and words for the person who waits."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Work directory of the coordinator.", show_default=False),
]
AuthorsBundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle", help="What the author of the job's code has signed ('consilo job bundle')."
    ),
]


def teller() -> Callable[[str], None]:
    """Return what tells the person who waits a line, with the seconds since now."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)

    return say


def print_summary(
    summary: Any, *, as_json: bool, show: Callable[[Any, Any], None] | None = None
) -> None:
    """Print a run's summary: a table for people, or one JSON object.

    Args:
        summary: of a run, or of what ``show`` knows.
        as_json: in place of the table.
        show: prints it to a console; None for a run's.
    """
    if as_json:
        print(json.dumps(summary), flush=True)
        return
    from rich.console import Console

    from flows.commands.summary import show as show_run

    (show or show_run)(summary, Console(width=None if sys.stdout.isatty() else 100))


def exit_code(summary: Any) -> int:
    """Return the exit code of a run's summary."""
    return 1 if summary.get("status") == "failed" else 0


def until_stopped(look: Callable[[], None]) -> None:
    """Look now and then until Ctrl-C."""
    from flows.services.watch import EVERY_S

    try:
        while True:
            look()
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        print("stopping", file=sys.stderr)
