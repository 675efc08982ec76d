"""How a run stands in Prefect's lists: its name and tags, and an end for one whose process died."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from prefect.states import Crashed

from consilo.record.run_record import read
from flows.registry import names
from flows.registry.tracking import run_of


def flow_run() -> UUID:
    """Return the id of the flow run that this code is part of."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("this runs inside a Prefect flow only")
    return context.flow_run.id


def prefect_place(flow_run_id: UUID) -> dict[str, str]:
    """Return where people and programs find a flow run."""
    api = get_current_settings().api.url or ""
    page = f"{api.removesuffix('/api')}/runs/flow-run/{flow_run_id}"
    return {"api_url": api, "flow_run_id": str(flow_run_id), "url": page}


def rename(flow_run_id: UUID, name: str, *, tags: Sequence[str]) -> None:
    """Give a flow run a name, and tags besides those that it was started with."""
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(flow_run_id).tags
        kept = [each for each in known if each not in names.STATUSES]
        client.update_flow_run(flow_run_id, name=name, tags=list(dict.fromkeys([*kept, *tags])))


def opens(flow_run_id: UUID, run_id: str) -> None:
    """Let a flow run say which run it is about to open: one that died before is asked for again."""
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(flow_run_id).tags
        client.update_flow_run(
            flow_run_id, tags=list(dict.fromkeys([*known, names.run_tag(run_id)]))
        )


def number_of(directory: Path) -> int:
    """Return a run's place, from 1, among the runs of its job that the coordinator keeps.

    Args:
        directory: the run's; its siblings are called after job and time of their beginning.
    """
    stem = directory.name.rsplit("-", 2)[0]
    same = {each.name for each in directory.parent.iterdir() if each.name.rsplit("-", 2)[0] == stem}
    return sorted({*same, directory.name}).index(directory.name) + 1


def close_ended(tracking_uri: str, experiment: str, directory: Path) -> None:
    """Let Prefect and MLflow show how a run ended whose process died before it told them.

    Args:
        tracking_uri: of the MLflow server.
        experiment: of the run.
        directory: of the run; its record says how it ended. One that does not is left as it is.
    """
    path = directory / "record.jsonl"
    if not path.is_file():
        return
    last = read(path)[-1]
    if last["kind"] != "closed":
        return
    close_died(directory.name)
    client = MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    known = None if found is None else run_of(client, found.experiment_id, directory.name)
    if known is None or client.get_run(known).info.status != "RUNNING":
        return
    status, reason = str(last["body"]["status"]), str(last["body"]["reason"])
    name = client.get_run(known).info.run_name.rpartition(" · ")[0]
    client.update_run(known, name=f"{name} · {status}" if name else None)
    client.set_tag(known, names.TAG_STATUS, status)
    client.set_tag(known, names.TAG_REASON, reason)
    client.set_terminated(known, names.ending_of(status, reason))


def close_died(run_id: str) -> None:
    """Tell Prefect that the flow runs of a run that is gone on with died, where they still run.

    They say which run they open before there is anything of it (`opens`). Whoever calls this owns
    the run, so that no other flow run does anything for it.

    Args:
        run_id: of the run.
    """
    crashed: State[None] = Crashed(
        message=f"its process died; flow run {flow_run()} goes on with it"
    )
    about = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[names.run_tag(run_id)]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
    )
    with get_client(sync_client=True) as prefect:
        for died in prefect.read_flow_runs(flow_run_filter=about):
            if died.id == flow_run():
                continue
            its_own = FlowRunFilter(id=FlowRunFilterId(any_=[died.id]))
            for each in prefect.read_task_runs(flow_run_filter=its_own, limit=200):
                if each.state is None or not each.state.is_final():
                    prefect.set_task_run_state(each.id, crashed, force=True)
            prefect.set_flow_run_state(died.id, crashed, force=True)
            name, tags = names.of_died(died.name, died.tags)
            prefect.update_flow_run(died.id, name=name, tags=tags)
