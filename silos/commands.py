"""The silo operator's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silos import oversight
from silos.data_commands import app as data_app

Directory = Annotated[Path, typer.Option("--dir", help="The silo's directory.")]

app = typer.Typer(
    help="Run a silo: check its data, approve code, take part.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(oversight.audit_app, name="audit")
app.command()(oversight.bundles)
app.command()(oversight.approve)
app.command()(oversight.reject)


@app.command()
def check(
    contract: Annotated[str, typer.Argument(help="name@version, or a contract file.")],
    directory: Directory = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check the silo's rows against a contract, here; nothing leaves.

    Example: consilo silo check heart@1 --dir silos/cleveland
    """
    from consilo.contract import Contract
    from silos.silo import Silo

    silo = Silo.open(directory.resolve())
    report = silo.check(Contract.load(contract, search=(Path.cwd(), directory)))
    if as_json:
        print(report.to_json())
    else:
        for finding in report.findings:
            if finding.verdict == "fail":
                column = finding.column or "(table)"
                print(
                    f"{finding.severity:<8}{column:<28}{finding.rule:<16}"
                    f"up to {finding.counts.failed} rows"
                )
        print(f"{silo.name}: {report.reason()}")
        print(f"full report: {silo.directory / 'gx/uncommitted/data_docs/local_site/index.html'}")
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def join(directory: Directory = Path(".")) -> None:
    """Start the silo's node and serve until Ctrl-C.

    Example: consilo silo join --dir silos/cleveland
    """
    from silos.node import main

    raise typer.Exit(main(["--dir", str(directory)]))
