"""``consilo up``: the coordinator's services, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.terminal import (
    teller,
    until_stopped,
)


def up(
    directory: Annotated[Path, typer.Option("--dir", help="Work directory of the coordinator.")],
    silos: Annotated[
        Path | None,
        typer.Option(help="Folder of silo directories to run on this machine.", show_default=False),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address that silos are served on; kept. First: 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port for silos; kept. First: a free one."),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(help="What silos call this machine; kept. First: --host."),
    ] = None,
    worker: Annotated[bool, typer.Option(help="Also run what is deployed in Prefect.")] = False,
) -> None:
    """Start the coordinator's services, and silos of this machine if any; runs until Ctrl-C.

    Example: consilo up --dir coordinator/ --host 0.0.0.0 --advertise fed.example.org
    """
    from consilo.machine.environment import quieten
    from consilo.machine.processes import Supervisor
    from flows.services.federation import find_silos, rise
    from flows.services.place import settle_place, taken_down
    from flows.services.services import start_worker
    from flows.services.watch import Watch
    from flows.tending.tender import tending

    quieten()
    home, say = directory.resolve(), teller()
    with taken_down(home), Supervisor() as supervisor:
        place = settle_place(home, host=host, port=port, advertise=advertise)
        here = {} if silos is None else find_silos(silos)
        addresses = rise(supervisor, home, here, say=say, place=place).wait()
        if worker:
            start_worker(supervisor, home, addresses.prefect_api)
        say(
            f"up until Ctrl-C: page {addresses.page}, Prefect {addresses.prefect_ui}, "
            f"MLflow {addresses.tracking_uri}"
        )
        with tending(home, supervisor, addresses, say):
            until_stopped(Watch(home, supervisor, say).look)
