"""Decisions about models on a coordinator's directory, whether or not anything is up there."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.decisions.candidates import Candidate
from consilo.decisions.deciding import Deciding
from consilo.decisions.gates import cannot_be_met
from consilo.decisions.promotions import Proposal
from consilo.decisions.reviewers import Reviewers
from consilo.decisions.vote import Ballot
from consilo.errors import ConfigInvalid, CoordinatorUnreachable
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.machine.environment import login
from consilo.membership.keys import load_or_create_signing_key
from flows.registry.champions import Ask, Champions
from flows.services.federation import Addresses


def coordinators_key(home: Path) -> Ed25519PrivateKey:
    """Return the key that signs what the coordinator in ``home`` writes down.

    Raises:
        ConfigInvalid: where there is no coordinator.
    """
    path = home / "keys" / "record.key"
    if not path.is_file():
        raise ConfigInvalid(str(home), ["no coordinator is here: give the --dir of 'consilo up'"])
    return load_or_create_signing_key(path)


def deciding(home: Path, model: str, ask: Ask) -> Deciding:
    """Return what writes about a model; its aliases move where the registry is up.

    Args:
        home: the coordinator's directory.
        model: its name.
        ask: how servers are asked.
    """
    try:
        uri = Addresses.load(home).tracking_uri
    except CoordinatorUnreachable:
        uri = ""
    aliases = Champions(uri, ask) if uri else None
    return Deciding(home, model, coordinators_key(home), aliases=aliases, now=time.time)


_ENDS_WITHIN_S = 8.0
"""A suspended flow run's process goes on ending for some seconds, and takes its folder with it:
one that is resumed meanwhile finds itself without one (Prefect 3.7.7)."""
Collect = Callable[..., Ballot]
"""Asks the silos: (home, model, version, wait_s=…) → their votes."""


def proposed(
    home: Path,
    work: Deciding,
    candidate: Candidate,
    *,
    collect: Collect,
    wait_s: float,
    flow_run: str = "",
    again: bool = False,
) -> Proposal:
    """Return a proposal with the silos' votes; a repeat goes on where a former one stopped.

    One whose gates nobody can open is ended as blocked.

    Args:
        home: the coordinator's directory.
        work: of the model.
        candidate: the version.
        collect: asks the silos, where they have not been asked.
        wait_s: how long silos are waited for that are not connected.
        flow_run: id of the flow run.
        again: also where people have rejected it.
    """
    proposal = work.propose(candidate, flow_run=flow_run, again=again)
    if proposal.decision is not None:
        return proposal
    if proposal.ballot is None and candidate.kind == "horizontal":
        ballot = collect(home, candidate.model, candidate.version, wait_s=wait_s)
        proposal = work.vote(proposal, ballot)
    return work.block(proposal)


def not_met(home: Path, job: Job, silos: Collection[str]) -> list[str]:
    """Return what a job asks of its candidates that nobody could fulfil as things are.

    Args:
        home: the coordinator's directory.
        job: with a section ``promotion``, or without.
        silos: that are asked.
    """
    if not isinstance(job, ModelJob) or job.promotion is None:
        return []
    enrolled = Reviewers.open(home).enrolled
    return cannot_be_met(job.promotion, job.kind, silos=silos, reviewers=enrolled, author=login())


def resume(home: Path, flow_run: str, told: str, ask: Ask) -> bool:
    """Let the flow run that waits for a decision go on, now that there is one.

    It reads the decision from the chain, so that what it is resumed with says nothing. One whose
    process died before it had shown its form can be resumed by nobody: it is ended.

    Args:
        home: the coordinator's directory.
        flow_run: its id.
        told: how it was decided.
        ask: how servers are asked.

    Returns:
        Whether it waited, and waits no more.
    """
    try:
        place = f"{Addresses.load(home).prefect_api}/flow_runs/{flow_run}"
        state = ask(place)["state"]
        if state["type"] != "PAUSED":
            return False
        since = datetime.fromisoformat(str(state["timestamp"])).timestamp()
        time.sleep(min(_ENDS_WITHIN_S, max(0.0, since + _ENDS_WITHIN_S - time.time())))
        answer: Any = ask(
            f"{place}/resume",
            {
                "run_input": {
                    "decision": "approve" if told == "approved" else "reject",
                    "reason": told,
                }
            },
        )
        if answer["status"] in ("REJECT", "ABORT"):
            state = {
                "type": "COMPLETED",
                "name": "Completed",
                "message": f"{told}; it could not be resumed: {answer['details']}",
            }
            ask(f"{place}/set_state", {"state": state, "force": True})
    except (CoordinatorUnreachable, HTTPError, OSError):
        return False  # Prefect is away: the flow run finds the decision when somebody resumes it
    return True
