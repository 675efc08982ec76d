"""``consilo silo preflight``: is this silo ready to join?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preflight(
    directory: Annotated[Path, typer.Option("--dir", help="The silo's directory.")] = Path("."),
    job: Annotated[
        Path | None,
        typer.Option(
            help="A vertical job: of its contract, only the columns that this silo holds."
        ),
    ] = None,
    purpose: Annotated[str, typer.Option(help="Whose rows: those with consent for it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Test everything that joining needs; each failure says what to do.

    Reachability, TLS, clock, disk, memory, versions, permissions, policy, certificate, contract.

    Example: consilo silo preflight --dir silos/cleveland
    """
    import os
    from datetime import UTC, datetime

    from consilo.errors import ConfigInvalid
    from silos.membership.preflight import preflight as look

    if not directory.is_dir():
        raise ConfigInvalid(str(directory), ["no such directory; consilo silo init makes it"])
    points = look(
        directory.resolve(), now=datetime.now(UTC), uid=os.geteuid(), purpose=purpose, job=job
    )
    ready = all(each.verdict != "failed" for each in points)
    if as_json:
        import json

        print(json.dumps({"ready": ready, "points": [vars(each) for each in points]}))
    else:
        for each in points:
            print(f"{each.verdict:<9}{each.name:<20}{each.found}")
            if each.to_do:
                print(f"{'':<29}-> {each.to_do}")
        print("ready to join" if ready else "not ready")
    raise typer.Exit(0 if ready else 1)
