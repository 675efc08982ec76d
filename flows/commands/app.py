"""The coordinator's commands: demo, up, job, run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from consilo.cli import group
from consilo.errors import ConfigInvalid
from flows.commands.plan import job_plan

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Work directory of the coordinator.", show_default=False),
]

job_app = group("Validate and run jobs.")
job_app.command("plan")(job_plan)
run_app = group("Look at what a run left.")


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A fresh work directory.", show_default=False)
    ] = None,
    vertical: Annotated[
        bool,
        typer.Option("--vertical", help="Three organisations with different columns."),
    ] = False,
    silos: Annotated[
        int | None,
        typer.Option(help="Hospitals, the broken one included; 4 by default.", show_default=False),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of training.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy budget of every silo.")] = None,
    no_dp: Annotated[bool, typer.Option("--no-dp", help="Without differential privacy.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of data and job.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave services up until Ctrl-C.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a whole federation on this machine: four hospitals, contracts, privacy, registry.

    With --vertical, three organisations that know different things about the same patients: match,
    train, register, score.

    Example: consilo demo --keep    (then look at both pages it names)
    """
    from consilo.machine.processes import Supervisor
    from flows.demo.demo import DemoOptions, run_demo, work_directory
    from flows.demo.vertical_demo import run_vertical_demo
    from flows.services.federation import taken_down

    given = {"--silos": silos, "--epsilon": epsilon, "--no-dp": no_dp or None}
    unfit = [name for name, value in given.items() if vertical and value is not None]
    if unfit:
        raise ConfigInvalid(
            f"demo --vertical {' '.join(unfit)}",
            [
                "the vertical demo has three organisations and an exact model without noise; leave "
                f"out {', '.join(unfit)}"
            ],
        )
    home = work_directory(directory)
    options = DemoOptions(home, 4 if silos is None else silos, rounds, epsilon, not no_dp, seed)
    start = run_vertical_demo if vertical else run_demo
    with taken_down(home), Supervisor() as supervisor:
        summary, addresses = start(supervisor, options, _say())
        _print(summary, as_json=as_json)
        if keep:
            print(
                f"up until Ctrl-C: Prefect {addresses.prefect_ui}, MLflow {addresses.tracking_uri}",
                file=sys.stderr,
            )
            _until_stopped()
    raise typer.Exit(_code(summary))


def up(
    directory: Annotated[Path, typer.Option("--dir", help="Work directory of the coordinator.")],
    silos: Annotated[
        Path | None,
        typer.Option(help="Folder of silo directories to run on this machine.", show_default=False),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address that silos are served on; kept. First: 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port for silos; kept. First: a free one."),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(help="What silos call this machine; kept. First: --host."),
    ] = None,
    worker: Annotated[bool, typer.Option(help="Also run what is deployed in Prefect.")] = False,
) -> None:
    """Start the coordinator's services, and silos of this machine if any; runs until Ctrl-C.

    Example: consilo up --dir coordinator/ --host 0.0.0.0 --advertise fed.example.org
    """
    from consilo.machine.environment import quieten
    from consilo.machine.processes import Supervisor
    from flows.services.federation import bring_up, find_silos, settle_place, taken_down
    from flows.services.services import start_worker
    from flows.services.watch import Watch

    quieten()
    home, say = directory.resolve(), _say()
    with taken_down(home), Supervisor() as supervisor:
        place = settle_place(home, host=host, port=port, advertise=advertise)
        here = {} if silos is None else find_silos(silos)
        addresses = bring_up(supervisor, home, here, say=say, place=place)
        if worker:
            start_worker(supervisor, home, addresses.prefect_api)
        say(f"up until Ctrl-C: Prefect {addresses.prefect_ui}, MLflow {addresses.tracking_uri}")
        _until_stopped(Watch(home, supervisor.services, say).look)


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
    found: dict[str, Any] = {
        "job": loaded.name,
        "job_digest": loaded.digest,
        "contract": contract.ref,
        "contract_digest": contract.digest,
    }
    found, said = _PARTS[loaded.kind](found, loaded, contract, job.parent)
    print(json.dumps(found) if as_json else f"job {loaded.name} is valid: {said}")


