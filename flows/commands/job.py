"""``consilo job``: validate and run jobs, and say beforehand what they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from consilo.cli import group
from consilo.errors import ConfigInvalid
from flows.commands.bundle import sign_bundle
from flows.commands.extend import job_extend, job_give_up
from flows.commands.plan import job_plan
from flows.commands.rehearse import job_rehearse
from flows.commands.terminal import (
    AuthorsBundle,
    Directory,
    JsonFlag,
    exit_code,
    print_summary,
)

job_app = group("Validate and run jobs.")
job_app.command("plan")(job_plan)
job_app.command("bundle")(sign_bundle)
job_app.command("rehearse")(job_rehearse)
job_app.command("extend")(job_extend)
job_app.command("give-up")(job_give_up)


@job_app.command()
def validate(
    job: Annotated[Path, typer.Argument(help="The job file.")], as_json: JsonFlag = False
) -> None:
    """Check a job file, its contract and whether its parts fit together; every fault at once.

    Example: consilo job validate job.yaml
    """
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job

    loaded = Job.load(job)
    contract = Contract.load(loaded.contract, search=(job.parent,))
    facts: dict[str, Any] = {
        "job": loaded.name,
        "job_digest": loaded.digest,
        "contract": contract.ref,
        "contract_digest": contract.digest,
    }
    facts, summary = _PARTS[loaded.kind](facts, loaded, contract, job.parent)
    promotion = getattr(loaded, "promotion", None)  # of jobs about a model
    if promotion is not None and (wanted := promotion.needs_reviewers):
        facts["reviewers_needed"] = wanted
        summary += f"\nto promote its model, {wanted} reviewers must be enrolled"
    print(json.dumps(facts) if as_json else f"job {loaded.name} is valid: {summary}")


def _horizontal_parts(
    facts: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.horizontal.features import Scale
    from consilo.horizontal.learning import row_by_row
    from consilo.runs.forecast import forecast, traffic
    from consilo.runs.planning.plan import first_state, passes_of, plan

    made = plan(job, contract, (), search_path=(folder,))
    scale = None if job.features.standardize == "silo" else Scale.unit(len(made.encoding.numeric))
    first = first_state(job, made.protocol, made.learner, scale)
    moved = traffic(made.protocol, first, passes=passes_of(made.protocol))
    facts |= {
        "inputs": len(made.encoding.inputs),
        "parameters": sum(v.size for v in made.learner.parameters().values()),
        "bytes_per_round_and_silo": moved and moved.bytes_down + moved.bytes_up,
    }
    slow = row_by_row(job, made.learner, len(made.encoding.inputs))
    if slow:
        facts["row_by_row"] = slow
    return facts, (
        f"contract {contract.ref}, {facts['inputs']} inputs, {facts['parameters']} parameters, "
        f"{job.protocol.rounds} rounds of {job.protocol.name}; {forecast(moved, (), {})}"
        + (f"\nslow: {slow}" if slow else "")
    )


def _vertical_parts(
    facts: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.runs.vertical import plan_vertical

    holders = plan_vertical(job, contract, (), (folder,)).settings
    columns = {name: len(each) for name, each in holders.columns.items()}
    facts |= {"columns": columns, "label_silo": holders.label_silo, "match": holders.match}
    held = ", ".join(f"{name} {number}" for name, number in columns.items())
    return facts, (
        f"contract {contract.ref}, columns: {held}; labels in {holders.label_silo}, match "
        f"'{holders.match}', {job.protocol.name}"
    )


def _match_parts(
    facts: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.runs.match import contract_of

    keys = contract_of(job, [folder])
    facts |= {"handle": job.match.handle or job.name, "recipe": job.match.recipe.hash}
    number = len(job.match.recipe.keys)
    return facts, f"contract {keys.ref}, {number} keys, match '{facts['handle']}'"


def _analytics_parts(
    facts: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.runs.planning.plan import plan_analytics

    encoding = plan_analytics(job, contract, (), (folder,))
    if job.questions:
        return _question_parts(facts, job, contract)
    facts |= {"columns": list(encoding.numeric)}
    return facts, f"contract {contract.ref}, statistics of {len(encoding.numeric)} columns"


def _question_parts(facts: dict[str, Any], job: Any, contract: Any) -> tuple[dict[str, Any], str]:
    from consilo.horizontal.asked.axes import Axes
    from consilo.horizontal.asked.protocol import tables_of

    axes = Axes.of(contract)
    tables, noisy = tables_of(job, axes), job.privacy is not None
    facts |= {"questions": len(job.questions), "tables": list(tables), "noisy": noisy}
    facts["declaration"] = axes.digest
    who = (
        f"noisy, for ε {job.privacy.statistics_epsilon:g} of each silo's account"
        if noisy
        else "exact: a silo refuses it whose policy requires privacy, has exact_statistics: no or "
        "statistic: no, or that has told of its rows on other cells (declaration "
        f"{axes.digest[:12]})"
    )
    return facts, (
        f"contract {contract.ref}, {len(job.questions)} questions of {len(tables)} declared "
        f"tables; {who}"
    )


_PARTS = {
    "horizontal": _horizontal_parts,
    "vertical": _vertical_parts,
    "scoring": _vertical_parts,
    "match": _match_parts,
    "analytics": _analytics_parts,
}
"""What a valid job of each kind is said to be."""


@job_app.command("run")
def job_run(
    job: Annotated[Path, typer.Argument(help="The job file.")],
    directory: Directory = None,
    silos: Annotated[
        Path | None,
        typer.Option(help="Folder of silo directories: start a federation for this run."),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="With --silos: in this process, no services.")
    ] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="In place of the job's.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, max=50, help="Run once a fold: each judges by other rows."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(min=1, max=50, help="With --folds: this one alone.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="With --dir: go on with this run, whose process died."),
    ] = None,
    bundle: AuthorsBundle = None,
    num_silos: Annotated[
        int | None,
        typer.Option("--simulate", min=1, metavar="N", help="Cut --data into N silos, here."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="With --simulate: a CSV or Parquet file, a folder of such, a source's YAML file, "
            "or a silo's directory."
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="With --data: how its columns become the contract's."),
    ] = None,
    partition: Annotated[
        str,
        typer.Option(help="iid, dirichlet:ALPHA, column:NAME, power:SKEW or lognormal:SKEW."),
    ] = "iid",
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --simulate: processes; else one per CPU.")
    ] = None,
    on_ray: Annotated[bool, typer.Option("--ray", help="With --simulate: on Ray.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="With --local or --simulate: keep model, record, history and figures."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a job: on the federation that is up in --dir, on one started for it, or simulated.

    Example: consilo job run job.yaml --silos silos/
    """
    from consilo.jobs.job import Job
    from consilo.runs.folds import fold_job
    from consilo.runs.outcome import fresh
    from flows.commands import folds as over
    from flows.commands import ways

    changes: dict[str, Any] = {} if rounds is None else {"protocol": {"rounds": rounds}}
    loaded = Job.load(job).changed(**changes)
    _require_together(
        {
            "--folds": folds,
            "--fold": fold,
            "--resume": resume,
            "--bundle": bundle,
            "--silos": silos,
            "--local": local or None,
            "--simulate": num_silos,
            "--data": data,
            "--mapping": mapping,
            "--partition": None if partition == "iid" else partition,
            "--workers": workers,
            "--ray": on_ray or None,
            "--dir": directory,
            "--out": out,
        }
    )
    if out is not None:
        fresh(out)
    every = folds is not None and fold is None
    if folds is not None and fold is not None:
        loaded = fold_job(loaded, folds=folds, fold=fold)
    parameters = _parameters(job, rounds, resume, bundle)
    way: AbstractContextManager[ways.Once]
    if num_silos is not None:
        way = ways.cut_from(
            job,
            data,
            (num_silos, partition),
            mapping=mapping,
            directory=directory,
            out=out,
            workers=workers,
            engine="ray" if on_ray else "processes",
        )
    elif local:
        way = ways.in_process(job, silos, directory, out)
    elif silos is not None:
        way = ways.alone(loaded, job, silos, directory, parameters)
    elif directory is not None:
        way = ways.connected(directory, parameters)
    else:
        raise ConfigInvalid(
            "job run",
            ["give --dir of a federation that is up, --silos to start one, or --simulate"],
        )
    with way as once:
        if every and folds is not None:
            summary = over.run_folds(once, loaded, folds, out)
        else:
            asked = {} if folds is None else {"folds": folds, "fold": fold}
            summary = once(loaded, asked, "")
    print_summary(summary, as_json=as_json, show=over.show_folds if every else None)
    raise typer.Exit(exit_code(summary))


