"""Run a job on this machine, over silos made on the spot: for notebooks, tests and baselines.

`simulate` opens a real silo per name, in this process. `simulate_cut` cuts one table into as many
silos as wanted and runs them over a pool of processes, or on a Ray cluster;
`silos.simulation.simulated` says what is real there and what is not.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.errors import (
    ConfigInvalid,
    ContractInvalid,
    IncompatibleJob,
    JobInvalid,
    SchemaDrift,
)
from consilo.horizontal.features import Encoding
from consilo.horizontal.partition import Partition, cut, label_skew
from consilo.jobs.job import Job
from consilo.jobs.table_job import TableJob
from consilo.kernel.loop import Party
from consilo.machine.files import write_atomic
from consilo.protocols.dispatch import answerer
from consilo.runs.kinds import way_of
from consilo.runs.outcome import RunResult
from consilo.runs.stages import Say, silent
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Transport
from consilo.wire.signing import public_hex
from silos.gate.partners import Partner
from silos.gate.policy import Policy
from silos.rows.checks.verdicts import Verdicts
from silos.rows.mapping import Mapping as Mapped
from silos.rows.sources import ParquetSource, Source
from silos.rows.sources.found_out import source_at
from silos.silo import Silo
from silos.silo_config import SiloConfig
from silos.simulation.given import require_silos
from silos.simulation.in_memory import write_made_up_root
from silos.simulation.simulated import open_cut, write_cut

if TYPE_CHECKING:
    import pandas as pd

Engine: TypeAlias = Literal["processes", "ray", "inline"]

_OPENER = "silos.simulation.simulated:open_cut"
_MOST_EXPLAINED = 8
_VERDICTS = Verdicts()
"""A notebook runs one job after the other over the same frames: they are checked once."""


def simulate(
    job: Job | str | Path,
    silos: Mapping[str, pd.DataFrame | str | Path],
    *,
    contract: Contract | None = None,
    directory: Path | None = None,
    search_path: Sequence[Path] = (),
    say: Say = silent,
) -> RunResult:
    """Run ``job`` over ``silos`` in this process and return its result.

    The silos are real ones, with contract check, guard, privacy and the same bytes as over the
    network; only the network is missing. A frame's columns are the contract's.

    Args:
        job: a job, or the path of a job file.
        silos: name → rows, or name → the directory of a silo with ``silo.yaml``.
        contract: in place of the one that the job names.
        directory: where the run keeps record and model; None takes a temporary one that goes away,
            and `RunResult.save` writes what is worth keeping.
        search_path: where the job's own modules lie, besides the job file's directory.
        say: is told each step that was done.

    Raises:
        InvalidInput: where job, contract or a silo's files are not valid.
        IncompatibleJob: where the parts cannot work together.
    """
    job, modules = _opened(job, search_path)
    way = way_of(job)
    contract = _contract(contract, job, modules)
    goes_away = directory is None
    with ExitStack() as stack:
        directory = _home(stack, directory)
        if (directory / "run").exists():
            raise ConfigInvalid(
                str(directory), ["a run is kept here already; give another directory"]
            )
        key = Ed25519PrivateKey.generate()
        hosts = acquainted(silos, directory / "silos", key, tuple(modules))
        transport = LocalTransport({name: answerer(host) for name, host in hosts.items()})
        settings: dict[str, Any] = {
            "silos": tuple(silos),
            "directory": directory / "run",
            "run_id": uuid.uuid4().hex,
            "key": key,
            "parties": {name: Party(host.signing_key) for name, host in hosts.items()},
            "search_path": modules,
        }
        result = way.whole(way.run(job, contract, transport, **settings), say=say)
        return _outlasting(result) if goes_away else result


def acquainted(
    silos: Mapping[str, pd.DataFrame | str | Path],
    place: Path,
    key: Ed25519PrivateKey,
    modules: tuple[Path, ...],
) -> dict[str, Silo]:
    """Return silos in this process that take requests signed with ``key`` and know each other.

    Args:
        silos: name → rows, or name → the directory of a silo with ``silo.yaml``.
        place: where the directories of those that are rows only are made.
        key: whose requests they take, in place of their own coordinator's.
        modules: where a job's own modules lie.
    """
    require_silos(silos)
    partners: dict[str, Partner] = {}
    hosts = {
        name: _silo(
            name,
            rows,
            place / name,
            modules,
            signing_keys=(public_hex(key),),
            partners=partners,
        )
        for name, rows in silos.items()
    }
    partners |= {n: Partner(signing_key=host.signing_key) for n, host in hosts.items()}
    return hosts


def simulate_cut(
    job: Job | str | Path,
    table: pd.DataFrame | str | Path,
    partition: Partition,
    *,
    contract: Contract | None = None,
    directory: Path | None = None,
    search_path: Sequence[Path] = (),
    engine: Engine = "processes",
    workers: int | None = None,
    mapping: Path | None = None,
    say: Say = silent,
) -> RunResult:
    """Cut one table into silos, run ``job`` over them and return its result.

    Result and parameters do not depend on engine and workers. The result's ``extra`` has an entry
    ``simulation``: how the table was cut, how unlike the silos are, and silo-rounds per second.

    Args:
        job: a job, or the path of a job file.
        table: rows; or where they are: a CSV or Parquet file, a folder of such, or a source's
            YAML file (see `silos.rows.sources.found_out.source_at`); or the directory of a silo,
            whose mapping then applies.
        partition: how many silos, and how they differ.
        contract: in place of the one that the job names.
        directory: where the run keeps record and model, and the workers their log; the silos' rows
            go away after the run. None takes a temporary one that goes away too.
        search_path: where the job's own modules lie, besides the job file's directory.
        engine: ``processes`` on this machine; ``ray``, on the cluster that ``RAY_ADDRESS`` names or
            one that is started here; ``inline``, in this process.
        workers: processes or actors; None takes one per CPU.
        mapping: how the rows' columns become the contract's, as a silo's ``mapping.yaml``; None
            where they have its names, units and codes.
        say: is told each step that was done.

    Raises:
        InvalidInput: where job, contract, partition or the silo's files are not valid.
        IncompatibleJob: where the job's parts cannot work together.
        SchemaDrift: where the table breaks the contract.
        SourceUnreadable: where it cannot be read.
    """
    job, modules = _opened(job, search_path)
    way = way_of(job)
    if job.rows == "matched":
        raise IncompatibleJob(
            f"a table is cut by rows, and a {job.kind} job needs silos with different columns; "
            "give their directories"
        )
    contract = _contract(contract, job, modules)
    goes_away = directory is None
    with ExitStack() as stack:
        home = _home(stack, directory)
        home.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="silos-", dir=home)
        silos = Path(stack.enter_context(made))
        whole, source = _whole(table, silos / "whole", tuple(modules), contract, mapping)
        report = whole.rows.check(contract)
        if not report.passed:
            raise SchemaDrift(_explained(whole, contract, report))
        frame = whole.rows.frame(contract)
        parts = cut(_cut_by(partition, frame, source, contract), partition)
        place = silos / "cut"
        write_cut(place, frame, parts, contract=contract, report=report, search_path=tuple(modules))
        about = {**partition.model_dump(mode="json"), "engine": engine, "rows": len(frame)}
        by_column = isinstance(job, TableJob) and job.describes_columns
        if by_column and Encoding.plan(contract, job).classes:
            labels = _texts(frame[contract.targets[0]])
            about["label_skew"] = round(label_skew(labels, parts), 4)
        del frame
        log = home / "workers.log"
        transport = stack.enter_context(
            closing(_transport(engine, place, tuple(parts), workers, log))
        )
        run = way.run(
            job,
            contract,
            transport,
            silos=tuple(parts),
            directory=home / "run",
            run_id=uuid.uuid4().hex,
            key=Ed25519PrivateKey.generate(),
            search_path=modules,
        )
        result = way.whole(run, say=say)
        result = _outlasting(result) if goes_away else result
    done = sum(len(each["silos"]) for each in result.rounds)
    spent_s = result.seconds.get("train", 0.0)
    about["silo_rounds"] = done
    about["silo_rounds_per_s"] = round(done / spent_s, 1) if spent_s else 0.0
    return replace(result, extra={**result.extra, "simulation": about})


def _contract(given: Contract | None, job: Job, folders: Sequence[Path]) -> Contract:
    if given is None:
        return load_contract(job, folders)
    if not isinstance(given, Contract):
        hint = "Contract.load reads name@version or a path"
        raise ContractInvalid(
            "of the simulation", [f"give a Contract; {hint}; found {type(given).__name__}"]
        )
    return given


def load_contract(job: Job, folders: Sequence[Path]) -> Contract:
    """Return the contract that a job names: ``name@version``, or a file in one of ``folders``.

    Raises:
        ContractInvalid: with one finding per fault.
    """
    places = [folder / job.contract for folder in folders]
    beside = next((place for place in places if place.is_file()), None)
    return Contract.load(job.contract if beside is None else beside, search=folders)


def _opened(job: Job | str | Path, search_path: Sequence[Path]) -> tuple[Job, list[Path]]:
    modules = [Path(each).resolve() for each in search_path]
    if isinstance(job, Job):
        return job, modules
    if not isinstance(job, str | Path):
        hint = "give a Job, or the path of a job file; Job.from_json reads a mapping"
        raise JobInvalid("of the simulation", [f"{hint}; found {type(job).__name__}"])
    path = Path(job)
    return Job.load(path), [*modules, path.resolve().parent]


def _outlasting(result: RunResult) -> RunResult:
    """Return a result that holds what was in a directory which goes away now."""
    record = Path(result.record)
    return replace(
        result, record="", directory="", kept={**result.kept, record.name: record.read_bytes()}
    )


def _home(stack: ExitStack, directory: Path | None) -> Path:
    if directory is not None:
        place = Path(directory).resolve()
        if place.exists() and not place.is_dir():
            raise ConfigInvalid(str(place), ["this is a file; give a directory"])
        return place
    made = tempfile.TemporaryDirectory(prefix="consilo-")
    return Path(stack.enter_context(made))


def _whole(
    table: pd.DataFrame | str | Path,
    place: Path,
    modules: tuple[Path, ...],
    contract: Contract,
    mapping: Path | None,
) -> tuple[Silo, Source | None]:
    """Return the table as one silo, which maps and checks it, and where its rows are.

    The latter is None for a silo's directory, whose consents may leave out some of them.
    """
    if isinstance(table, str | Path) and (Path(table) / "silo.yaml").is_file():
        if mapping is not None:
            told = "the silo's directory has a mapping of its own; give its file with the rows'"
            raise ConfigInvalid(str(mapping), [told])
        return Silo.open(Path(table).resolve(), search_path=modules, knows_others=False), None
    how = None if mapping is None else Mapped.given(mapping, contract)
    place.mkdir(parents=True, mode=0o700)
    if mapping is not None:
        write_atomic(place / "mapping.yaml", mapping.read_bytes())
    if isinstance(table, str | Path):
        source = source_at(Path(table).resolve())
    else:
        table.to_parquet(place / "rows.parquet", index=False)
        source = ParquetSource(path=(place / "rows.parquet",))
    silo = Silo(
        place,
        SiloConfig(name="whole", data={(how and how.data) or "data": source}),
        Policy.simulation(),
        search_path=modules,
        docs=False,
        asks_people=False,
        verdicts=_VERDICTS,
    )
    return silo, source


def _explained(whole: Silo, contract: Contract, report: CheckReport) -> str:
    """Return why the table breaks its contract, for whoever has brought it: no value of a row."""
    found = whole.rows.explain(contract, report)
    lines = [f"  {line}" for each in found[:_MOST_EXPLAINED] for line in each.lines()]
    more = len(found) - _MOST_EXPLAINED
    lines += [f"  and {more} more rules"] if more > 0 else []
    if any(each.finding.rule == "present" for each in found):
        lines.append("a mapping says which column is which: --mapping FILE, in Python mapping=")
    return "\n".join([f"the table {report.reason()}", *lines])


def _cut_by(
    partition: Partition, frame: pd.DataFrame, source: Source | None, contract: Contract
) -> np.ndarray[Any, Any]:
    """Return what decides where a row goes; see `consilo.horizontal.partition.cut`."""
    if partition.rule == "dirichlet":
        column = frame[contract.targets[0]]
        numeric = contract.columns[contract.targets[0]].type == "float"
        return column.to_numpy(np.float64) if numeric else _texts(column)
    if partition.rule != "column":
        return np.empty(len(frame))
    if partition.column is None:
        raise ConfigInvalid("partition", ["rule 'column' needs the name of a column"])
    if partition.column in frame.columns:
        return _texts(frame[partition.column])
    # A column that no model sees may still say where a row comes from.
    local = () if source is None else source.columns()
    if source is None or partition.column not in local:
        there = ", ".join(dict.fromkeys([*frame.columns, *local]))
        raise ConfigInvalid(
            "partition", [f"no column '{partition.column}' in the table; it has {there}"]
        )
    name = partition.column
    return _texts(source.read([name], text=[name])[name])  # 007 and 7 are two silos


def _texts(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Return values that can be sorted; what is missing is a value of its own."""
    return np.array([str(each) for each in column], dtype=object)


