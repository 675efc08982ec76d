"""A federation that is up for half an hour while something in it dies every 20 seconds.

All that ``consilo up --worker`` starts, three silos of this machine, and runs of a private job one
after another: every second one by Prefect's worker, as a schedule would have it, the others as
``consilo job run`` starts them. The faults are those of ``consilo job rehearse``, in an order that
a seed decides: silos killed, stopped, slowed, cut off, without disk or cache; SuperLink, its
database, Prefect, MLflow, the worker and the coordinator's disk gone; flows killed. In the second
half what strikes are silos, links, disks and flows alone, and one silo is never struck, so that
processes get old that should not grow.

Then every run is held against its twin: the undisturbed run where everybody was there, else the
same job done again in this process with whoever the record says was there.

    minutes                     that the faults came for
    faults                      that struck
    runs                        that were begun
    equal                       of them: parameters, figures and ε are those of the twin, to the bit
    failed                      of them: without a result
    whole                       of them: everybody was there all the time
    submitted_again             flow runs that failed, or were cancelled, before they had opened a
                                run, and were asked for once more by this program; one that died is
                                asked for again by who tends the directory
    left                        at the end: runs, flow runs and MLflow runs not over, bodies at the
                                SuperLink, processes that nobody owns
    not_once                    runs that MLflow does not show just once, with each round once
    s_per_run                   mean, faults included
    PART.rss_growth_percent, PART.fds_growth_percent
                                of a long process over the second half of its life, by a straight
                                line; of a part that was started again by the age of its processes
    PART.rss_mib, PART.fds      at the end
    PART.oldest_s               age that one of its processes has reached
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from aging import aging
from report import Report, load_now, options, say, sized
from runs_left import left_behind, not_shown_once

from consilo.errors import ConsiloError
from consilo.machine.environment import quieten
from consilo.machine.leases import holder
from consilo.yaml_text import to_yaml

quieten()

from flows.rehearsal.acts import Undo, act, nothing  # noqa: E402
from flows.rehearsal.copies import Rehearsed, prepare  # noqa: E402
from flows.rehearsal.deployed import submit  # noqa: E402
from flows.rehearsal.disks import mount, of_our_own, why_not  # noqa: E402
from flows.rehearsal.faults import CATALOGUE, Fault  # noqa: E402
from flows.rehearsal.place import rehearsal_place  # noqa: E402
from flows.rehearsal.replay import Ended, ended, replays  # noqa: E402
from flows.rehearsal.standing import Standing, standing  # noqa: E402
from flows.services.federation import Addresses  # noqa: E402
from flows.services.launch import can_go_on  # noqa: E402
from flows.services.owning import OWNER  # noqa: E402
from flows.tending.servers import ask  # noqa: E402

JOB = {
    "name": "soak",
    "contract": "breast_cancer@1",
    "model": "consilo.learners.tabular:LogisticRegression",
    "protocol": {"name": "fedavg", "rounds": 3},
    "local": {"batch_size": 32, "steps": 4, "lr": 0.1},
    "privacy": {"epsilon": 4.0, "delta": 1e-4},
    "quorum": {"min_silos": 2, "on_loss": "wait", "for": "20m", "deadline": 25},
}
OF_THE_SERVERS = (
    "superlink-restarted",
    "superlink-database-gone",
    "prefect-down",
    "mlflow-down",
    "worker-killed",
)
"""Faults of processes that should get old in the second half."""
OF_THE_REST = (
    "silo-restarted",
    "silo-restarted-late",
    "silo-stopped",
    "silo-slow",
    "link-lost",
    "packets-lost",
    "low-rate",
    "cache-deleted",
    "flow-killed",
    "silo-disk-full",
    "coordinator-disk-full",
)
"""What people decide (a lower budget, other columns) is not among them: where it meets a silo that
is away, the run is refused, as it must be."""
_LASTS_S = 8.0
"""For so long a fault goes on that has an end, so that the next one finds it over."""
_SPARED = "north"
"""A silo that is never struck."""
_RUN_WITHIN_S, _BEGUN_WITHIN_S, _LOOK_S = 1800.0, 1800.0, 0.2
_AGING_EVERY_S = 5.0
_PARTS = {
    "the SuperLink": "superlink",
    "the Prefect server": "prefect",
    "the MLflow server": "mlflow",
    "the Prefect worker": "worker",
}


def deck(seed: int, disks: bool) -> Callable[[bool], Fault]:
    """Return what draws the next fault: all of them in a random order, and again.

    Args:
        seed: decides the order.
        disks: whether disks can be full here.
    """
    chance = random.Random(seed)
    known = {each.name: each for each in CATALOGUE}
    held: dict[bool, list[str]] = {True: [], False: []}

    def draw(servers: bool) -> Fault:
        if not held[servers]:
            names = [*OF_THE_REST, *(OF_THE_SERVERS if servers else ())]
            held[servers] = [n for n in names if disks or not n.endswith("disk-full")]
            chance.shuffle(held[servers])
        fault = known[held[servers].pop()]
        lasts = fault.lasts if fault.lasts == 0 else _LASTS_S
        silo = chance.choice(("south", "east")) if fault.part == "silo" else None
        return fault.model_copy(update={"lasts": lasts, "silo": silo})

    return draw


@dataclass
class Strikes:
    """Lets a fault strike every so many seconds, and ends it.

    Args:
        there: the federation.
        draw: the next fault; told whether servers may be struck.
        every_s: how often.
        minutes: for how long.
    """

    there: Standing
    draw: Callable[[bool], Fault]
    every_s: float
    minutes: float
    record: Path | None = None
    struck: int = 0
    _began: float = field(default_factory=time.monotonic)
    _undo: Undo = nothing
    _over_at: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether no other fault will come."""
        return time.monotonic() >= self._began + 60 * self.minutes

    def look(self) -> None:
        """Strike, or end the cause, where it is time for it; and let what died be started."""
        self.there.watch.look()
        now = time.monotonic()
        if self._undo is not nothing and now >= self._over_at:
            self.end()
        if self.is_over or now < self._began + self.every_s * (self.struck + 1):
            return
        self.end()
        self._strike(self.draw(now - self._began < 30 * self.minutes))

    def end(self) -> None:
        """End the cause of the last fault, if it has not ended."""
        undo, self._undo = self._undo, nothing
        undo()

    def _strike(self, fault: Fault) -> None:
        self.struck += 1
        say(f"{self.struck}. {fault.name} {fault.silo or ''}")
        if fault.part == "pipeline":
            if self.record is not None:  # a flow that the worker has started is no service of ours
                holder(self.record.with_name(OWNER)).kill()
            return
        self._undo = act(fault, self.there, fault.silo or "")
        self._over_at = time.monotonic() + (fault.lasts or 0.0)


