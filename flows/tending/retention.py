"""How long a coordinator keeps what nothing rests on.

Kept for good: the record of each run, members, keys, audit log, and all that MLflow holds, which is
what a decision or a registered model rests on; and the checkpoints of the runs that champions came
of, and of what waits for a decision, since silos are asked about those. The rest has a bound: other
checkpoints of runs that have ended and logs and results of pipelines lapse by age, the folder of a
run that never began after an hour, a log of a service is turned over by size
(`consilo.machine.logs`), and Prefect's server deletes its old flow runs itself
(`flows.services.services.start_prefect`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from consilo.decisions.promotions import Promotions, models
from consilo.errors import RecordTampered
from consilo.machine.files import remove
from consilo.machine.leases import is_held
from consilo.membership.coordinator import Keep
from consilo.runs.checkpoint import CHECKPOINT
from flows.services.owning import OWNER
from flows.tending.reconcile import runs_in

_DAY_S = 86_400.0
_BEGUN_WITHIN_S = 3600.0


def let_lapse(home: Path, keep: Keep, *, now: float) -> list[Path]:
    """Delete what is older than it is kept; return what that was.

    Args:
        home: the coordinator's directory.
        keep: for how many days.
        now: seconds since 1970.
    """
    gone = [
        path
        for path, days in _lapsing(home, keep)
        if path.exists() and now - path.stat().st_mtime > days * _DAY_S
    ]
    for path in gone:
        remove(path)
    return [*gone, *_without_a_run(home, now)]


def _without_a_run(home: Path, now: float) -> Iterator[Path]:
    """Delete folders of runs whose process died before it wrote a line; yield which."""
    for lease in (home / "runs").glob(f"*/{OWNER}"):
        folder = lease.parent
        is_new = now - folder.stat().st_mtime < _BEGUN_WITHIN_S
        if is_new or is_held(lease) or [each.name for each in folder.iterdir()] != [OWNER]:
            continue
        remove(lease)
        with suppress(OSError):  # somebody has begun to write there this moment
            folder.rmdir()
            yield folder


def _asked_about(home: Path) -> set[str]:
    """Return the runs whose models silos may be asked about; all runs while a chain is broken.

    Nothing lapses by a chain that somebody may have cut.
    """
    found = set()
    for model in models(home):
        try:
            known = Promotions.open(home, model)
        except RecordTampered:
            found |= {each.parent.name for each in home.glob("runs/*/record.jsonl")}
            continue
        found |= {each.candidate.run for each in (*known.champions, *known.waiting)}
    return found


def _lapsing(home: Path, keep: Keep) -> Iterator[tuple[Path, int]]:
    spared = _asked_about(home)
    for run in runs_in(home):
        if run.name in spared:
            continue
        if run.kind == "closed" and not run.is_owned:
            yield home / "runs" / run.name / CHECKPOINT, keep.checkpoints_days
    for path in (home / "logs").glob("pipeline-*.log"):
        yield path, keep.logs_days
    for path in (home / "results").glob("*.json"):
        yield path, keep.results_days
