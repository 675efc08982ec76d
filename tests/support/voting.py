"""Trained models of the clinic, and silos that vote on them; a seam for many tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import clinic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.decisions.vote import Ballot
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import run_all
from consilo.runs.outcome import RunResult
from consilo.runs.votes.vote import Trained, VoteRun, run_votes, trained_by
from consilo.transports.local import LocalTransport

KEY = Ed25519PrivateKey.generate()


def trained(job: Any, hosts: Any, place: Path, contract: Any = None, **settings: Any) -> Trained:
    """Return what a whole run of a job leaves."""
    settings = {"key": KEY, "run_id": place.name, **settings}
    result = run_all(clinic.run_of(job, hosts, place, contract_=contract, **settings))
    assert result.status in ("complete", "degraded"), result.reason
    return trained_by(place, contract or clinic.contract())


def voted(
    candidate: Trained,
    hosts: Any,
    place: Path,
    champion: Trained | None = None,
    contract: Any = None,
    **settings: Any,
) -> tuple[Ballot, RunResult]:
    """Let hosts vote."""
    run = VoteRun(
        candidate,
        contract or clinic.contract(),
        LocalTransport(
            {n: each if callable(each) else answerer(each) for n, each in hosts.items()}
        ),
        silos=tuple(hosts),
        champion=champion,
        **{"directory": place, "run_id": place.name, "key": KEY, **settings},
    )
    return run_votes(run)


def spoilt(model: Trained, by: float = 0.0) -> Trained:
    """Return a model that says the opposite, or one whose parameters are moved a little."""
    moved = {
        name: (value + by).astype(value.dtype) if by else -value
        for name, value in model.model.params.items()
    }
    return replace(model, model=replace(model.model, params=moved))