@dataclass(frozen=True)
class Came:
    """A run that is over.

    Args:
        run: its id.
        record: of it.
        reason: why it has no result; empty where it has.
    """

    run: str
    record: Path
    reason: str = ""


@dataclass
class Soak:
    """Runs of one job, one after the other.

    Args:
        there: the federation.
        strikes: what happens meanwhile.
        again: how many flow runs were asked for once more.
    """

    there: Standing
    strikes: Strikes
    again: int = 0

    def runs(self) -> Iterator[Came]:
        """Yield each run as it is over, until no other fault comes."""
        by_worker = False
        while True:
            came = self._deployed() if by_worker else self._launched()
            yield came
            by_worker = not by_worker
            if self.strikes.is_over:
                return

    def _launched(self) -> Came:
        """Run the job as ``consilo job run`` does, and go on with it as that says."""
        resume, deadline = "", time.monotonic() + _RUN_WITHIN_S
        while True:
            summary = self.there.run(self.strikes.look, self._follow, resume=resume)
            self.there.service("pipeline").stop()
            record = self.strikes.record
            assert record is not None
            if not record.exists():  # nothing was begun: whoever wants a run asks again
                say(f"   ended before it had a run: {summary.get('reason')}")
                self.again += 1
                continue
            if not can_go_on(record) or time.monotonic() > deadline:
                return _came(self.there, record, str(summary.get("reason") or ""))
            resume = record.parent.name
            say(f"   {resume}: gone on with by hand: {summary.get('reason')}")

    def _follow(self, record: Path) -> None:
        self.strikes.record = record

    def _deployed(self) -> Came:
        """Let the worker run the job; who tends the directory goes on with it."""
        runs = self.there.home / "runs"
        known = {each.name for each in runs.iterdir()}
        record = None
        while record is None:
            flow_run = self._submit()
            record = self._begun(runs, known, flow_run)
            self.again += record is None
        self._follow(record)
        deadline = time.monotonic() + _RUN_WITHIN_S
        while can_go_on(record) and time.monotonic() < deadline:
            self._wait()
        return _came(self.there, record, "the run is not over")

    def _begun(self, runs: Path, known: set[str], flow_run: str) -> Path | None:
        """Return the record of the run that a flow run opens, or who was asked for in its place.

        None where it failed before, or was cancelled.
        """
        api = Addresses.load(self.there.home).prefect_api
        deadline = time.monotonic() + _BEGUN_WITHIN_S
        asked_at = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            self._wait()
            for each in runs.iterdir():
                if each.name not in known and (each / "record.jsonl").exists():
                    return each / "record.jsonl"
            if time.monotonic() > asked_at:
                asked_at = time.monotonic() + 5.0
                try:
                    state = ask(f"{api}/flow_runs/{flow_run}")["state"]
                except OSError:
                    continue
                if state["type"] in ("FAILED", "CANCELLED"):
                    say(f"   a flow run ended before it had a run: {state['message']}")
                    return None
        return None

    def _submit(self) -> str:
        while True:
            try:
                return submit(self.there)
            except OSError:  # Prefect is down: whoever wants a run asks again
                self._wait()

    def _wait(self) -> None:
        self.strikes.look()
        time.sleep(_LOOK_S)


