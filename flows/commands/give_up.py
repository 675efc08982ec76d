"""``consilo job give-up``: ends a run that nobody goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def give_up(
    run: Annotated[str, typer.Argument(help="The run's folder in runs/.")],
    directory: Annotated[Path, typer.Option("--dir", help="Work directory of the coordinator.")],
    reason: Annotated[str, typer.Option(help="Why, for its record.")] = "given up by a person",
) -> None:
    """End a run that was cut off and that nobody shall go on with: its record is closed as failed.

    Its silos are told nothing; what they keep of it lapses after 30 days.

    Example: consilo job give-up heart-20260101T020000-a1b2c3 --dir coordinator/
    """
    from consilo.machine.environment import quieten
    from flows.tending.reconcile import end_run

    quieten()
    end_run(directory.resolve(), run, reason)
    print(f"{run} is closed as failed: {reason}")
