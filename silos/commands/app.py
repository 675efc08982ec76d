"""The silo operator's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consilo.cli import group
from silos.commands import enrol as enrol_commands
from silos.commands import ledger as ledger_command
from silos.commands import oversight
from silos.commands.check import check
from silos.commands.data import app as data_app
from silos.commands.models import models
from silos.commands.policy import policy
from silos.commands.preflight import preflight
from silos.commands.vote import vote

Directory = Annotated[Path, typer.Option("--dir", help="The silo's directory.")]

app = group("Run a silo: check its data, approve code, take part.")
app.command()(check)
app.command()(models)
app.command()(policy)
app.command()(preflight)
app.command()(vote)
app.add_typer(data_app, name="data")
app.add_typer(oversight.audit_app, name="audit")
app.add_typer(ledger_command.app, name="ledger")
app.command()(enrol_commands.init)
app.command()(enrol_commands.renew)
app.add_typer(enrol_commands.partners_app, name="partners")
app.command()(oversight.bundles)
app.command()(oversight.approve)
app.command()(oversight.reject)


@app.command()
def leave(
    directory: Directory = Path("."),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="The coordinator cannot be reached any more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Leave the federation: struck off, copies and keys deleted, a signed certificate kept.

    Example: consilo silo leave --dir silos/cleveland
    """
    import json

    from silos.membership import enrol, leaving

    if not yes:
        typer.confirm("Leave for good? The keys are deleted; your data stays", abort=True, err=True)
    certificate = leaving.leave(directory, None if alone else lambda: enrol.leave(directory))
    departure = leaving.verify_departure(certificate)
    traces = {} if alone else departure["coordinator"]["statement"]["traces"]
    models = traces.get("models", [])
    if as_json:
        told = {"certificate": str(certificate), "deleted": len(departure["deleted"]), **traces}
        print(json.dumps(told))
        return
    print(f"left; {len(departure['deleted'])} files deleted; certificate {certificate}")
    for each in models:
        print(f"contains your updates: {each['name']} version {each['version']}, {each['run_id']}")
    if not models:
        print("the coordinator was not asked" if alone else "no model contains your updates")


@app.command()
def join(directory: Directory = Path(".")) -> None:
    """Start the silo's node and serve until Ctrl-C.

    Example: consilo silo join --dir silos/cleveland
    """
    from consilo.machine.environment import replace_by_isolated

    replace_by_isolated("silos.node", ["--dir", str(directory)])
