"""``consilo silo check``: the contract on the silo's rows, with every failure explained, here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    contract: Annotated[str, typer.Argument(help="name@version, or a contract file.")],
    directory: Annotated[Path, typer.Option("--dir", help="The silo's directory.")] = Path("."),
    job: Annotated[
        Path | None,
        typer.Option(help="A vertical job: only the columns that this silo holds in it."),
    ] = None,
    purpose: Annotated[str, typer.Option(help="Whose rows: those with consent for it.")] = "",
    key: Annotated[str, typer.Option(help="Name rows by this local column.")] = "",
    values: Annotated[bool, typer.Option("--values", help="Show what stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check the silo's rows against a contract, here; nothing leaves.

    Every failure is explained: which rows of the source, what was expected, what to do.

    Example: consilo silo check heart@1 --dir silos/cleveland
    """
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from silos.checked import check as checked_here

    if values and as_json:
        raise typer.BadParameter("--values shows on a terminal only; leave --json out")
    found = checked_here(
        directory,
        Contract.load(contract, search=(Path.cwd(), directory)),
        job=None if job is None else Job.load(job),
        purpose=purpose,
        key=key,
    )
    if as_json:
        import json

        print(json.dumps(found.to_json()))
    else:
        if found.consents is not None:
            consented, rows = found.consents["consented"], found.consents["rows"]
            print(f"{consented} of {rows} rows have consent for '{found.purpose}'")
        for each in found.explanations:
            print("\n".join(each.lines(values=values)))
        for line in found.likeness.lines():
            print(line)
        print(f"{found.silo}: {found.report.reason()}")
        print(f"full report: {found.page}")
    raise typer.Exit(0 if found.report.passed else 1)
