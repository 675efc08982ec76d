"""``consilo job``: validate and run jobs, and say beforehand what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from consilo.cli import group
from consilo.errors import ConfigInvalid
from flows.commands.bundle import sign_bundle
from flows.commands.extend import job_extend
from flows.commands.plan import job_plan
from flows.commands.terminal import (
    AuthorsBundle,
    Directory,
    JsonFlag,
    exit_code,
    print_summary,
    teller,
)

job_app = group("Validate and run jobs.")
job_app.command("plan")(job_plan)
job_app.command("bundle")(sign_bundle)
job_app.command("extend")(job_extend)


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
    print(json.dumps(facts) if as_json else f"job {loaded.name} is valid: {summary}")


def _horizontal_parts(
    facts: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.horizontal.features import Scale
    from consilo.runs.forecast import forecast, traffic
    from consilo.runs.plan import first_state, passes_of, plan

    made = plan(job, contract, (), search_path=(folder,))
    scale = None if job.features.standardize == "silo" else Scale.unit(len(made.encoding.numeric))
    first = first_state(job, made.protocol, made.learner, scale)
    moved = traffic(made.protocol, first, passes=passes_of(made.protocol))
    facts |= {
        "inputs": len(made.encoding.inputs),
        "parameters": sum(v.size for v in made.learner.parameters().values()),
        "bytes_per_round_and_silo": moved and moved.bytes_down + moved.bytes_up,
    }
    return facts, (
        f"contract {contract.ref}, {facts['inputs']} inputs, {facts['parameters']} parameters, "
        f"{job.protocol.rounds} rounds of {job.protocol.name}; {forecast(moved, (), {})}"
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
    from consilo.runs.plan import plan_analytics

    encoding = plan_analytics(job, contract, (), (folder,))
    facts |= {"columns": list(encoding.numeric)}
    return facts, f"contract {contract.ref}, statistics of {len(encoding.numeric)} columns"


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
        typer.Option(help="With --simulate: a CSV or Parquet file, or a silo's directory."),
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
    from consilo.runs.outcome import fresh

    changes: dict[str, Any] = {} if rounds is None else {"protocol": {"rounds": rounds}}
    loaded = Job.load(job).changed(**changes)
    if resume is not None and directory is None:
        raise ConfigInvalid("job run --resume", ["say with --dir where the run began"])
    if out is not None and not local and num_silos is None:
        raise ConfigInvalid(
            "job run --out", ["is for --local and --simulate; a federation keeps all in --dir"]
        )
    if bundle is not None and (local or num_silos is not None):
        raise ConfigInvalid("job run --bundle", ["no bundle travels within this process"])
    if out is not None:
        fresh(out)
    parameters = _parameters(job, rounds, resume, bundle)
    if num_silos is not None:
        engine = "ray" if on_ray else "processes"
        cut = (num_silos, partition)
        result = _run_cut(loaded, job, data, directory, cut, workers, engine)
        summary = _kept(result, out)
    elif local:
        summary = _kept(_run_local(loaded, job, silos, directory), out)
    elif silos is not None:
        summary = _run_alone(loaded, job, silos, directory, parameters)
    elif directory is not None:
        summary = _run_connected(loaded, directory, parameters)
    else:
        raise ConfigInvalid(
            "job run",
            ["give --dir of a federation that is up, --silos to start one, or --simulate"],
        )
    print_summary(summary, as_json=as_json)
    raise typer.Exit(exit_code(summary))


def _run_local(loaded: Any, job: Path, silos: Path | None, directory: Path | None) -> Any:
    from consilo.machine.environment import quieten
    from flows.services.federation import find_silos
    from silos import simulate

    if silos is None:
        raise ConfigInvalid("job run --local", ["give the silos with --silos"])
    folders = find_silos(silos)
    quieten()
    return simulate(loaded, folders, directory=directory, search_path=(job.parent,), say=teller())


def _kept(result: Any, out: Path | None) -> dict[str, Any]:
    """Return the summary of a run without services, with what it left and what it did not."""
    from consilo.machine.environment import quieten

    quieten()
    written = {} if out is None else result.save(out)
    summary: dict[str, Any] = result.to_json()
    summary["record"] = written.get("record", summary["record"])
    summary["kept"] = written
    if "model" in written:
        summary["model"] = {"path": written["model"]}
    ask = "; --out DIR keeps it" if out is None else ""
    absent = {
        "model": f"a model, which is not kept{ask}" if result.build else "no model",
        "record": f"a record, which went with a temporary directory{ask}",
    }
    told = [text for name, text in absent.items() if not summary[name]]
    told.append("nothing in MLflow or Prefect, and no baselines: no services ran")
    return {**summary, "notes": [*summary["notes"], f"this run left {'; '.join(told)}"]}


def _run_cut(
    loaded: Any,
    job: Path,
    data: Path | None,
    directory: Path | None,
    cut: tuple[int, str],
    workers: int | None,
    engine: Any,
) -> Any:
    from consilo.horizontal.partition import Partition
    from consilo.machine.environment import quieten
    from silos.simulation.simulation import simulate_cut

    if data is None:
        raise ConfigInvalid("job run --simulate", ["give the rows with --data"])
    quieten()
    partition = Partition.parse(cut[1], silos=cut[0], seed=loaded.seed)
    result = simulate_cut(
        loaded,
        data,
        partition,
        directory=directory,
        search_path=(job.parent,),
        engine=engine,
        workers=workers,
        say=teller(),
    )
    about = result.extra["simulation"]
    teller()(f"{about['silo_rounds']} silo-rounds, {about['silo_rounds_per_s']:g} a second")
    return result


def _run_alone(
    loaded: Any, job: Path, silos: Path, directory: Path | None, parameters: dict[str, Any]
) -> Any:
    from consilo.machine.environment import quieten
    from consilo.machine.processes import Supervisor
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.transports.flower.bundle import bundle_hash
    from flows.services.federation import (
        carried_bundle,
        find_silos,
        job_bundle,
        rise,
    )
    from flows.services.launch import launch
    from flows.services.place import taken_down, workplace
    from flows.services.watch import Watch
    from silos.gate.bundles import approve

    quieten()
    say = teller()
    folders = find_silos(silos)
    with workplace(directory, "consilo-") as home:
        if "bundle" in parameters:
            content = carried_bundle(Path(parameters["bundle"]), loaded, (job.parent,))
        else:
            signer = load_or_create_signing_key(home / "keys" / "record.key")
            content = job_bundle(loaded, (job.parent,), signer)
        digest = bundle_hash(content)
        for place in folders.values():
            approve(place, digest)  # all these silos are ours: we gave them by their directories
        say(f"coordinator in {home}; bundle {digest[:12]} approved in {len(folders)} silos")
        with taken_down(home), Supervisor() as supervisor:
            rising = rise(supervisor, home, folders, say=say)
            running = launch(supervisor, home, loaded, parameters)
            rising.wait()
            return running.wait(say, Watch(home, supervisor, say).look)


def _run_connected(loaded: Any, directory: Path, parameters: dict[str, Any]) -> Any:
    from consilo.machine.processes import Supervisor
    from flows.services.launch import launch
    from flows.services.watch import Absence

    home, say = directory.resolve(), teller()
    absence = Absence(home, say)
    with Supervisor() as supervisor:
        return launch(supervisor, home, loaded, parameters).wait(say, absence.look)


def _parameters(
    job: Path, rounds: int | None, resume: str | None, bundle: Path | None
) -> dict[str, Any]:
    path = None if bundle is None else str(bundle.resolve())
    asked = {"rounds": rounds, "resume": resume, "bundle": path}
    return {"job": str(job.resolve()), **{n: each for n, each in asked.items() if each is not None}}
