"""``consilo job plan``: what a job would cost each silo, in its own words, before it is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.terminal import AuthorsBundle

if TYPE_CHECKING:
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.runs.quote import Quotes
    from flows.services.order import Connection


def job_plan(
    job: Annotated[Path, typer.Argument(help="The job file.")],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Coordinator's directory, of a federation that is up."),
    ] = None,
    silos: Annotated[
        Path | None,
        typer.Option(help="Folder of silo directories: ask them here, in this process."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="In place of the job's.")] = None,
    bundle: AuthorsBundle = None,
    wait_s: Annotated[float, typer.Option(min=0, help="For silos to connect, in seconds.")] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")
    ] = False,
) -> None:
    """Ask every silo what a job would cost its privacy account; nothing is trained or spent.

    Exit code 1 where those that would take part are no quorum.

    Example: consilo job plan job.yaml --dir coordinator/
    """
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.jobs.model_job import ModelJob
    from consilo.machine.environment import quieten
    from consilo.runs.kinds import way_of
    from flows.services.ask import opened

    quieten()
    changes: dict[str, Any] = {} if rounds is None else {"protocol": {"rounds": rounds}}
    loaded = Job.load(job).changed(**changes)
    contract = Contract.load(loaded.contract, search=(job.parent,))
    folder = job.parent.resolve()
    way_of(ModelJob.of(loaded)).plan(loaded, contract, (), (folder,))
    with opened(loaded, contract, folder, directory, silos, bundle) as connection:
        quotes = ask(loaded, contract, connection, wait_s=wait_s)
        connection.finish(True, "planned")
    told = {
        "job": loaded.name,
        "job_digest": loaded.digest,
        "possible": not quotes.reason,
        "reason": quotes.reason,
        "adjacency": _adjacency(loaded),
        "silos": {name: offer.to_json() for name, offer in quotes.silos.items()},
    }
    if as_json:
        print(json.dumps(told))
    else:
        _show(told)
    raise typer.Exit(1 if quotes.reason else 0)


def _adjacency(job: Job) -> str | None:
    """Return what ε is about; None for a job without privacy."""
    from consilo.privacy.accounting import adjacency
    from consilo.privacy.unit import named

    if job.privacy is None:
        return None
    return adjacency(named(job.algorithm if job.kind == "vertical" else "dp_sgd", job.privacy.unit))


def ask(job: Job, contract: Contract, connection: Connection, *, wait_s: float) -> Quotes:
    """Return what every silo of a connection says of a job.

    Args:
        job: what would be run.
        contract: what the silos' data must obey.
        connection: an open federation.
        wait_s: how long to wait for silos that are not connected yet.
    """
    from consilo.protocols.names import name_of
    from consilo.runs.quote import Quote
    from flows.services.ask import consult

    silos = job.asked(connection.silos)
    quotes: Quotes = consult(
        name_of(Quote), Quote(), job, contract, connection, silos=silos, wait_s=wait_s
    )
    return quotes


def _show(told: Mapping[str, Any]) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(title=f"{told['job']}: what it would cost")
    for name in ("silo", "rows", "ε of the job", "limit", "budget", "spent", "after", "left"):
        table.add_column(name, justify="left" if name in ("silo", "limit") else "right")
    for name, offer in told["silos"].items():
        if not offer["takes_part"]:
            continue
        cost = offer["cost"]
        price = f"{cost['epsilon']:.3f} at δ {cost['delta']:g}" if cost else "no privacy"
        limits = offer["account"] or [None]
        for place, each in enumerate(limits):
            first = (name, str(offer["rows"]), price) if not place else ("", "", "")
            rest: tuple[str, ...]
            if each is None:
                rest = ("no budget", "", "", "", "")
            else:
                figures = (each[key] for key in ("budget", "before", "after", "left_after"))
                rest = (f"{each['limit']}, δ {each['delta']:g}", *(f"{n:.4g}" for n in figures))
            table.add_row(*first, *rest)
    console.print(table)
    for name, offer in told["silos"].items():
        if drawn := offer.get("drawn"):
            spends = f", ε {drawn['epsilon']:.3f}" if "epsilon" in drawn else ""
            console.print(f"{name}: drawn for {drawn['rounds']:.0f} rounds, if all answer{spends}")
    for name, offer in told["silos"].items():
        # Why there is no quorum ends with these very lines.
        if not offer["takes_part"] and offer["reason"] not in told["reason"]:
            console.print(f"{name} takes no part ({offer['code']}): {offer['reason']}")
    if told["adjacency"]:
        console.print(f"ε: {told['adjacency']}")
    console.print(told["reason"] or "those who take part are a quorum")
