"""``consilo demo``: a whole federation on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from consilo.errors import ConfigInvalid
from flows.commands.terminal import (
    JsonFlag,
    exit_code,
    print_summary,
    teller,
    until_stopped,
)


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A fresh work directory.", show_default=False)
    ] = None,
    vertical: Annotated[
        bool,
        typer.Option("--vertical", help="Three organisations with different columns."),
    ] = False,
    silos: Annotated[
        int | None,
        typer.Option(help="Hospitals, the broken one included; 4 by default.", show_default=False),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of training.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy budget of every silo.")] = None,
    no_dp: Annotated[bool, typer.Option("--no-dp", help="Without differential privacy.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of data and job.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave services up until Ctrl-C.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a whole federation on this machine: four hospitals, contracts, privacy, registry.

    With --vertical, three organisations that know different things about the same patients: match,
    train, register, score.

    Example: consilo demo --keep    (then look at the pages it names)
    """
    from consilo.machine.processes import Supervisor
    from flows.demo.demo import DemoOptions, run_demo, work_directory
    from flows.demo.vertical_demo import run_vertical_demo
    from flows.services.place import taken_down
    from flows.services.watch import Watch
    from flows.tending.tender import tending

    given = {"--silos": silos, "--epsilon": epsilon, "--no-dp": no_dp or None}
    unfit = [name for name, value in given.items() if vertical and value is not None]
    if unfit:
        raise ConfigInvalid(
            f"demo --vertical {' '.join(unfit)}",
            [
                "the vertical demo has three organisations and an exact model without noise; leave "
                f"out {', '.join(unfit)}"
            ],
        )
    start = run_vertical_demo if vertical else run_demo
    with work_directory(directory) as home, taken_down(home), Supervisor() as supervisor:
        options = DemoOptions(home, 4 if silos is None else silos, rounds, epsilon, not no_dp, seed)
        summary, addresses = start(supervisor, options, teller())
        print_summary(summary, as_json=as_json)
        if keep:
            print(
                f"up until Ctrl-C: page {addresses.page}, Prefect {addresses.prefect_ui}, "
                f"MLflow {addresses.tracking_uri}",
                file=sys.stderr,
            )
            with tending(home, supervisor, addresses, teller()):
                until_stopped(Watch(home, supervisor, teller()).look)
    raise typer.Exit(exit_code(summary))
