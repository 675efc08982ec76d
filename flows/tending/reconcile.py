"""Finds what nobody owns, by the record of each run, and adopts, ends or reports it.

A run is owned by the process that holds its lease (`flows.services.owning`). One whose record is
open and that nobody owns was cut off. Where a deployment had started it, it is *adopted*: another
flow run of the same deployment goes on with it, three times at most. One that a person started is
*reported*, with the command that goes on with it. A flow run that died before it had a run is asked
for again (`flows.tending.unbegun`). What Prefect and MLflow show as running though
its run has ended, or its process died, is *ended*.

The record decides: Prefect's and MLflow's databases may be new, or behind.

Left to others: a SuperLink gives up Flower runs whose heartbeat stays away and deletes bodies of
runs that have ended (`consilo.transports.flower.bodies`); processes are taken down by the guard
above them (`consilo.machine.reaper`); of ε that a silo has reserved nothing comes back, whatever
became of its run.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from consilo.errors import RecordTampered, RunNotResumable
from consilo.machine.files import tidy
from consilo.machine.leases import LEASE_S, holder, hung, is_held
from consilo.membership.keys import load_or_create_signing_key
from consilo.record.chain import last_entry
from consilo.record.run_record import RunRecord
from flows.registry import names
from flows.registry.champions import Champions
from flows.services.owning import OWNER, owning
from flows.services.place import STATE
from flows.tending.champions import champions
from flows.tending.findings import Finding
from flows.tending.servers import NOT_FINAL, ask, end_died
from flows.tending.unbegun import MOST_ASKED, unbegun

MOST_ADOPTED = 3
"""How often a run is gone on with by itself; then a person is asked."""
_OURS_TO_TIDY = tuple(sorted(set(STATE) - {"prefect", "mlflow", "superlink"}))
_PAGE = 200
_UNREADABLE = "unreadable"
_RESUMED = b'"kind":"resumed"'
_MATCH = "recipe"
"""In the first line of a match's record, and of no run's that can be gone on with."""
_QUESTION = "question"
"""The same of a run that only asks, such as whether rows have moved."""


@dataclass(frozen=True)
class RunState:
    """How a run stands, by its folder.

    Args:
        name: of the run.
        kind: of its record's last line; empty where it has none.
        status: how it ended; empty while it has not.
        reason: why so.
        time: of the last line.
        owner: id of its flow run, as its last owner said.
        is_owned: a process holds its lease.
    """

    name: str
    kind: str
    status: str
    reason: str
    time: str
    owner: str
    is_owned: bool


def runs_in(home: Path) -> Iterator[RunState]:
    """Yield the runs in a coordinator's directory, the oldest first."""
    for record in sorted(home.glob("runs/*/record.jsonl"), key=lambda each: each.stat().st_mtime):
        lease = record.with_name(OWNER)
        is_owned = is_held(lease)  # first: whoever lets go of it has closed the record before
        try:
            entry = last_entry(record) or {}
        except RecordTampered as cause:
            entry = {"kind": _UNREADABLE, "body": {"status": _UNREADABLE, "reason": str(cause)}}
        body = entry.get("body", {})
        closed = entry.get("kind") in ("closed", _UNREADABLE)
        yield RunState(
            record.parent.name,
            str(entry.get("kind", "")),
            str(body.get("status", "")) if closed else "",
            str(body.get("reason", "")),
            str(entry.get("time", "")),
            holder(lease).about.get("flow_run", ""),
            is_owned,
        )


def reconcile(home: Path, *, prefect_api: str, tracking_uri: str, act: bool) -> list[Finding]:
    """Return what nobody owns in a coordinator's directory, and what was done about it.

    Args:
        home: the coordinator's directory.
        prefect_api: of its Prefect server; empty where none is up.
        tracking_uri: of its MLflow server; empty where none is up.
        act: adopt and end; else it is only told.
    """
    runs = list(runs_in(home))
    found = list(_hung_owners(home, runs, act=act))
    for each in runs:
        try:
            if each.kind == _UNREADABLE:
                raise RecordTampered(each.reason)
            if not each.status and each.kind and not each.is_owned:
                if act and _is_ending(home, each, prefect_api):
                    continue  # its process closes its flow run itself; the next look finds out
                found.append(_cut_off(home, each, prefect_api, act=act))
        except RecordTampered:
            todo = f"put back {home / 'runs' / each.name} from a backup, or take it away"
            found.append(Finding("run", each.name, "has no whole record", todo=todo))
        except RunNotResumable:  # somebody goes on with it, or has ended it, since we looked
            continue
    found += _asked(_mlflow_runs, tracking_uri, home, {each.name: each for each in runs}, act)
    owners = {each.owner for each in runs}
    found += _asked(partial(unbegun, owners=owners), prefect_api, home, act)
    found += _asked(_pauses, prefect_api)
    found += _decisions(tracking_uri, home, act)
    if act:
        for name in _OURS_TO_TIDY:
            tidy(home / name)
    return found


