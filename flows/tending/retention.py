"""How long a coordinator keeps what nothing rests on.

Kept for good: the record of each run, members, keys, audit log, and all that MLflow holds, which is
what a decision or a registered model rests on. The rest has a bound: checkpoints of runs that have
ended lapse by age, unless their models are, or were, champions or wait for a decision; so do logs
and results of pipelines; the folder of a run that never began goes after an hour, a log of a
service is turned over by size (`consilo.machine.logs`), and Prefect's server deletes its old flow
runs itself (`flows.services.services.start_prefect`).
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


def _decided_about(home: Path) -> set[str]:
    """Return the runs of champions, former ones, and of versions that wait for a decision.

    Silos vote on a version against the champion, and get both from what their runs have left.

    Raises:
        RecordTampered: where a chain of decisions is not whole, so that nobody knows.
    """
    kept: set[str] = set()
    for model in models(home):
        found = Promotions.open(home, model)
        kept |= {each.candidate.run for each in found.champions}
        kept |= {each.candidate.run for each in found.waiting}
    return kept


def _lapsing_checkpoints(home: Path, days: int) -> Iterator[tuple[Path, int]]:
    try:
        rests_on = _decided_about(home)
    except RecordTampered:  # `consilo status` says so; until it is whole all are kept
        return
    for run in runs_in(home):
        if run.kind == "closed" and not run.is_owned and run.name not in rests_on:
            yield home / "runs" / run.name / CHECKPOINT, days


def _lapsing(home: Path, keep: Keep) -> Iterator[tuple[Path, int]]:
    yield from _lapsing_checkpoints(home, keep.checkpoints_days)
    for path in (home / "logs").glob("pipeline-*.log"):
        yield path, keep.logs_days
    for path in (home / "results").glob("*.json"):
        yield path, keep.results_days
