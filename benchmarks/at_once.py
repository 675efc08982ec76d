"""Many runs asked for in one moment: do all end, each once, and do silos serve them alike?

On a federation of this machine that is up as ``consilo up --worker`` has it, half of the runs are
flow runs of a deployment, submitted to Prefect in one go; the others are as many ``consilo job
run`` that start together and take turns (``queue`` in ``coordinator.yaml``). Then one more is asked
for than may wait.

    asked               runs, both ways
    ended               of them: complete
    lost                asked for, and no run of theirs ended so
    doubled             runs that are more than were asked for, in the directory or in MLflow
    refused             of one more than may wait: 1 where it was refused, with since when and why
    most_at_once        processes that owned a run in one moment
    least_share         of the silo that trained in the fewest rounds: its share of all rounds
    runs_per_minute     both ways together
    longest_wait_s      of a ``consilo job run``, until its turn
    left                at the end: see ``soak``
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from report import Report, load_now, options, say, sized
from runs_left import left_behind, not_shown_once

from consilo.errors import ConsiloError
from consilo.machine.environment import child_environment, quieten
from consilo.membership.coordinator import Queue, Reachable
from consilo.yaml_text import to_yaml

quieten()

from flows.rehearsal.copies import prepare  # noqa: E402
from flows.rehearsal.deployed import submit  # noqa: E402
from flows.rehearsal.place import Place, rehearsal_place  # noqa: E402
from flows.rehearsal.replay import ended  # noqa: E402
from flows.rehearsal.standing import Standing, standing  # noqa: E402
from flows.services.federation import Addresses  # noqa: E402
from flows.services.place import settle_place  # noqa: E402
from flows.services.turns import turn  # noqa: E402
from flows.tending.reconcile import runs_in  # noqa: E402
from flows.tending.servers import ask  # noqa: E402

JOB = {
    "name": "at-once",
    "contract": "breast_cancer@1",
    "model": "consilo.learners.tabular:LogisticRegression",
    "protocol": {"name": "fedavg", "rounds": 2},
    "local": {"batch_size": 32, "steps": 2, "lr": 0.1},
    "quorum": {"min_silos": 3, "deadline": 600},
}
_WITHIN_S = 7200.0
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def deployed(there: Standing, number: int) -> list[str]:
    """Return the states of so many flow runs of one deployment, when all have ended."""
    flow_runs = [submit(there) for _ in range(number)]
    say(f"{number} flow runs are submitted")
    api = Addresses.load(there.home).prefect_api
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        time.sleep(5.0)
        asked = {"flow_runs": {"id": {"any_": flow_runs}}}
        try:
            states = [each["state"]["type"] for each in ask(f"{api}/flow_runs/filter", asked)]
        except OSError:
            continue
        if all(each in _FINAL for each in states):
            return states
    return states


def by_command(home: Path, job: Path) -> tuple[int, float, str]:
    """Run ``consilo job run``; return its exit code, how long it waited, and what it said."""
    command = [str(Path(sys.executable).with_name("consilo")), "job", "run", str(job)]
    done = subprocess.run(
        [*command, "--dir", str(home), "--json"],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
    )
    lines = done.stderr.splitlines()
    waited = [float(line.split(" s  ")[0]) for line in lines if line.endswith("it is its turn")]
    if done.returncode:
        say(f"consilo job run ended with {done.returncode}: {done.stderr[-500:]}")
    return done.returncode, max(waited, default=0.0), done.stdout


def refused(home: Path, job: Path, queue: Queue) -> float:
    """Return 1 where one run more than may wait is refused with since when and why."""
    place = Reachable.load(home)
    assert place is not None
    place.model_copy(update={"queue": Queue(at_once=1, waiting=0)}).save(home)
    try:
        with turn(home, say):
            code, _, told = by_command(home, job)
    finally:
        place.save(home)
    says = "the queue is full" in told and "since" in told
    return float(code == 1 and says and json.loads(told) is not None)


def measure(at: Place, chosen: Any, load: float) -> Report:
    """Return the report; everything that is started is stopped again."""
    each_way = chosen.runs or sized(chosen, full=50, quick=6, smoke=1)
    file = at.folder / "at-once.yaml"
    file.write_text(to_yaml(JOB))
    rehearsed = prepare(file, at, None, rounds=None)
    queue = Queue(at_once=chosen.turns)
    settle_place(at.home).model_copy(update={"queue": queue}).save(at.home)
    with standing(at, rehearsed, say, worker=True, before=None) as there:
        _, missing = there.settle()
        if missing:
            raise ConsiloError(f"{', '.join(missing)} did not come up")
        over, most = threading.Event(), [0]

        def look() -> None:
            while not over.wait(0.5):
                there.watch.look()
                most[0] = max(most[0], sum(each.is_owned for each in runs_in(at.home)))

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        began = time.monotonic()
        with ThreadPoolExecutor(each_way + 1) as pool:
            states = pool.submit(deployed, there, each_way)
            commands = [pool.submit(by_command, at.home, rehearsed.file) for _ in range(each_way)]
            codes = [each.result() for each in commands]
            say(f"{each_way} of consilo job run have ended")
            found = Counter(states.result())
        seconds = time.monotonic() - began
        say(f"flow runs: {dict(found)}; commands: {Counter(c for c, _, _ in codes)}")
        was_refused = refused(at.home, rehearsed.file, queue)
        over.set()
        looking.join()
        runs = list(runs_in(at.home))
        complete = [each.name for each in runs if each.status == "complete"]
        left = there.orphans() + left_behind(at.home, there.watch.look)
        not_once = not_shown_once(at.home, complete)
    trained: Counter[str] = Counter()
    for name in complete:
        for who in ended(at.home / "runs" / name / "record.jsonl", rehearsed.silos).rounds.values():
            trained.update(who)
    asked = 2 * each_way
    rounds = len(complete) * JOB["protocol"]["rounds"]  # type: ignore[index]
    figures = {
        "asked": asked,
        "ended": len(complete),
        "lost": max(0, asked - len(complete)),
        "doubled": max(0, len(runs) - asked) + not_once,
        "refused": was_refused,
        "most_at_once": most[0],
        "least_share": min((trained[n] for n in rehearsed.silos), default=0) / max(1, rounds),
        "runs_per_minute": 60 * len(complete) / seconds,
        "longest_wait_s": max(waited for _, waited, _ in codes),
        "left": left,
    }
    return Report("at_once", chosen.size, load, figures)


def main() -> int:
    """Run from the command line; return 1 where a run is lost or doubled, or something is left."""
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, help="each way, in place of the size's number")
    parser.add_argument("--turns", type=int, default=4, help="of consilo job run at once (4)")
    chosen = parser.parse_args()
    try:
        with rehearsal_place(None) as at:
            report = measure(at, chosen, load_now())
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    report.show(as_json=chosen.json)
    told = report.figures
    return 1 if told["lost"] or told["doubled"] or told["left"] or not told["refused"] else 0


if __name__ == "__main__":
    sys.exit(main())
