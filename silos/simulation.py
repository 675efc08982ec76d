"""Run a job in this process, over silos made on the spot: for notebooks, tests and baselines."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contract import Contract
from consilo.dispatch import answerer
from consilo.errors import ConfigInvalid
from consilo.job import Job
from consilo.outcome import RunResult
from consilo.run import Run, run_all
from consilo.transports.local import LocalTransport
from silos.policy import Policy
from silos.silo import Silo, SiloConfig
from silos.sources import Source

if TYPE_CHECKING:
    import pandas as pd


def simulate(
    job: Job | str | Path,
    silos: Mapping[str, pd.DataFrame | str | Path],
    *,
    contract: Contract | None = None,
    directory: Path | None = None,
    search_path: Sequence[Path] = (),
) -> RunResult:
    """Run ``job`` over ``silos`` in this process and return its result.

    The silos are real ones, with contract check, guard, privacy and the same bytes as over the
    network; only the network is missing. A frame's columns are the contract's.

    Args:
        job: a job, or the path of a job file.
        silos: name → rows, or name → the directory of a silo with ``silo.yaml``.
        contract: in place of the one that the job names.
        directory: where the run keeps record and model; None takes a temporary one that goes away.
        search_path: where the job's own modules lie, besides the job file's directory.

    Raises:
        InvalidInput: where job, contract or a silo's files are not valid.
        IncompatibleJob: where the parts cannot work together.
    """
    modules = list(search_path)
    if not isinstance(job, Job):
        path = Path(job)
        job = Job.load(path)
        modules.append(path.parent)
    contract = contract or load_contract(job, modules)
    with ExitStack() as stack:
        if directory is None:
            made = tempfile.TemporaryDirectory(prefix="consilo-")
            directory = Path(stack.enter_context(made))
        answers = {
            name: answerer(_silo(name, rows, directory / "silos" / name, tuple(modules)))
            for name, rows in silos.items()
        }
        run = Run(
            job,
            contract,
            LocalTransport(answers),
            silos=tuple(silos),
            directory=directory / "run",
            run_id=uuid.uuid4().hex,
            key=Ed25519PrivateKey.generate(),
            search_path=modules,
        )
        return run_all(run)


def load_contract(job: Job, folders: Sequence[Path]) -> Contract:
    """Return the contract that a job names: ``name@version``, or a file in one of ``folders``.

    Raises:
        ContractInvalid: with one finding per fault.
    """
    places = [folder / job.contract for folder in folders]
    beside = next((place for place in places if place.is_file()), None)
    return Contract.load(job.contract if beside is None else beside, search=folders)


def _silo(
    name: str, rows: pd.DataFrame | str | Path, place: Path, modules: tuple[Path, ...]
) -> Silo:
    if isinstance(rows, str | Path):
        silo = Silo.open(Path(rows), search_path=modules)
        if silo.name != name:
            raise ConfigInvalid(
                str(Path(rows) / "silo.yaml"), [f"name: expected '{name}', found '{silo.name}'"]
            )
        return silo
    place.mkdir(parents=True, mode=0o700)
    rows.to_parquet(place / "rows.parquet", index=False)
    config = SiloConfig(name=name, source=Source(type="parquet", path=(Path("rows.parquet"),)))
    return Silo(place, config, Policy.simulation(), search_path=modules, docs=False)
