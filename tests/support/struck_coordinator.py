"""What a coordinator's processes do, struck by strace at their n-th system call of a kind.

Each deed is done in a process of its own: whole once, then struck again and again, each time from
the same beginning, looked at, and done anew by another process. Run as a script, so that nothing
has computed before it forks: it prints one JSON object a strike, that of the whole deed first.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clinic
import decided
import power_cuts
import yaml
from forked import in_child
from killed_steps import CONTRACT, KEY, POLICY
from strace import struck

from consilo.decisions.promotions import Promotions
from consilo.decisions.reviewers import Enrolment
from consilo.errors import ConfigInvalid, RunNotResumable
from consilo.kernel.loop import Party
from consilo.membership.coordinator import Coordinator
from consilo.membership.keys import load_or_create_signing_key, load_or_create_silo_key
from consilo.membership.software import installed
from consilo.protocols.dispatch import answerer
from consilo.record import chain
from consilo.record.run_record import RunRecord, verify
from consilo.wire.parcel import Parcel
from consilo.wire.signing import public_hex
from flows.services.backup import make_backup, restore
from flows.tending.reconcile import end_run

JOB = clinic.job(local={"steps": 2}, protocol={"name": "fedadam", "rounds": 2, "server_lr": 0.1})
_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{16}")


@dataclass(frozen=True)
class Deed:
    """What a process does in a folder.

    Args:
        prepare: makes the folder as it is before.
        act: what is struck; done again it has nothing left to do, or does the rest.
        look: what is there, for whoever comes later; it raises where something does not open.
        beside: what lives while it acts, in processes that strace does not follow.
    """

    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    look: Callable[[Path], Any]
    beside: Callable[[Path], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


# A run; its silos are in another process, which nobody strikes.


def made_run(place: Path) -> None:
    power_cuts.made(place)
    for name in power_cuts.SILOS:  # no privacy, so that a run is short
        policy = {key: each for key, each in POLICY.items() if key != "privacy"}
        (place / name / "policy.yaml").write_text(yaml.safe_dump(policy))
    keys = {name: each.signing_key for name, each in power_cuts.opened(place).items()}
    (place / "keys.json").write_text(json.dumps(keys))


_way: list[socket.socket] = []


@contextlib.contextmanager
def silos(place: Path) -> Iterator[socket.socket]:
    """Let the silos in ``place`` answer at the other end of `_way`, in a process of their own."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        try:
            ours.close()
            answers = {n: answerer(each) for n, each in power_cuts.opened(place).items()}
            with theirs, theirs.makefile("rwb") as stream:
                while True:
                    name, parcel = pickle.load(stream)
                    pickle.dump(answers[name](parcel), stream)
                    stream.flush()
        except BaseException:  # the other end is closed
            os._exit(0)
    theirs.close()
    _way[:] = [ours]
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(child, 0)


def run(place: Path) -> None:
    with _way[0].makefile("rwb") as stream:

        def asked(name: str) -> Callable[[Parcel], Parcel]:
            def answer(parcel: Parcel) -> Parcel:
                plain = Parcel(bytes(parcel.header), bytes(parcel.body))
                pickle.dump((name, plain), stream)
                stream.flush()
                return pickle.load(stream)

            return answer

        folder = place / "runs" / "r1"
        keys = json.loads((place / "keys.json").read_text())
        record = folder / "record.jsonl"
        begun = record.exists() and b"\n" in record.read_bytes()
        if not begun:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            going = clinic.run_of(
                JOB,
                {name: asked(name) for name in keys},
                folder,
                contract_=CONTRACT,
                key=KEY,
                resume=begun,
                parties={name: Party(key) for name, key in keys.items()},
            )
        except RunNotResumable:  # it had come to its end
            return
        going.admit()
        if going.state is None:
            going.standardize()
        while going.rounds_left:
            going.train_round()
        going.evaluate()
        going.close()


def run_seen(place: Path) -> Any:
    record = place / "runs" / "r1" / "record.jsonl"
    lines = chain.verify_open(record)
    if not any(each["kind"] == "closed" for each in lines):
        return {"rounds": sum(each["kind"] == "round" for each in lines)}
    closing = verify(record, KEY.public_key().public_bytes_raw())
    (model,) = (each["body"] for each in lines if each["kind"] == "model")
    rounds = sorted({each["body"]["round"] for each in lines if each["kind"] == "round"})
    left = [each.name for each in (place / "runs").rglob(".*") if _HALF_WRITTEN.match(each.name)]
    return {
        "status": closing["status"],
        "params": model["params"],
        "rounds": rounds,
        "left": len(left),
    }


# What operators do.


def made_home(place: Path) -> None:
    with Coordinator(place / "home") as coordinator:
        node = load_or_create_silo_key(place / "node.key")
        coordinator.invite("north", "127.0.0.1:4321")
        coordinator.members.enrol("north", node, "ab" * 32, installed())
        key = coordinator.signing_key
    for name in ("study-1", "study-2"):
        record = RunRecord(place / "home" / "runs" / name / "record.jsonl", key)
        record.add("opened", run_id=name, signing_keys={})
        if name == "study-1":
            record.close(status="complete")


def admitted(place: Path) -> None:
    made_home(place)
    admit(place)


def backed_up(place: Path) -> None:
    made_home(place)
    make_backup(place / "home", place / "backup.tar.gz")


def admit(place: Path) -> None:
    with Coordinator(place / "home") as coordinator:
        coordinator.admit("north")


