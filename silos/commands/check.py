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
    from consilo.jobs.job import UNSTATED
    from silos.silo import Silo

    if values and as_json:
        raise typer.BadParameter("--values shows on a terminal only; leave --json out")
    silo = Silo.open(directory.resolve())
    asked = Contract.load(contract, search=(Path.cwd(), directory))
    if job is not None:
        from consilo.jobs.job import Job

        asked = Job.load(job).part(asked, silo.name)
    meant = purpose or UNSTATED
    report = silo.rows.check(asked, purpose=meant)
    explanations = (
        [] if report.passed else silo.rows.explain(asked, report, purpose=meant, key=key or None)
    )
    told = silo.rows.likeness(asked, purpose=meant)
    if as_json:
        import json

        fields = json.loads(report.to_json())
        explained = [each.to_json() for each in explanations]
        print(json.dumps({**fields, "explanations": explained, "rows": told.to_json()}))
    else:
        consents = silo.rows.consent_counts(asked, meant)
        if consents is not None:
            print(f"{consents['consented']} of {consents['rows']} rows have consent for '{meant}'")
        for each in explanations:
            print("\n".join(each.lines(values=values)))
        for line in told.lines():
            print(line)
        print(f"{silo.name}: {report.reason()}")
        print(f"full report: {silo.rows.page(asked, purpose=meant)}")
    raise typer.Exit(0 if report.passed else 1)
