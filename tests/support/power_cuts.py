"""A coordinator and two silos on one file system whose power is cut, again and again.

Run as a script, as root: it makes an image of the file system in a file, mounts it, lets a run with
privacy begin there, takes the power away at some moment, mounts it again, looks whether what was
acknowledged is there, and lets the run go on to its end. It prints one JSON object a cut, the
undisturbed twin's first. Power is cut by the file system's own call for that: nothing that was not
synced reaches the device, not even by the unmounting.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clinic
import yaml
from agreed import agree
from forked import in_child
from killed_steps import CONTRACT, KEY, POLICY

from consilo.errors import RunNotResumable
from consilo.kernel.headers import ReplyHeader
from consilo.kernel.loop import Party
from consilo.protocols.dispatch import answerer
from consilo.record import chain
from consilo.record.run_record import verify
from consilo.wire.payload import digest
from silos.kept.ledger import Ledger
from silos.simulation.simulation import acquainted

SILOS = ("east", "north")
JOB = clinic.job(
    privacy={"epsilon": 3.0, "delta": 1e-3, "statistics_epsilon": 0.5, "metrics_epsilon": 0.5},
    local={"steps": 2},
    protocol={"name": "fedadam", "rounds": 3, "server_lr": 0.1},
)
_GOING_DOWN = 0x8004587D
"""ioctl of ext4 and XFS, ``_IOR('X', 125, __u32)``: the file system stops at once."""
_NOTHING_FLUSHED = 2
_MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def made(place: Path) -> None:
    """Make the silos, with their rows checked and the run's secrets drawn."""
    for seed, name in enumerate(SILOS):
        silo = place / name
        silo.mkdir(parents=True)
        clinic.frame(30 + 10 * seed, seed).to_parquet(silo / "rows.parquet", index=False)
        data = {"data": {"type": "parquet", "path": "rows.parquet"}}
        (silo / "silo.yaml").write_text(yaml.safe_dump({"name": name, "data": data}))
        (silo / "policy.yaml").write_text(yaml.safe_dump(POLICY))
        agree(silo, CONTRACT)
    for silo in opened(place).values():
        silo.rows.check(CONTRACT, purpose=JOB.purpose)
        silo.secrets.secret("r1")
        silo.secrets.lasting("holdout")
        assert silo.signing_key


def opened(place: Path) -> dict[str, Any]:
    return acquainted({name: place / name for name in SILOS}, place, KEY, ())


class Telling:
    """A transport that tells each signed answer as it arrives: from then on it is acknowledged."""

    takes_pieces = True

    def __init__(self, inner, tell: Callable[[list[str]], None]) -> None:
        self.inner, self.tell = inner, tell

    def online(self):
        return self.inner.online()

    def exchange(self, parcels, *, deadline_s):
        for arrival in self.inner.exchange(parcels, deadline_s=deadline_s):
            if arrival.parcel is not None:
                told = ReplyHeader.decode(arrival.parcel.header)
                if told.status == "ok":
                    self.tell([arrival.silo, told.step_id, digest(arrival.parcel.body), told.head])
            yield arrival


def played(place: Path, tell: Callable[[list[str]], None]) -> None:
    """Let the run begin, or go on, and end."""
    coordinator = place / "coordinator"
    silos = opened(place)
    try:
        run = clinic.run_of(
            JOB,
            {name: answerer(each) for name, each in silos.items()},
            coordinator,
            contract_=CONTRACT,
            key=KEY,
            resume=begun(coordinator),
            parties={name: Party(each.signing_key) for name, each in silos.items()},
            wrap=lambda inner: Telling(inner, tell),
        )
    except RunNotResumable:  # it had come to its end; the record, which is looked at, says which
        return
    run.admit()
    if run.state is None:
        run.standardize()
    while run.rounds_left:
        run.train_round()
        tell(["round", str(JOB.protocol.rounds - run.rounds_left)])
    run.evaluate()
    run.close()
    tell(["closed"])