def _asked(question: Any, server: str, *more: Any) -> list[Finding]:
    """Return what a server's answers show; nothing where it is away, which others tell."""
    if not server:
        return []
    try:
        return list(question(server, *more))
    except OSError:
        return []


def _decisions(uri: str, home: Path, act: bool) -> list[Finding]:
    """Return what of decisions about models is not done, or undone; without MLflow, the chains."""
    try:
        return list(champions(Champions(uri, ask) if uri else None, home, act=act))
    except OSError:
        return list(champions(None, home, act=False))


def _hung_owners(home: Path, runs: list[RunState], *, act: bool) -> Iterator[Finding]:
    for run in runs:
        owner = hung(home / "runs" / run.name / OWNER, lease_s=LEASE_S) if run.is_owned else None
        if owner is None:
            continue
        what = f"of process {owner.pid} has not stirred for {owner.still_s:.0f} s"
        if act:
            owner.kill()
            yield Finding("owner", run.name, what, done="it was ended, and the run is free")
        else:
            yield Finding("owner", run.name, what, todo=f"'consilo up --dir {home}' ends it")


def _is_ending(home: Path, run: RunState, api: str) -> bool:
    """Return whether a run's owner has let go of it just now, and its flow run shows no end yet."""
    lease = home / "runs" / run.name / OWNER
    if holder(lease).pid or not lease.exists():  # one that died has let go of nothing
        return False
    if not 0.0 <= time.time() - lease.stat().st_mtime < LEASE_S:
        return False
    flow_run = _flow_run(api, run.owner)
    return flow_run is not None and flow_run["state"]["type"] in NOT_FINAL


def _cut_off(home: Path, run: RunState, api: str, *, act: bool) -> Finding:
    """Return what became of a run that is not over and that nobody goes on with."""
    first, times = _story(home, run.name)
    if _MATCH in first or _QUESTION in first:
        kind = "match" if _MATCH in first else "question"
        what = f"died at {run.time}; a {kind} is asked again as a whole"
        if act:
            end_run(home, run.name, "its process died")
        return Finding("run", run.name, what, done="it is ended as failed")
    flow_run = _flow_run(api, run.owner)
    if act and flow_run is not None:
        with contextlib.suppress(OSError):  # the next look does it
            _close(api, flow_run, f"its process died; run {run.name} is not over")
    what = f"was cut off at {run.time}, after '{run.kind}'"
    by_hand = (
        f"go on with it ({_command(home, run, flow_run)}), or give it up "
        f"('consilo job give-up {run.name} --dir {home}')"
    )
    if flow_run is None or not flow_run.get("deployment_id") or _is_cancelled(flow_run):
        return Finding("run", run.name, what, todo=by_hand)
    if times >= MOST_ADOPTED:
        return Finding("run", run.name, f"{what}, {times} times gone on with", todo=by_hand)
    if not act:
        return Finding(
            "run", run.name, what, done=f"'consilo up --dir {home} --worker' goes on with it"
        )
    try:
        further = _adopt(api, flow_run, run.name, times)
    except OSError as cause:  # its deployment was deleted, say
        what = f"{what}; no other flow run could be made ({cause})"
        return Finding("run", run.name, what, todo=by_hand)
    if further["state"]["type"] not in NOT_FINAL:
        return Finding(
            "run", run.name, f"{what}; flow run {further['name']} could not go on", todo=by_hand
        )
    return Finding("run", run.name, what, done=f"flow run {further['name']} goes on with it")


def _story(home: Path, run: str) -> tuple[Mapping[str, Any], int]:
    """Return the body of a record's first line, and how often the run was gone on with."""
    content = (home / "runs" / run / "record.jsonl").read_bytes()
    try:
        opened: Mapping[str, Any] = json.loads(content.partition(b"\n")[0])["body"]
    except (ValueError, KeyError, TypeError):
        raise RecordTampered(f"{run}: its record's first line is no entry") from None
    return opened, content.count(_RESUMED)


def end_run(home: Path, run: str, reason: str) -> None:
    """Close a run that nobody goes on with, as failed.

    Its silos are told nothing: what they keep of it lapses after 30 days.

    Args:
        home: the coordinator's directory.
        run: its name.
        reason: why it ends, for its record.

    Raises:
        RunNotResumable: where it has ended, is owned by a process, or there is none of this name.
    """
    record_file = home / "runs" / run / "record.jsonl"
    if not record_file.is_file():
        raise RunNotResumable(f"{run}: there is no run of this name in {home / 'runs'}")
    key = load_or_create_signing_key(home / "keys" / "record.key")
    with owning(record_file.parent, flow_run=""):
        record, entries = RunRecord.reopen(record_file, key)
        record.take_over(at=time.time())
        endings = [each["body"]["said"] for each in entries if each["kind"] == "ending"]
        said = {"status": "failed", "reason": reason, "metrics": {}, "silos": {}}
        record.close(**(endings[-1] if endings else said))


