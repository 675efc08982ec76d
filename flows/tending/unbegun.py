"""Flow runs of deployments that died before they had a run: asks for them again.

A run is gone on with by its record (`flows.tending.reconcile`). Of one whose process died before it
wrote any nobody but Prefect knows: without this an unattended night would be lost. A flow run says
by a tag which run it is about to open, before that run has a record; so one that died without a
record of that name has asked no silo anything, and it costs nothing to ask for it again: three
times at most, for a day. What somebody cancelled, or asked for again, is left alone.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.registry import names
from flows.tending.findings import Finding
from flows.tending.servers import NOT_FINAL, ask

MOST_ASKED = 3
"""How often a flow run is asked for again by itself; then a person is asked."""
DAY_S = 86_400.0
"""For so long after its death: the night after has a run of its own."""
_MOST = 200
_KEY = re.compile(r"unbegun/(?P<first>[^/]+)/(?P<times>\d+)")


def unbegun(
    api: str,
    home: Path,
    act: bool,
    *,
    owners: Collection[str] = (),
    pool: str = names.POOL,
    now: float | None = None,
) -> Iterator[Finding]:
    """Ask again for flow runs that died before they had a run; yield what became of each.

    Args:
        api: of the Prefect server.
        home: the coordinator's directory.
        act: ask again; else it is only told.
        owners: ids of flow runs that are known to have had a run.
        pool: the work pool.
        now: seconds since 1970; None looks at the clock.

    Raises:
        OSError: where the server does not answer.
    """
    since = (time.time() if now is None else now) - DAY_S
    dead = [
        each
        for each in _flow_runs(api, pool, {"state": {"type": {"any_": ["CRASHED"]}}})
        if each["deployment_id"]
        and each["id"] not in owners
        and _time(each) > since
        and not _has_run(each, home)
    ]
    if not dead:
        return
    after = {"start_time": {"after_": datetime.fromtimestamp(since, UTC).isoformat()}}
    begun = _flow_runs(api, pool, after)
    for each in dead:
        if not any(_replaces(other, each) for other in begun):
            yield from _asked_again(api, home, each, act)


def _flow_runs(api: str, pool: str, which: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pool's flow runs of one sort, the newest first."""
    asked = {
        "flow_runs": which,
        "work_pools": {"name": {"any_": [pool]}},
        "sort": "START_TIME_DESC",
        "limit": _MOST,
    }
    return list(ask(f"{api}/flow_runs/filter", asked))


def _time(flow_run: Mapping[str, Any]) -> float:
    """Return when a flow run came to its state, in seconds since 1970."""
    return datetime.fromisoformat(str(flow_run["state"]["timestamp"])).timestamp()


def _has_run(flow_run: Mapping[str, Any], home: Path) -> bool:
    """Return whether a flow run opened a run, or was to go on with one: its record knows more."""
    runs = [*names.runs_of(flow_run["tags"]), flow_run["parameters"].get("resume")]
    return any(_is_begun(home / "runs" / each / "record.jsonl") for each in runs if each)


def _is_begun(record: Path) -> bool:
    return record.is_file() and record.stat().st_size > 0


def _replaces(other: Mapping[str, Any], died: Mapping[str, Any]) -> bool:
    """Return whether a flow run is what another one should have been, and began after its death."""
    if not other["start_time"]:
        return False
    same = other["deployment_id"] == died["deployment_id"] and _asked(other) == _asked(died)
    began = datetime.fromisoformat(str(other["start_time"])).timestamp()
    return same and began > _time(died)


def _asked(flow_run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a flow run was asked for, whether or not it goes on with another one's."""
    return {key: value for key, value in flow_run["parameters"].items() if key != "resume"}


def _asked_again(api: str, home: Path, died: Mapping[str, Any], act: bool) -> Iterator[Finding]:
    name = str(died["name"])
    what = f"died before it had a run ({died['state']['message'] or 'no reason is known'})"
    key = _KEY.fullmatch(died["idempotency_key"] or "")
    first, times = (key["first"], int(key["times"])) if key else (str(died["id"]), 0)
    by_hand = (
        f"look for why in {home / 'logs' / 'worker.log'}, then start it: {_command(api, died)}"
    )
    if times >= MOST_ASKED:
        what += f"; it was asked for {times} times again"
        yield Finding("flow run", name, what, todo=by_hand)
        return
    if not act:
        done = f"'consilo up --dir {home} --worker' asks for it again"
        yield Finding("flow run", name, what, done=done)
        return
    asked = {
        "parameters": died["parameters"],
        "idempotency_key": f"unbegun/{first}/{times + 1}",
        "tags": names.of_another(died["tags"]),
        "state": {"type": "SCHEDULED", "message": f"in the place of {name}"},
    }
    try:
        further = ask(f"{api}/deployments/{died['deployment_id']}/create_flow_run", asked)
    except OSError as cause:  # its deployment was deleted, say
        what += f"; no other flow run could be made ({cause})"
        yield Finding("flow run", name, what, todo=by_hand)
        return
    if further["state"]["type"] in NOT_FINAL:  # one that has ended speaks for itself
        done = f"flow run {further['name']} was asked for in its place"
        yield Finding("flow run", name, what, done=done)


def _command(api: str, flow_run: Mapping[str, Any]) -> str:
    """Return how a person asks for a flow run once more."""
    words = ["prefect", "deployment", "run", "--id", str(flow_run["deployment_id"])]
    if flow_run["parameters"]:
        words += ["--params", json.dumps(flow_run["parameters"])]
    return f"PREFECT_API_URL={api} {shlex.join(words)}"