def _came(there: Standing, record: Path, reason: str) -> Came:
    end = ended(record, there.rehearsed.silos)
    has_result = end.status in ("complete", "degraded")
    came = Came(record.parent.name, record, "" if has_result else end.reason or reason)
    say(f"   {came.run}: {end.status or 'not over'} {came.reason}")
    return came


def compared(
    rehearsed: Rehearsed, twin: Ended | None, runs: list[Came], place: Path
) -> tuple[int, int]:
    """Return how many runs equal their twins, and in how many everybody was there all the time.

    Args:
        rehearsed: the job and its silos.
        twin: an undisturbed run, if there was one.
        runs: what is held against it, or against the job done again.
        place: where it is done again.
    """
    twins: dict[str, list[Ended]] = {} if twin is None else {_who(twin): [twin]}
    everybody = set(rehearsed.silos)
    equal = whole = 0
    for each in runs:
        came = ended(each.record, rehearsed.silos)
        key = _who(came)
        there = (came.checked, came.counted, came.judged, *came.rounds.values())
        whole += all(each is not None and set(each) == everybody for each in there)
        if each.reason:
            continue
        if key not in twins:
            twins[key] = [*replays(rehearsed, came, place)]
        if any(came.is_as(twin) for twin in twins[key]):
            equal += 1
        else:
            say(f"{each.run} is not as its twin: {came} != {twins[key]}")
    say(f"{len(twins)} twins for {len(runs)} runs")
    return equal, whole