def _require_together(given: Mapping[str, Any]) -> None:
    """Raise `ConfigInvalid` for the first option that would say nothing beside the others.

    Args:
        given: option → its value, None where it is not given.
    """
    there = {name for name, value in given.items() if value is not None}
    is_cut = "--simulate" in there
    here = is_cut or "--local" in there
    faults = {
        "--fold": ("--folds" not in there, "say with --folds of how many"),
        "--resume": (
            here or "--dir" not in there or ("--folds" in there and "--fold" not in there),
            "goes on with one run of a federation: say with --dir where, and with --fold which",
        ),
        "--bundle": (here, "no bundle travels within this process"),
        "--local": (is_cut, "and --simulate are two ways; give one"),
        "--silos": (is_cut, "and --simulate are two ways; give one"),
        "--out": (not here, "is for --local and --simulate; a federation keeps all in --dir"),
    }
    of_cut = ("--data", "--mapping", "--partition", "--workers", "--ray")
    faults |= {name: (not is_cut, "is for --simulate; say into how many") for name in of_cut}
    for name, (is_wrong, said) in faults.items():
        if name in there and is_wrong:
            raise ConfigInvalid(f"job run {name}", [said])


def _parameters(
    job: Path, rounds: int | None, resume: str | None, bundle: Path | None
) -> dict[str, Any]:
    path = None if bundle is None else str(bundle.resolve())
    asked = {"rounds": rounds, "resume": resume, "bundle": path}
    return {"job": str(job.resolve()), **{n: each for n, each in asked.items() if each is not None}}
