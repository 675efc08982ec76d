"""How each fault is played, and how it is undone again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay

from consilo.config import read_yaml
from consilo.machine.files import write_atomic
from consilo.runs.checkpoint import CHECKPOINT
from consilo.yaml_text import to_yaml
from flows.rehearsal import clocks, deployed, disks
from flows.rehearsal.copies import copy_silo
from flows.rehearsal.faults import Fault, What
from flows.rehearsal.links import FAIR, Weather
from flows.rehearsal.poison import LIED
from flows.rehearsal.standing import Standing
from flows.services.federation import Addresses
from silos.silo_config import SiloConfig

Undo = Callable[[], None]
"""Ends the cause of a fault."""

_OTHERWISE_S = 45.0
"""For so long a node that was started in another way is waited for before the run."""
_IDENTITY = (
    *("silo.key", "signing.key", "membership.crt", "ca.crt", "node.yaml", "coordinator.yaml"),
    *("partners.yaml", "bundles.yaml"),
)
_SLOW_RUNS_S, _SLOW_RESTS_S = 0.05, 0.45
"""A slow silo computes a tenth of the time."""


class NotPossible(Exception):
    """This fault cannot be played here, or was not, as its end finds out; the message says why."""


def nothing() -> None:
    """Undo nothing: the fault has no end of its own."""


def act(fault: Fault, there: Standing, silo: str) -> Undo:
    """Let a fault strike, and return what undoes it.

    Args:
        fault: which.
        there: the federation.
        silo: whom it strikes, where it strikes a silo.

    Raises:
        NotPossible: where it cannot be played here.
    """
    return ACTS[fault.what](fault, there, silo)


def _kill(fault: Fault, there: Standing, silo: str) -> Undo:
    service = there.service(fault.part, silo)
    held = service.lasting and fault.lasts != 0
    there.kill(service, held=held)

    def again() -> None:
        there.start_again(service)

    return again if held else nothing


def _stop(fault: Fault, there: Standing, silo: str) -> Undo:
    service = there.service(fault.part, silo)
    stopped = service.pids()
    _signal(stopped, signal.SIGSTOP)
    return lambda: _signal([*stopped, *service.pids()], signal.SIGCONT)


def _slow(fault: Fault, there: Standing, silo: str) -> Undo:
    service, over = there.service("silo", silo), threading.Event()

    def work() -> None:
        while not over.wait(_SLOW_RUNS_S):
            pids = service.pids()
            _signal(pids, signal.SIGSTOP)
            over.wait(_SLOW_RESTS_S)
            _signal(pids, signal.SIGCONT)

    thread = threading.Thread(target=work, name="slow", daemon=True)
    thread.start()

    def undo() -> None:
        over.set()
        thread.join(5.0)
        _signal(service.pids(), signal.SIGCONT)

    return undo


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _bad_line(fault: Fault, there: Standing, silo: str) -> Undo:
    way = there.links[silo]
    way.weather = {
        "cut": Weather(is_cut=True),
        "lose packets": Weather(loss=fault.amount or 0.2),
        "narrow": Weather(bytes_per_s=fault.amount or 32_000.0),
    }[fault.what]

    def undo() -> None:
        way.weather = FAIR

    return undo


def _wipe(fault: Fault, there: Standing, silo: str) -> Undo:
    """Delete a silo's cache, or the SuperLink's database while it is dead."""
    if fault.part == "silo":
        shutil.rmtree(there.rehearsed.silos[silo] / "cache", ignore_errors=True)
        return nothing
    service = there.service("superlink")
    there.kill(service, held=True)
    service.process.wait(10.0)
    for file in (there.home / "superlink").glob("superlink.db*"):
        file.unlink()
    there.start_again(service)
    return nothing


def _fill_disk(fault: Fault, there: Standing, silo: str) -> Undo:
    if reason := disks.why_not():
        raise NotPossible(reason)
    folder = there.place.disk if fault.part == "coordinator" else there.rehearsed.silos[silo]
    disks.fill(folder)
    return lambda: disks.empty(folder)


def _shift_clock(fault: Fault, there: Standing, silo: str) -> Undo:
    """Start a silo's node where the clock is an hour ahead, for its processes alone."""
    if reason := clocks.why_not():
        raise NotPossible(reason)
    service = there.service("silo", silo)
    argv = clocks.ahead(service.argv, there.place.folder / "clock")
    return _started_otherwise(there, silo, argv)


def _release_before(fault: Fault, there: Standing, silo: str) -> Undo:
    """Start a silo's node by an interpreter that has the release before."""
    if there.before is None:
        raise NotPossible("give with --before the Python of an environment with the release before")
    own, folder = there.rehearsed.silos[silo], there.place.folder / "before" / silo
    shutil.rmtree(folder, ignore_errors=True)
    copy_silo(own, folder)  # it cannot read what a later release has written
    for name in _IDENTITY:
        shutil.copy2(own / name, folder / name)
    (folder / "flwr").mkdir(mode=0o700)
    service = there.service("silo", silo)
    named = [str(folder) if each == str(own) else each for each in service.argv[1:]]
    return _started_otherwise(there, silo, [str(there.before), *named])


def _started_otherwise(there: Standing, silo: str, argv: Sequence[str]) -> Undo:
    """Start a silo's node by another command; undone, it has its own again."""
    service = there.service("silo", silo)
    own = service.argv
    there.kill(service, held=True)
    there.start_again(service, argv)
    there.settle(_OTHERWISE_S)  # such a node may never be let in

    def undo() -> None:
        there.kill(there.service("silo", silo), held=True)
        there.start_again(there.service("silo", silo), own)

    return undo