def begun(coordinator: Path) -> bool:
    """Return whether there is a line of a record; before the first one nobody was asked."""
    record = coordinator / "record.jsonl"
    if record.exists() and b"\n" in record.read_bytes():
        return True
    shutil.rmtree(coordinator, ignore_errors=True)
    return False


def found(place: Path) -> dict[str, Any]:
    """Return what is there: each log, ledger and the record are opened and checked."""
    seen: dict[str, Any] = {"entries": {}, "heads": {}, "rounds": 0, "ended": None}
    for name in SILOS:
        log = place / name / "audit.jsonl"
        seen["heads"][name] = [each["hash"] for each in chain.verify_open(log)]
        entries = Ledger(place / name / "ledger.db").entries()
        seen["entries"][name] = [[each["body"]["step_id"], each["kind"]] for each in entries]
    if not begun(place / "coordinator"):
        return seen
    record = place / "coordinator" / "record.jsonl"
    lines = chain.verify_open(record)
    seen["rounds"] = sum(each["kind"] == "round" for each in lines)
    if any(each["kind"] == "closed" for each in lines):
        closing = verify(record, KEY.public_key().public_bytes_raw())
        (model,) = (each["body"] for each in lines if each["kind"] == "model")
        seen["ended"] = {
            "status": closing["status"],
            "params": model["params"],
            "epsilon": {name: each["epsilon"] for name, each in closing["silos"].items()},
        }
    return seen


def cut(image: Path, place: Path, base: Path, after_s: float) -> dict[str, Any]:
    """Cut the power ``after_s`` seconds into the run; return what was told, is there, and comes."""
    home = place / "home"

    def strike() -> None:
        time.sleep(after_s)
        down(place)

    with mounted(image, place):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(base, home)
        os.sync()
        told = running(home, strike)
    with mounted(image, place):
        there = shown(home, image.parent)
        again = running(home)
        after = shown(home, image.parent)
    return {"after_s": after_s, "told": told, "there": there, "again": again, "after": after}


def shown(place: Path, beside: Path) -> dict[str, Any]:
    """Look in a process of its own, as a person would who starts things anew."""
    where = beside / "shown.json"

    def work() -> None:
        where.write_text(json.dumps(found(place)))

    assert in_child(work) == 0, "it does not open; the error stands above"
    return json.loads(where.read_text())


def running(place: Path, strike: Callable[[], None] | None = None) -> list[list[str]]:
    """Let a process run the federation, and strike; return what it told until then."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        try:
            with os.fdopen(write_end, "w", buffering=1) as pipe:
                played(place, lambda said: print(json.dumps(said), file=pipe))
            os._exit(0)
        except BaseException:
            if strike is None:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(1)
    os.close(write_end)
    if strike is not None:
        strike()
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read_end) as pipe:
        told = [json.loads(each) for each in pipe]
    if os.waitpid(child, 0)[1] and strike is None:
        raise SystemExit("the run did not go on; its error stands above")
    return told


def down(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, _GOING_DOWN, struct.pack("I", _NOTHING_FLUSHED))
    finally:
        os.close(handle)


def main(home: Path, system: str, cuts: int, seed: int) -> None:
    base, twin, place, image = (home / each for each in ("base", "twin", "mount", "image"))
    assert in_child(lambda: made(base)) == 0
    shutil.copytree(base, twin)
    started = time.monotonic()
    running(twin)
    lasts = time.monotonic() - started
    print(json.dumps(shown(twin, home)), flush=True)
    with image.open("wb") as file:
        file.truncate(320 << 20)  # the least that XFS takes is 300 MiB; it stays sparse
    subprocess.run([*_MKFS[system], image], check=True)
    place.mkdir()
    moments = random.Random(seed)
    for _ in range(cuts):
        print(json.dumps(cut(image, place, base, moments.uniform(0.0, lasts))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