def _transport(
    engine: Engine, place: Path, names: tuple[str, ...], workers: int | None, log: Path
) -> Transport:
    if engine == "inline":
        answer_of = open_cut(str(place))
        return LocalTransport({name: answer_of(name) for name in names})
    if engine == "ray":
        from consilo.transports.ray_actors import RayTransport

        return RayTransport(names, _OPENER, place, workers=workers)
    from consilo.transports.pool import PoolTransport

    return PoolTransport(
        names,
        _OPENER,
        str(place),
        workers=workers,
        preload=("silos.node.ready",),
        log=log,
    )


def _silo(
    name: str,
    rows: pd.DataFrame | str | Path,
    place: Path,
    modules: tuple[Path, ...],
    signing_keys: Sequence[str] = (),
    partners: Mapping[str, Partner] | None = None,
) -> Silo:
    if isinstance(rows, str | Path):
        silo = Silo.open(
            Path(rows),
            search_path=modules,
            signing_keys=signing_keys,
            partners=partners,
            knows_others=False,
        )
        if silo.name != name:
            raise ConfigInvalid(
                str(Path(rows) / "silo.yaml"), [f"name: expected '{name}', found '{silo.name}'"]
            )
        return silo
    place.mkdir(parents=True, mode=0o700)
    rows.to_parquet(place / "rows.parquet", index=False)
    write_made_up_root(place, name)
    source = ParquetSource(path=(Path("rows.parquet"),))
    config = SiloConfig(name=name, data={"data": source})
    return Silo(
        place,
        config,
        Policy.simulation(),
        search_path=modules,
        docs=False,
        asks_people=False,
        verdicts=_VERDICTS,
        signing_keys=signing_keys,
        partners=partners,
    )
