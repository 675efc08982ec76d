"""``consilo silo models``: the parts of vertical models that a silo keeps, and dropping one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def models(
    directory: Annotated[Path, typer.Option("--dir", help="The silo's directory.")] = Path("."),
    drop: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Delete this part: it scores no more rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List the parts of models over several silos' columns that are kept here.

    Example: consilo silo models --dir silos/bank
    """
    from silos.gate.audit import audit_log
    from silos.kept.model_parts import drop_part, every_part
    from silos.silo_config import require_directory

    require_directory(directory)
    if drop is not None:
        drop_part(directory, drop)
        audit_log(directory).append("model_dropped", model=drop)
    parts = every_part(directory)
    if as_json:
        print(json.dumps({"models": parts}))
        return
    for each in parts:
        inputs = f"{len(each['inputs'])} inputs of {each['contract']}"
        role = "labels here" if each["label_silo"] == each["silo"] else "columns here"
        others = ", ".join(name for name in each["members"] if name != each["silo"])
        print(f"{each['model']}: {each['protocol']}, {inputs}, {role}; with {others}")
    if not parts:
        print("no part of a model is kept here")
