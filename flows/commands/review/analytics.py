"""``consilo analytics``: what the silos' rows say, on the cells that a contract declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consilo.errors import ConfigInvalid
from flows.commands.terminal import Directory, JsonFlag, exit_code

if TYPE_CHECKING:
    from consilo.contracts.contract import Contract
    from consilo.reports.asked import Report

FOLDER = "analytics"
_PART = 0.99
"""Of the ε that a person names: a job's ε must be more than its parts together."""


def analytics(
    contract: Annotated[str, typer.Argument(help="name@version, or the contract's file.")],
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="counts, means, quantiles, histogram, correlations or survival; may be repeated; "
            "all that the contract declares, unless said.",
        ),
    ] = None,
    of: Annotated[
        list[str] | None, typer.Option(help="With --ask: these columns; may be repeated.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="With --ask: compare the groups of this column; may be repeated."),
    ] = None,
    directory: Directory = None,
    silos: Annotated[
        Path | None,
        typer.Option(help="Folder of silo directories: start a federation for this."),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="With --silos: in this process, no services.")
    ] = False,
    num_silos: Annotated[
        int | None,
        typer.Option("--simulate", min=1, metavar="N", help="Cut --data into N silos, here."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --simulate: rows, as 'consilo job run' takes them.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="With --data: how its columns become the contract's.")
    ] = None,
    partition: Annotated[str, typer.Option(help="With --simulate: how the rows are cut.")] = "iid",
    purpose: Annotated[str | None, typer.Option(help="What the answers are for.")] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Noisy answers: what they cost each silo's privacy account."),
    ] = None,
    delta: Annotated[float, typer.Option(help="With --epsilon.", min=1e-12, max=0.1)] = 1e-5,
    unit: Annotated[
        str, typer.Option(help="With --epsilon: record, or subject: a person with all rows.")
    ] = "record",
    min_silos: Annotated[int, typer.Option(min=1, help="That must answer.")] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Fresh folder for page, table and plain values.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask what the silos' rows say, on the bins, times and groups that a contract declares.

    Example: consilo analytics heart@2 --dir coordinator/ --ask survival --by sex --out report/
    """
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import UNSTATED
    from consilo.reports.asked import Report
    from consilo.runs.outcome import fresh
    from consilo.runs.planning.plan import plan_analytics
    from flows.commands import ways
    from flows.services.place import workplace
    from silos.simulation.asked import analytics_job

    if (of or by) and not ask:
        raise ConfigInvalid("analytics", ["--of and --by say more of an --ask: give one"])
    if out is not None:
        fresh(out)
    loaded = Contract.load(contract)
    privacy: dict[str, Any] | None = None
    if epsilon is not None:
        paid = {"epsilon": epsilon, "statistics_epsilon": _PART * epsilon, "delta": delta}
        privacy = {**paid, "unit": unit}
    questions = [_question(each, of or [], by or []) for each in ask] if ask else None
    job = analytics_job(
        loaded,
        named="contract.yaml",
        questions=questions,
        purpose=purpose or UNSTATED,
        privacy=privacy,
        min_silos=min_silos,
    )
    plan_analytics(job, loaded, ())
    with workplace(directory, "consilo-analytics-") as home:
        path = _written(home / FOLDER, job, loaded)
        if num_silos is not None:
            cut = (num_silos, partition)
            way = ways.cut_from(
                path,
                data,
                cut,
                mapping=mapping,
                directory=None,
                out=None,
                workers=None,
                engine="processes",
            )
        elif silos is not None and local:
            way = ways.in_process(path, silos, None, None)
        elif silos is not None:
            way = ways.alone(job, path, silos, directory, {"job": str(path)})
        elif directory is not None:
            way = ways.connected(directory, {"job": str(path)})
        else:
            raise ConfigInvalid(
                "analytics",
                ["give --dir of a federation that is up, --silos to start one, or --simulate"],
            )
        with way as once:
            summary = once(job, {}, "")
    report = Report.of_summary(summary)
    if report is not None and out is not None:
        summary["report"] = report.save(out)
    if as_json:
        print(json.dumps(summary), flush=True)
    else:
        _show(summary, report)
    raise typer.Exit(exit_code(summary))


def _question(ask: str, of: list[str], by: list[str]) -> dict[str, Any]:
    compared = ask not in ("counts", "correlations")
    chosen = ask not in ("correlations", "survival")
    return {"ask": ask, "of": of if chosen else [], "by": by if compared else []}


def _written(folder: Path, job: Any, contract: Contract) -> Path:
    """Write job and contract below the coordinator's directory, by content; return the job's."""
    import yaml

    from consilo.machine.files import write_atomic

    place: Path = folder / job.digest[:12] / contract.digest[:12]
    place.mkdir(parents=True, exist_ok=True)
    write_atomic(place / "contract.yaml", contract.to_json().encode(), mode=0o644)
    path = (place / "job.yaml").resolve()
    write_atomic(path, yaml.safe_dump(job.to_json(), sort_keys=False).encode(), mode=0o644)
    return path


def _show(summary: Mapping[str, Any], report: Report | None) -> None:
    """Print every answer as a table."""
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(str(summary["sentence"]), markup=False)
    for each in report.answers if report is not None else ():
        noisy = " (noisy)" if each.is_noisy else ""
        table = Table(
            title=f"{each.title}{noisy}, of {len(each.silos)} silos", title_justify="left"
        )
        columns = list(dict.fromkeys(key for row in each.rows for key in row))
        for key in columns:
            table.add_column(key.replace("_", " "))
        for row in each.rows:
            table.add_row(*(_cell(row.get(key)) for key in columns))
        console.print(table)
        for key, value in each.test.items():
            console.print(f"  {key}: {_cell(value)}", markup=False)
        for silo, why in each.lacking.items():
            console.print(f"  without {silo}: {why}", markup=False)
    for name, place in dict(summary.get("report") or {}).items():
        console.print(f"{name}: {place}", markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