def _poison(fault: Fault, there: Standing, silo: str) -> Undo:
    """Let a silo's node sign updates that are not finite, or 1e30 times too large."""
    lie = "not_finite" if fault.amount is None else "exploding"
    argv = [*there.service("silo", silo).argv, "--answerer", f"flows.rehearsal.poison:{lie}"]
    lied = there.rehearsed.silos[silo] / LIED
    lied.unlink(missing_ok=True)
    honest = _started_otherwise(there, silo, argv)

    def undo() -> None:
        honest()
        if not lied.exists():
            raise NotPossible(f"nothing that {silo} sent was an update to change")

    return undo


def _corrupt_checkpoint(fault: Fault, there: Standing, silo: str) -> Undo:
    """Stop the run, turn a bit of its checkpoint, kill it: the next process finds it so."""
    service = there.service("pipeline")
    _signal(service.pids(), signal.SIGSTOP)
    newest = max((there.home / "runs").glob(f"*/{CHECKPOINT}"), key=lambda f: f.stat().st_mtime)
    content = bytearray(newest.read_bytes())
    content[-5] ^= 64
    newest.write_bytes(content)
    there.kill(service, held=False)
    return nothing


def _break_contract(fault: Fault, there: Standing, silo: str) -> Undo:
    """Give the columns of a silo's files other names."""
    directory = there.rehearsed.silos[silo]
    sources = SiloConfig.model_validate(read_yaml(directory / "silo.yaml")).data.values()
    kept: dict[Path, bytes] = {}
    for source in sources:
        for file in _files(directory, source):
            kept[file] = file.read_bytes()
            _BROKEN[file.suffix](file)
    if not kept:
        raise NotPossible(f"no data of {silo} lie in files below its directory")

    def undo() -> None:
        for file, content in kept.items():
            write_atomic(file, content)

    return undo


def _files(directory: Path, source: Any) -> list[Path]:
    said = getattr(source, "path", ()) or ()
    paths = [said] if isinstance(said, str | Path) else list(said)
    files = [directory / each for each in paths]
    return [each for each in files if each.is_file() and each.suffix in _BROKEN]


def _break_csv(file: Path) -> None:
    header, newline, rest = file.read_bytes().partition(b"\n")
    names = b",".join(b"was_" + each for each in header.split(b","))
    write_atomic(file, names + newline + rest)


def _break_parquet(file: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    pq.write_table(table.rename_columns([f"was_{each}" for each in table.column_names]), file)


def _break_sqlite(file: Path) -> None:
    import sqlite3

    with contextlib.closing(sqlite3.connect(file)) as database, database:
        of_tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        for (name,) in database.execute(of_tables).fetchall():
            database.execute(f'ALTER TABLE "{name}" RENAME TO "was_{name}"')


_BROKEN: Mapping[str, Callable[[Path], None]] = {
    ".csv": _break_csv,
    ".parquet": _break_parquet,
    ".db": _break_sqlite,
}


def _exhaust_budget(fault: Fault, there: Standing, silo: str) -> Undo:
    """Let a silo's people lower its budget below what is spent."""
    if there.rehearsed.job.privacy is None:
        raise NotPossible("the job has no section privacy, so no budget can be exhausted")
    file = there.rehearsed.silos[silo] / "policy.yaml"
    before = file.read_bytes()
    policy = read_yaml(file)
    budget = {"epsilon": 1e-3, "delta": there.rehearsed.job.privacy.delta}
    privacy = {**(policy.get("privacy") or {}), "budgets": {"*": budget}}
    write_atomic(file, to_yaml({**policy, "privacy": privacy}).encode())
    return lambda: write_atomic(file, before)


def _lose_machine(fault: Fault, there: Standing, silo: str) -> Undo:
    """Back the coordinator up, lose its machine with all that is on it, restore it."""
    from flows.services import backup

    archive = there.place.folder / "backup.tar.gz"
    archive.unlink(missing_ok=True)
    backup.make_backup(there.home, archive)
    parts = [s for s in there.supervisor.services if s.lasting and not s.name.startswith("silo ")]
    addresses = Addresses.load(there.home)
    there.kill(there.service("pipeline"), held=False)
    for service in parts:
        there.kill(service, held=True)
        service.process.wait(10.0)
    there.service("pipeline").process.wait(10.0)
    # What looks after it may still write there.
    Retrying(retry=retry_if_exception_type(OSError), stop=stop_after_delay(10), reraise=True)(
        shutil.rmtree, there.home
    )
    backup.restore(archive, there.home)
    for service in parts:
        there.start_again(service)
    for part in parts:
        if part.address is not None:
            there.await_listening(part.name)
    write_atomic(there.home / "federation.json", json.dumps(asdict(addresses), indent=1).encode())
    return nothing


def _start_twice(fault: Fault, there: Standing, silo: str) -> Undo:
    """Ask for a second run that begins while the first one is under way."""
    flow_run = deployed.submit(there)

    def undo() -> None:
        deployed.await_end(there, flow_run, lambda: None)

    return undo


ACTS: Mapping[What, Callable[[Fault, Standing, str], Undo]] = {
    "kill": _kill,
    "stop": _stop,
    "slow": _slow,
    "cut": _bad_line,
    "lose packets": _bad_line,
    "narrow": _bad_line,
    "wipe": _wipe,
    "fill disk": _fill_disk,
    "shift clock": _shift_clock,
    "poison": _poison,
    "corrupt checkpoint": _corrupt_checkpoint,
    "break contract": _break_contract,
    "exhaust budget": _exhaust_budget,
    "start twice": _start_twice,
    "release before": _release_before,
    "lose machine": _lose_machine,
}
"""What is done → what does it."""