def suspend(place: Path) -> None:
    with Coordinator(place / "home") as coordinator:
        coordinator.suspend("north")


def give_up(place: Path) -> None:
    with contextlib.suppress(RunNotResumable):
        end_run(place / "home", "study-2", "nobody goes on with it")


def back_up(place: Path) -> None:
    if not (place / "backup.tar.gz").exists():
        make_backup(place / "home", place / "backup.tar.gz")


def restored(place: Path) -> None:
    if not (place / "again").exists():
        restore(place / "backup.tar.gz", place / "again")


def members_seen(place: Path, home: str = "home") -> Any:
    with Coordinator(place / home) as coordinator:
        (north,) = coordinator.members.all().values()
        certified = len(coordinator.members.certificates("north"))
        kinds = [each["kind"] for each in chain.verify_open(place / home / "audit.jsonl")]
    runs = sorted((place / home / "runs").glob("*/record.jsonl"))
    lines = {each.parent.name: chain.verify_open(each) for each in runs}
    return {
        "state": north.state,
        "certificates": certified,
        "log": sorted(set(kinds)),
        "runs": {name: found[-1]["kind"] for name, found in lines.items()},
    }


def backup_seen(place: Path) -> Any:
    if not (place / "backup.tar.gz").exists():
        return {"archive": None}
    shutil.rmtree(place / "tried", ignore_errors=True)
    restore(place / "backup.tar.gz", place / "tried")
    return {"archive": members_seen(place, "tried")}


def restored_seen(place: Path) -> Any:
    if not (place / "again").exists():
        return {"home": None}
    return {"home": members_seen(place, "again")}


# What reviewers decide.


def _signed(place: Path, version: int) -> None:
    home = place / "home"
    key = load_or_create_signing_key(place / "bea.key")
    proposal = Promotions.open(home, decided.MODEL).of(version)
    assert proposal is not None
    if proposal.decision is None:
        decided.deciding(home).sign(decided.word(proposal, key))
    decided.deciding(home).settle()


def made_proposal(place: Path) -> None:
    home = place / "home"
    key = load_or_create_signing_key(place / "bea.key")
    Enrolment(home, decided.coordinators_key(home)).add("bea", public_hex(key))
    for version in (1, 2):
        decided.trained(home, version)
    decided.proposed(home, 1)
    _signed(place, 1)
    decided.proposed(home, 2)


def promote(place: Path) -> None:
    _signed(place, 2)


def made_champions(place: Path) -> None:
    made_proposal(place)
    promote(place)


def roll_back(place: Path) -> None:
    home = place / "home"
    work = decided.deciding(home)
    if len(work.read().champions) > 1:
        key = load_or_create_signing_key(place / "bea.key")
        work.roll_back(1, envelope=decided.way_back(home, key))
    work.settle()


def decisions_seen(place: Path) -> Any:
    home = place / "home"
    found = Promotions.open(home, decided.MODEL)
    made = [each["kind"] for each in found.entries if each["kind"] in ("decided", "rolled_back")]
    pointing = decided.pointing(home)
    rightly = {each.version for each in found.champions} | {None, 2}
    assert set(pointing.values()) <= rightly, "an alias without a decision"
    return {
        "decisions": made,
        "pointing": pointing,
        "wanted": found.wanted,
        "moved": not found.unmoved,
    }


DEEDS = {
    "promote": Deed(made_proposal, promote, decisions_seen),
    "rollback": Deed(made_champions, roll_back, decisions_seen),
    "run": Deed(made_run, run, run_seen, silos),
    "admit": Deed(made_home, admit, members_seen),
    "suspend": Deed(admitted, suspend, members_seen),
    "give-up": Deed(made_home, give_up, members_seen),
    "backup": Deed(made_home, back_up, backup_seen),
    "restore": Deed(backed_up, restored, restored_seen),
}


def seen(deed: Deed, place: Path) -> Any:
    """Look in a process of its own; None where there is nothing yet."""
    said = place / "seen.json"
    said.unlink(missing_ok=True)

    def work() -> None:
        with contextlib.suppress(FileNotFoundError, ConfigInvalid):
            said.write_text(json.dumps(deed.look(place)))

    assert in_child(work) == 0, "what is there does not open; the error stands above"
    return json.loads(said.read_text()) if said.exists() else None


def main(home: Path, name: str, call: str, first: int, stride: int) -> None:
    deed, base, place = DEEDS[name], home / "base", home / "place"
    base.mkdir()
    assert in_child(lambda: deed.prepare(base)) == 0
    shutil.copytree(base, place)
    with deed.beside(place):
        assert in_child(lambda: deed.act(place)) == 0
    print(json.dumps(seen(deed, place)), flush=True)
    shutil.rmtree(place)
    for how in ("signal=KILL", "error=ENOSPC", "error=EIO"):
        number, met = first, True
        while met:
            shutil.copytree(base, place)
            at = f"{how}:when={number}"
            with deed.beside(place):
                killed, went_well = struck(lambda: deed.act(place), call, at)
            if how == "signal=KILL":
                met, most = killed, number
            else:
                met = number + stride < most
            told = {"how": how, "number": number, "killed": killed, "went_well": went_well}
            told["there"] = seen(deed, place)
            with deed.beside(place):
                told["again"] = in_child(lambda: deed.act(place)) == 0
            told["after"] = seen(deed, place)
            print(json.dumps(told), flush=True)
            shutil.rmtree(place)
            number += stride


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:6]))