def _who(came: Ended) -> str:
    """Return who was there at which step, as a key."""
    rounds = {number: sorted(who) for number, who in came.rounds.items()}
    others = (came.checked, came.counted, came.judged)
    told = [None if each is None else sorted(each) for each in others]
    return repr((sorted(rounds.items()), told, sorted(came.unheard)))


def parts_of(there: Standing) -> Mapping[str, int]:
    """Return the long processes of a federation: ours, each service's, each silo's two."""
    parts = {"up": os.getpid()}
    for service in there.supervisor.services:
        pid = next(iter(service.pids()), None)
        if pid is None or not service.lasting or service.returncode is not None:
            continue
        if service.name in _PARTS:
            parts[_PARTS[service.name]] = pid
        elif service.name.startswith("silo "):
            name = service.name.replace(" ", "_")
            parts[f"{name}.node"] = pid
            try:
                warm = [
                    c for c in psutil.Process(pid).children() if "silos.node.warm" in c.cmdline()
                ]
            except psutil.Error:
                continue
            if warm:
                parts[f"{name}.warm"] = warm[0].pid
    return parts


def measure(chosen: Any, load: float) -> Report:
    """Return the report; everything that is started is stopped again."""
    minutes, every_s = sized(chosen, full=(30.0, 20.0), quick=(4.0, 20.0), smoke=(0.05, 2.0))
    minutes, every_s = chosen.minutes or minutes, chosen.every or every_s
    with rehearsal_place(chosen.keep) as at:
        file = at.folder / "soak.yaml"
        file.write_text(to_yaml(JOB))
        rehearsed = prepare(file, at, None, rounds=None)
        disks = not why_not()
        if disks:
            of_our_own()
            for folder in (at.disk, *rehearsed.silos.values()):
                mount(folder)
        with standing(at, rehearsed, say, worker=True, before=None) as there:
            _, missing = there.settle()
            if missing:
                raise ConsiloError(f"{', '.join(missing)} did not come up")
            with aging(lambda: parts_of(there), every_s=_AGING_EVERY_S) as aged:
                twin = None
                if chosen.size != "smoke":
                    calm = Soak(there, Strikes(there, deck(0, disks), every_s, 0.0))
                    twin = ended(next(calm.runs()).record, rehearsed.silos)
                strikes = Strikes(there, deck(chosen.seed, disks), every_s, minutes)
                soak = Soak(there, strikes)
                began = time.monotonic()
                runs = list(soak.runs())
                lasted_s = time.monotonic() - began
                strikes.end()
                _, missing = there.settle()
            if missing:
                say(f"never up again: {', '.join(missing)}")
            left = len(missing) + there.orphans() + left_behind(at.home, there.watch.look)
            not_once = not_shown_once(at.home, [each.run for each in runs])
        say(json.dumps(aged.figures()))  # so that they are not lost with what comes now
        equal, whole = compared(rehearsed, twin, runs, at.folder / "replayed")
    figures = {
        "minutes": lasted_s / 60,
        "faults": strikes.struck,
        "runs": len(runs),
        "equal": equal,
        "failed": sum(bool(each.reason) for each in runs),
        "whole": whole,
        "submitted_again": soak.again,
        "left": left,
        "not_once": not_once,
        "s_per_run": lasted_s / len(runs),
        **aged.figures(),
    }
    return Report("soak", chosen.size, load, figures)


def main() -> int:
    """Run from the command line; return 1 where a run is not as its twin, or something is left."""
    parser = options(__doc__)
    parser.add_argument("--minutes", type=float, help="for how long, in place of the size's")
    parser.add_argument("--every", type=float, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=0, help="decides the order of faults (0)")
    parser.add_argument("--keep", type=Path, help="where all that was made is in the end")
    chosen = parser.parse_args()
    try:
        report = measure(chosen, load_now())
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    report.show(as_json=chosen.json)
    told = report.figures
    return 0 if told["equal"] == told["runs"] and not told["left"] and not told["not_once"] else 1


if __name__ == "__main__":
    sys.exit(main())
