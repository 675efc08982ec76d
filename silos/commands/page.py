"""``consilo silo page``: what this silo's people look at and decide, in a browser here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PORT = 8421


def page(
    directory: Annotated[Path, typer.Option("--dir", help="The silo's directory.")] = Path("."),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes one that is free.")
    ] = PORT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Open the silo's page: policy, code that waits, consents, checks, ledger, log, keys.

    For people on this machine alone (127.0.0.1); the printed address opens it once. It runs beside
    the node, until Ctrl-C, and changes nothing but by its forms.

    Example: consilo silo page --dir silos/cleveland
    """
    from consilo.errors import ConfigInvalid
    from consilo.machine.environment import replace_by_isolated

    folder = directory.resolve()
    if not (folder / "silo.yaml").is_file():
        raise ConfigInvalid(str(directory), ["no silo here: give its directory with --dir"])
    more = ["--json"] if as_json else []
    replace_by_isolated("silos.page", ["--dir", str(folder), "--port", str(port), *more])