def _adopt(api: str, died: Mapping[str, Any], run: str, times: int) -> Any:
    """Let the deployment of a flow run that died go on with its run; once for each death.

    A successor that died before it took the run over is asked for again, as one that began none.
    """
    asked: dict[str, Any] = {
        "parameters": {**died["parameters"], "resume": run},
        "tags": [*names.of_another(died["tags"]), names.run_tag(run)],
        "state": {"type": "SCHEDULED", "message": f"goes on with {died['name']}"},
    }
    for again in range(1 + MOST_ASKED):
        asked["idempotency_key"] = f"{run}/{times}" + (f"/{again}" if again else "")
        further = ask(f"{api}/deployments/{died['deployment_id']}/create_flow_run", asked)
        if further["state"]["type"] != "CRASHED":
            break
    return further


def _flow_run(api: str, flow_run_id: str) -> dict[str, Any] | None:
    """Return a flow run; None where Prefect is away, or does not know it."""
    if not api or not flow_run_id:
        return None
    try:
        found: dict[str, Any] = ask(f"{api}/flow_runs/{flow_run_id}")
    except OSError:
        return None
    return found


def _close(api: str, flow_run: Mapping[str, Any], message: str) -> None:
    """Let Prefect know that a flow run's process has died, where it shows it as running."""
    if flow_run["state"]["type"] in ("RUNNING", "PENDING"):
        end_died(api, flow_run, message)


def _is_cancelled(flow_run: Mapping[str, Any]) -> bool:
    return flow_run["state"]["type"] in ("CANCELLED", "CANCELLING")


def _command(home: Path, run: RunState, flow_run: Mapping[str, Any] | None) -> str:
    job = "JOB" if flow_run is None else str(flow_run["parameters"].get("job", "JOB"))
    words = ["consilo", "job", "run", job, "--dir", str(home), "--resume", run.name]
    return f"'{shlex.join(words)}'"


def _mlflow_runs(
    uri: str, home: Path, runs: Mapping[str, RunState], act: bool
) -> Iterator[Finding]:
    """End MLflow runs that are shown as running though their runs have ended."""
    api = f"{uri}/api/2.0/mlflow"
    ids = [each["experiment_id"] for each in _all_of("experiments", api, {})]
    running = {"filter": "attributes.status = 'RUNNING'"}
    found = [
        each
        for first in range(0, len(ids), _PAGE)
        for each in _all_of("runs", api, {**running, "experiment_ids": ids[first : first + _PAGE]})
    ]
    for each in found:
        tags = {tag["key"]: tag["value"] for tag in each["data"].get("tags", [])}
        name = names.tag(tags, names.TAG_RUN)
        run = runs.get(name)
        if not name or (run is not None and not run.status) or (run is not None and run.is_owned):
            continue  # not a run of ours, or one that is not over
        if run is None and (home / "runs" / name).exists():
            continue  # it began since we looked
        ended = "KILLED" if run is None else names.ending_of(run.status, run.reason)
        what = "is shown as running, and its run has ended"
        if act:
            ask(f"{api}/runs/update", {"run_id": each["info"]["run_id"], "status": ended})
            yield Finding("MLflow run", name, what, done=f"it was ended as {ended}")
        else:
            yield Finding("MLflow run", name, what, done="'consilo up' ends it")


def _all_of(what: str, api: str, asked: Mapping[str, Any]) -> list[Any]:
    """Return all experiments, or runs, that MLflow finds, page after page."""
    found: list[Any] = []
    token = ""
    while True:
        page = {"page_token": token} if token else {}
        answer = ask(f"{api}/{what}/search", {**asked, **page, "max_results": _PAGE})
        found += answer.get(what, [])
        token = answer.get("next_page_token", "")
        if not token:
            return found


def _pauses(api: str) -> Iterator[Finding]:
    """Tell of flow runs that wait for people."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}, "limit": _PAGE}
    page = api.removesuffix("/api")
    try:
        paused = ask(f"{api}/flow_runs/filter", asked)
    except HTTPError:
        return
    for each in paused:
        since = str(each["state"]["timestamp"])[:19]
        yield Finding(
            "pause",
            str(each["name"]),
            f"waits for people since {since} UTC",
            todo=f"decide at {page}/runs/flow-run/{each['id']}",
        )
