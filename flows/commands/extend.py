"""``consilo job extend`` and ``give-up``: what becomes of a run that is over, or cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.terminal import (
    AuthorsBundle,
    JsonFlag,
    exit_code,
    print_summary,
    teller,
)


def job_extend(
    run: Annotated[str, typer.Argument(help="The finished run: its directory's name in runs/.")],
    rounds: Annotated[int, typer.Option(min=1, help="How many more.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="Coordinator's directory, of a federation that is up.")
    ],
    epsilon: Annotated[
        float | None,
        typer.Option(min=0.0, help="Private jobs: the ε that all runs together may cost."),
    ] = None,
    job: Annotated[
        Path | None, typer.Option(help="Where the job's file is now; else where it was.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Go on with this extension, whose process died."),
    ] = None,
    bundle: AuthorsBundle = None,
    as_json: JsonFlag = False,
) -> None:
    """Go on with a finished run as a new one: from its last model, for some rounds more.

    Example: consilo job extend RUN --rounds 20 --dir coordinator/
    """
    from consilo.errors import ConfigInvalid
    from consilo.machine.processes import Supervisor
    from consilo.runs.continued import extended
    from flows.services.launch import launch
    from flows.services.turns import turn
    from flows.services.watch import Absence

    home, say = directory.resolve(), teller()
    asked = extended(home / "runs", run, rounds=rounds, epsilon=epsilon)
    path = job.resolve() if job else _file_of(home / "runs" / run)
    if path is None or not path.is_file():
        raise ConfigInvalid("job extend", ["the job's file is not where it was; give it by --job"])
    given: dict[str, Any] = {"epsilon": epsilon, "resume": resume}
    given["bundle"] = None if bundle is None else str(bundle.resolve())
    parameters = {"job": str(path), "rounds": rounds, "extend": run}
    parameters |= {name: each for name, each in given.items() if each is not None}
    absence = Absence(home, say)
    with Supervisor() as supervisor, turn(home, say, look=absence.look):
        summary = launch(supervisor, home, asked, parameters).wait(say, absence.look)
    print_summary(summary, as_json=as_json)
    raise typer.Exit(exit_code(summary))


def _file_of(place: Path) -> Path | None:
    from flows.services.order import ORDERED_FROM

    file = place / ORDERED_FROM
    return Path(file.read_text(encoding="utf-8")) if file.is_file() else None


def job_give_up(
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
