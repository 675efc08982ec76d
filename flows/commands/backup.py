"""``consilo backup`` and ``consilo restore``: the coordinator's directory, in one archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.silos import Home
from flows.commands.terminal import JsonFlag


def backup(
    archive: Annotated[Path, typer.Argument(help="File to write, outside the directory.")],
    directory: Home,
    as_json: JsonFlag = False,
) -> None:
    """Write members, keys, logs, records and the registry into one archive, also while up.

    The archive holds the coordinator's keys: keep it as you keep those.

    Example: consilo backup monday.tar.gz --dir coordinator/
    """
    from flows.services.backup import make_backup

    made = make_backup(directory, archive)
    if as_json:
        print(json.dumps(made.to_json()))
        return
    print(f"{made.path}: {made.files} files, {made.num_bytes / 1e6:,.1f} MB, as of {made.made_at}")
    print("it holds the coordinator's keys and is not encrypted: keep it as you keep those")
    for run in made.open_runs:
        print(f"under way, can be gone on with after a restore: {run}")


def restore(
    archive: Annotated[Path, typer.Argument(help="What 'consilo backup' wrote.")],
    directory: Home,
    as_json: JsonFlag = False,
) -> None:
    """Lay a coordinator's directory anew from a backup; its silos are told.

    Example: consilo restore monday.tar.gz --dir coordinator/
    """
    from flows.services.backup import age_of, restore

    made, line = restore(archive, directory)
    if as_json:
        print(json.dumps({**made.to_json(), "restored": line}))
        return
    print(f"restored from head {made.head}: {made.files} files, as of {made.made_at}")
    print(
        f"what happened in the {age_of(made.made_at)} since is not in it: look through "
        f"'consilo silos list --dir {directory}': a silo that was suspended or removed since is "
        "admitted again, one that joined since must be invited anew"
    )
    print(
        f"then 'consilo up --dir {directory}', with --advertise where silos must reach another "
        "machine now; each silo writes the restore into its log and shows it"
    )
    for run in made.open_runs:
        print(f"was under way: {run}; 'consilo job run --resume {run}' goes on with it")
