"""``consilo job rehearse``: a job's federation on this machine, through one fault after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.terminal import JsonFlag, teller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.rehearsal.survival import Survival

_QUICK = 0.1


def job_rehearse(
    job: Annotated[Path, typer.Argument(help="The job file.")],
    faults: Annotated[
        str | None,
        typer.Option(
            help="Names between commas (a+b: in one run), or a YAML file; all known by default."
        ),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Try so many pairs of the faults, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of pairs.")] = 0,
    silos: Annotated[
        Path | None,
        typer.Option(help="Folder of silo directories, which are copied; else rows are made up."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=2, help="Of training; else the job's, 6 at most.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="What lasts a minute lasts six seconds.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML file to write, too; it loads nothing.")
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(help="Python of an environment with the release before, for one silo."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="A fresh directory to work in, which stays.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Try a job's federation against faults, on this machine; 1 where one cost what it must not.

    Example: consilo job rehearse job.yaml --faults silo-dead-during,flow-killed --quick
    """
    from consilo.machine.environment import quieten
    from flows.rehearsal.copies import prepare
    from flows.rehearsal.faults import together
    from flows.rehearsal.place import rehearsal_place
    from flows.rehearsal.rehearse import rehearse

    quieten()
    say, wanted = teller(), together(faults, pairs=pairs, seed=seed)

    def told(survival: Survival) -> None:
        word = {None: "not played", True: "as promised", False: "NOT as promised"}[survival.kept]
        after = "" if survival.seconds is None else f", went on after {survival.seconds:.1f} s"
        equal = {None: "", True: ", equal", False: ", NOT equal"}[survival.equal]
        told = f"{survival.status}{after}{equal}, {word}"
        say(f"{survival.fault}: {told}: {survival.happened}")

    with rehearsal_place(keep) as place:
        rehearsed = prepare(job, place, silos, rounds=rounds)
        say(f"{len(rehearsed.silos)} silos in {place.folder}, their rows {rehearsed.data}")
        found = rehearse(
            place,
            rehearsed,
            wanted,
            say,
            scale=_QUICK if quick else 1.0,
            before=before,
            told=told,
        )
    if report is not None:
        from flows.rehearsal.report import write_report

        write_report(report, rehearsed.job, found)
    if as_json:
        print(json.dumps([each.to_json() for each in found]), flush=True)
    else:
        _show(found)
    raise typer.Exit(1 if any(each.kept is False for each in found) else 0)


def _show(found: Sequence[Survival]) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(title="What the federation survives")
    columns = ("fault", "struck", "must", "status", "rounds lost", "went on after", "equal")
    for column in (*columns, "orphans", "what happened"):
        table.add_column(column)
    for each in found:
        seconds = "" if each.seconds is None else f"{each.seconds:.1f} s"
        equal = {None: "", True: "yes", False: "NO"}[each.equal]
        colour = {None: "dim", True: "green", False: "bold red"}[each.kept]
        table.add_row(
            f"[{colour}]{each.fault}[/]",
            each.part,
            each.promise,
            each.status,
            str(each.rounds_lost),
            seconds,
            equal,
            str(each.orphans),
            each.happened,
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    lost = [each.fault for each in found if each.kept is False]
    if lost:
        print(f"not as promised: {', '.join(lost)}")
