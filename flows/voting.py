"""Votes of the silos on a registered model: a run of its own, which trains nothing.

What flows see of it is `collect_votes`; the tasks are Prefect's wherever a flow calls it, one a
silo, which says in a word how that silo has voted.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from consilo.contracts.contract import Contract
from consilo.decisions.vote import Ballot
from consilo.errors import ConfigInvalid, IncompatibleJob
from consilo.jobs.job import Job
from consilo.record.run_record import new_run_id, read
from consilo.runs.votes.vote import Trained, VoteRun, run_votes, trained_by
from flows.registry import names
from flows.registry.vertical_registry import PARTS
from flows.services.connection import connect
from flows.services.order import ORDERED_FROM, Order
from flows.services.owning import owning
from flows.telling.shown import flow_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
"""The alias of the version that is in use."""


def collect_votes(
    home: Path, name: str, version: int, *, wait_s: float, tracking_uri: str = ""
) -> Ballot:
    """Ask every silo for its vote on a version of a registered model, against the champion.

    Args:
        home: the coordinator's directory.
        name: the registered model's.
        version: of the candidate.
        wait_s: how long to wait for silos that are not connected yet, in seconds.
        tracking_uri: of the MLflow server; empty takes that of the federation in ``home``.

    Returns:
        What silos said, and why others did not; empty of votes where nobody could be asked.

    Raises:
        ConfigInvalid: where the registry has no such version.
        IncompatibleJob: where silos cannot vote on it: it is a model over the columns of several
            silos, or its run, job or contract are not here as they were.
        RecordTampered: where the run's record or model are not as they were written.
    """
    client = _client(home, tracking_uri)
    candidate_run = _run_of(client, name, str(version))
    champion = _champion(client, name)
    place, order = _order(home, candidate_run, name)
    candidate = trained_by(place, order.contract, order.search_path)
    against = None
    if champion is not None and champion != str(version):
        run = _run_of(client, name, champion)
        against = _trained(home, run, name)
    return _asked(order, candidate, against, wait_s)


@task(task_run_name="votes", persist_result=False, cache_policy=NO_CACHE)
def ask_votes(
    order: Order, candidate: Trained, champion: Trained | None, wait_s: float
) -> tuple[Ballot, str, str]:
    """Run the voting; return the ballot, and how the run ended."""
    run_id = order.run_id
    directory = order.home / "runs" / run_id
    flow = _flow_run()
    with connect(order) as connection, owning(directory, flow_run=flow):
        run = VoteRun(
            candidate,
            order.contract,
            connection.transport,
            silos=connection.silos,
            champion=champion,
            directory=directory,
            run_id=run_id,
            key=connection.signing_key,
            parties=connection.parties,
            absent=connection.absent,
            standing=connection.standing,
            bundle=connection.bundle,
        )
        ballot, result = run_votes(run, wait_s=wait_s, say=get_run_logger().info)
        connection.finish(result.status != "failed", result.reason or "voted")
    return ballot, result.status, result.reason


@task(task_run_name="vote-{silo}", persist_result=False, cache_policy=NO_CACHE)
def show_vote(silo: str, ballot: Ballot) -> State[Any]:
    """Show how a silo has voted; one that has not is red, and the flow goes on."""
    for each in ballot.votes:
        if each.silo == silo:
            get_run_logger().info("%s: %s", silo, each.told)
            return Completed(name=each.verdict.capitalize(), message=each.told)
    return Failed(name="NotVoted", message=ballot.missing.get(silo, "it was not asked"))


def _asked(order: Order, candidate: Trained, champion: Trained | None, wait_s: float) -> Ballot:
    ballot, _, _ = ask_votes(order, candidate, champion, wait_s)
    for silo in sorted({*ballot.missing, *(each.silo for each in ballot.votes)}):
        show_vote(silo, ballot, return_state=True)
    return ballot


def _flow_run() -> str:
    """Return the id of the flow run that this is a part of; empty outside of one."""
    return str(flow_run()) if FlowRunContext.get() is not None else ""


def _client(home: Path, tracking_uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    from flows.services.federation import Addresses

    return MlflowClient(tracking_uri or Addresses.load(home).tracking_uri)


def _run_of(client: MlflowClient, name: str, version: str) -> str:
    """Return which run trained a version of a registered model.

    Raises:
        ConfigInvalid: where the registry has no such version.
        IncompatibleJob: where its parts lie in the silos.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version(name, version)
    except MlflowException as cause:
        told = f"the registry has no version {version} of '{name}': {str(cause)[:200]}"
        raise ConfigInvalid(f"models:/{name}/{version}", [told]) from cause
    tags = found.tags or {}
    if names.tag(tags, names.TAG_FORMAT) == PARTS:
        raise IncompatibleJob(
            f"models:/{name}/{version} is a model over the columns of several silos: it lies in "
            "parts there, and no silo can say by itself how good it is; decide about it without "
            "votes"
        )
    run = names.tag(tags, names.TAG_RUN)
    if not run:
        raise IncompatibleJob(f"models:/{name}/{version} does not say which run trained it")
    return run


def _champion(client: MlflowClient, name: str) -> str | None:
    """Return the version that is in use; None where none is."""
    aliases = client.get_registered_model(name).aliases or {}
    found = aliases.get(CHAMPION)
    return None if found is None else str(found)


def _trained(home: Path, run: str, name: str) -> Trained:
    place, order = _order(home, run, name)
    return trained_by(place, order.contract, order.search_path)


def _order(home: Path, run: str, name: str) -> tuple[Path, Order]:
    """Return where a run is kept, and an order to ask under its job and contract.

    Raises:
        IncompatibleJob: where the run is not kept here.
        ContractInvalid: where its contract is not found.
    """
    place = home / "runs" / run
    record = place / "record.jsonl"
    if not record.is_file():
        raise IncompatibleJob(f"{run}: the run that trained '{name}' is not kept in {place}")
    job = Job.from_json(read(record)[0]["body"]["job"])
    said = place / ORDERED_FROM
    file = Path(said.read_text()) if said.is_file() else None
    search = () if file is None else (file.parent,)
    contract = Contract.load(job.contract, search=list(search))
    order = Order(
        home,
        job,
        contract,
        search,
        threading.Event(),
        run_id=new_run_id(job.name, "vote"),
        job_file=file,
    )
    return place, order