def _horizontal_parts(
    found: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.horizontal.features import Scale
    from consilo.runs.forecast import forecast, traffic
    from consilo.runs.plan import first_state, passes_of, plan
    from consilo.wire.params import select

    made = plan(job, contract, (), search_path=(folder,))
    sent = select(made.learner.parameters(), made.learner.updatable)
    scale = None if job.features.standardize == "silo" else Scale.unit(len(made.encoding.numeric))
    first = first_state(job, made.protocol, sent, scale)
    moved = traffic(made.protocol, first, passes=passes_of(made.protocol))
    found |= {
        "inputs": len(made.encoding.inputs),
        "parameters": sum(v.size for v in made.learner.parameters().values()),
        "bytes_per_round_and_silo": moved and moved.bytes_down + moved.bytes_up,
    }
    return found, (
        f"contract {contract.ref}, {found['inputs']} inputs, {found['parameters']} parameters, "
        f"{job.protocol.rounds} rounds of {job.protocol.name}; {forecast(moved, (), {})}"
    )


def _vertical_parts(
    found: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.runs.vertical import plan_vertical

    holders = plan_vertical(job, contract, (), (folder,)).settings
    columns = {name: len(each) for name, each in holders.columns.items()}
    found |= {"columns": columns, "label_silo": holders.label_silo, "match": holders.match}
    held = ", ".join(f"{name} {number}" for name, number in columns.items())
    return found, (
        f"contract {contract.ref}, columns: {held}; labels in {holders.label_silo}, match "
        f"'{holders.match}', {job.protocol.name}"
    )


def _match_parts(
    found: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.runs.match import contract_of

    keys = contract_of(job, [folder])
    found |= {"handle": job.match.handle or job.name, "recipe": job.match.recipe.hash}
    number = len(job.match.recipe.keys)
    return found, f"contract {keys.ref}, {number} keys, match '{found['handle']}'"


def _analytics_parts(
    found: dict[str, Any], job: Any, contract: Any, folder: Path
) -> tuple[dict[str, Any], str]:
    from consilo.runs.plan import plan_analytics

    encoding = plan_analytics(job, contract, (), (folder,))
    found |= {"columns": list(encoding.numeric)}
    return found, f"contract {contract.ref}, statistics of {len(encoding.numeric)} columns"


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
    as_json: JsonFlag = False,
) -> None:
    """Run a job: on the federation that is up in --dir, on one started for it, or simulated.

    Example: consilo job run job.yaml --silos silos/
    """
    from consilo.jobs.job import Job

    changes: dict[str, Any] = {} if rounds is None else {"protocol": {"rounds": rounds}}
    loaded = Job.load(job).changed(**changes)
    if resume is not None and directory is None:
        raise ConfigInvalid("job run --resume", ["say with --dir where the run began"])
    if num_silos is not None:
        engine = "ray" if on_ray else "processes"
        summary = _run_cut(loaded, job, data, directory, (num_silos, partition), workers, engine)
    elif local:
        summary = _run_local(loaded, job, silos, directory)
    elif silos is not None:
        summary = _run_alone(loaded, job, silos, directory, _parameters(job, rounds, resume))
    elif directory is not None:
        summary = _run_connected(loaded, directory, _parameters(job, rounds, resume))
    else:
        raise ConfigInvalid(
            "job run",
            ["give --dir of a federation that is up, --silos to start one, or --simulate"],
        )
    _print(summary, as_json=as_json)
    raise typer.Exit(_code(summary))


@run_app.command("show")
def run_show(
    record: Annotated[Path, typer.Argument(help="A run's directory or its record.jsonl.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what a run record says: who took part, under which contract and code, at what cost.

    Example: consilo run show coordinator/runs/RUN
    """
    from consilo.record.run_record import read

    entries = read(_record(record))
    if as_json:
        print(json.dumps(entries))
        return
    for entry in entries:
        said = json.dumps(entry["body"], ensure_ascii=False)
        print(f"{entry['seq']:>3}  {entry['time']}  {entry['kind']:<13} {said[:300]}")


@run_app.command("verify")
def run_verify(
    record: Annotated[Path, typer.Argument(help="A run's directory or its record.jsonl.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="The coordinator's public key; else keys/record.key.pub beside the runs."
        ),
    ] = None,
    audit: Annotated[
        list[str] | None,
        typer.Option(
            help="SILO=FILE: a silo's audit log to hold against it; may be repeated.",
            metavar="SILO=FILE",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that a run record is whole, every reply signed, and that silos' logs tell the same.

    Example: consilo run verify coordinator/runs/RUN --audit cleveland=audit.jsonl
    """
    from consilo.record import chain
    from consilo.record.crosscheck import compare, signed_replies
    from consilo.record.run_record import read, verify

    path = _record(record)
    # The record of a match that a run made lies in a folder of that run.
    homes = list(path.resolve().parents)[2:4]
    beside = (home / "keys" / "record.key.pub" for home in homes)
    chosen = key or next((each for each in beside if each.exists()), None)
    body = verify(path, _public_key(chosen))
    entries = read(path)
    replies = len(signed_replies(entries))
    findings = []
    for each in audit or []:
        silo, _, log = each.partition("=")
        if silo not in entries[0]["body"]["silos"] or not Path(log).is_file():
            raise ConfigInvalid(each, ["expected SILO=FILE: a silo of this run and its audit log"])
        findings += [f"{silo}: {one}" for one in compare(entries, chain.verify(Path(log)), silo)]
    trusted = "signed by the coordinator" if chosen else "signed (by the key it names itself)"
    if as_json:
        told = {"replies": replies, "findings": findings, "key": str(chosen) if chosen else None}
        print(json.dumps({"verified": not findings, **told, **body}))
    else:
        print(f"whole: {body['entries']} entries, {trusted}, run {body['status']}")
        print(f"{replies} replies, each signed by its silo")
        print("\n".join(findings) or f"{len(audit or [])} audit logs tell the same")
        if chosen is None:
            print("to check who signed it, give the coordinator's --key", file=sys.stderr)
    raise typer.Exit(1 if findings else 0)


def _record(path: Path) -> Path:
    found = path / "record.jsonl" if path.is_dir() else path
    if not found.is_file():
        raise ConfigInvalid(str(path), ["no run record here; give a run's directory"])
    return found


def _public_key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(path.read_bytes())
        return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    except (OSError, ValueError):
        raise ConfigInvalid(str(path), ["expected the PEM file of an Ed25519 public key"]) from None


def _run_local(loaded: Any, job: Path, silos: Path | None, directory: Path | None) -> Any:
    from flows.services.federation import find_silos
    from silos import simulate

    if silos is None:
        raise ConfigInvalid("job run --local", ["give the silos with --silos"])
    found = find_silos(silos)
    result = simulate(loaded, found, directory=directory, search_path=(job.parent,))
    return result.to_json()


def _run_cut(
    loaded: Any,
    job: Path,
    data: Path | None,
    directory: Path | None,
    cut: tuple[int, str],
    workers: int | None,
    engine: Any,
) -> Any:
    import tempfile

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
        directory=directory or Path(tempfile.mkdtemp(prefix="consilo-")),
        search_path=(job.parent,),
        engine=engine,
        workers=workers,
    )
    about = result.extra["simulation"]
    _say()(f"{about['silo_rounds']} silo-rounds, {about['silo_rounds_per_s']:g} a second")
    return result.to_json()


def _run_alone(
    loaded: Any, job: Path, silos: Path, directory: Path | None, parameters: dict[str, Any]
) -> Any:
    import tempfile

    from consilo.machine.environment import quieten
    from consilo.machine.processes import Supervisor
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.transports.flower.bundle import bundle_hash
    from flows.services.federation import bring_up, find_silos, job_bundle, taken_down
    from flows.services.launch import launch
    from silos.gate.bundles import approve

    quieten()
    say = _say()
    home = (directory or Path(tempfile.mkdtemp(prefix="consilo-"))).resolve()
    found = find_silos(silos)
    signer = load_or_create_signing_key(home / "keys" / "record.key")
    digest = bundle_hash(job_bundle(loaded, (job.parent,), signer))
    for place in found.values():
        approve(place, digest)  # all these silos are ours: we gave them by their directories
    say(f"coordinator in {home}; bundle {digest[:12]} approved in {len(found)} silos")
    with taken_down(home), Supervisor() as supervisor:
        running = launch(supervisor, home, loaded, parameters)
        bring_up(supervisor, home, found, say=say)
        return running.wait(say)


def _run_connected(loaded: Any, directory: Path, parameters: dict[str, Any]) -> Any:
    from consilo.machine.processes import Supervisor
    from flows.services.federation import Addresses
    from flows.services.launch import launch

    home = directory.resolve()
    Addresses.load(home)
    with Supervisor() as supervisor:
        return launch(supervisor, home, loaded, parameters).wait(_say())


def _parameters(job: Path, rounds: int | None, resume: str | None) -> dict[str, Any]:
    asked = {"rounds": rounds, "resume": resume}
    return {"job": str(job.resolve()), **{n: each for n, each in asked.items() if each is not None}}


def _say() -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)

    return say


def _print(summary: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary), flush=True)
        return
    from rich.console import Console

    from flows.commands.summary import show

    show(summary, Console(width=None if sys.stdout.isatty() else 100))


def _code(summary: Any) -> int:
    return 1 if summary.get("status") == "failed" else 0


def _until_stopped(look: Callable[[], None] = lambda: None) -> None:
    from flows.services.watch import EVERY_S

    try:
        while True:
            look()
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        print("stopping", file=sys.stderr)
