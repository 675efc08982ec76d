"""``consilo new``: a first job, contract and model, from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    directory: Annotated[Path, typer.Argument(help="Where the study begins: a fresh directory.")],
    csv: Annotated[Path, typer.Option(help="A table: a CSV or Parquet file.")],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    name: Annotated[
        str, typer.Option(help="The job's and the contract's; else as the directory.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write a first job, contract and model from a table, for people to mend.

    Example: consilo new study/ --csv patients.csv --target "ER Status"
    """
    from silos.proposals.new_contract import slugs
    from silos.proposals.new_study import new_study

    place = directory.resolve()
    called = name or next(iter(slugs([place.name]).values()))
    written = new_study(place, csv, called, target)
    if as_json:
        import json

        print(json.dumps({key: str(path) for key, path in written.items()}))
        return
    for key, path in written.items():
        print(f"{key:<10}{path}")
    print(f"next: read and mend them, then: consilo job validate {written['job']}")
    print(
        "and, once the mapping says 'confirmed: true', on parts of the same table: consilo job run "
        f"{written['job']} --simulate 3 --data {csv} --mapping {written['mapping']}"
    )
