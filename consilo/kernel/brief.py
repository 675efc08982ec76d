"""Job and contract travel once a run: a silo keeps them under the digest of the run's manifest.

Every later request names the manifest, whose digests job and contract are held against each time.
A silo that has lost them says so with the fault `UNBRIEFED`, and is briefed again. Before wire
version 3 both travelled in every request's body.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from consilo.contracts.contract import Contract
from consilo.errors import Refused
from consilo.jobs.job import Job
from consilo.kernel.protocol import Protocol
from consilo.kernel.roles import Role
from consilo.kernel.verbs import verb
from consilo.wire.payload import canonical_json

if TYPE_CHECKING:
    from consilo.kernel.federation import Federation
    from consilo.kernel.headers import Manifest
    from consilo.kernel.roles import SiloHost
    from consilo.kernel.steps import Step
    from consilo.kernel.view import Message, SiloView

SINCE_WIRE = 3
BRIEF = "brief"
"""The protocol's name, and that of its only verb."""
UNBRIEFED = "unbriefed"
"""A fault's code: the silo does not hold job and contract of the request's manifest."""
NEWEST = "newest"
"""In the payload: the header of the newest reply that the silo signed, where one is known."""


class History(TypingProtocol):
    """What a silo has said before, in all runs."""

    def recognise(self, newest: Mapping[str, Any] | None) -> None:
        """Raise `Refused`, from now on, where the silo does not remember what it has signed."""
        ...


HISTORY: Role[History] = Role("history")


class Brief(Protocol[None]):
    """Hands a silo the job and the contract of a run; the kernel asks it before anything else."""

    runs_job_code = False
    rows = "none"

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Any]:
        """Refuse: briefing is no algorithm of its own."""
        raise TypeError("the kernel briefs silos by itself")

    @verb(BRIEF, replies={})
    def brief(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Look whether the silo remembers what it said; keep job and contract for this run."""
        if message.payload:
            silo.role(HISTORY).recognise(message.payload.get(NEWEST))
        content = {"job": silo.job.to_json(), "contract": silo.contract.to_json()}
        manifest = silo.header.manifest
        silo.host.run_state.keep(manifest.run_id, _name(manifest), canonical_json(content))
        return {}


def briefed(host: SiloHost, manifest: Manifest) -> tuple[Job, Contract]:
    """Return the job and the contract that a silo was briefed with.

    Raises:
        Refused: where it holds none for this manifest.
    """
    kept = host.run_state.kept(manifest.run_id, _name(manifest))
    if kept is None:
        raise Refused("this silo was not told job and contract of the run", code=UNBRIEFED)
    return _read(kept)


@lru_cache(maxsize=4)
def _read(kept: bytes) -> tuple[Job, Contract]:
    """Return what was kept; one process that answers for many silos reads it once."""
    told = json.loads(kept)
    return Job.from_json(told["job"]), Contract.from_json(told["contract"])


def _name(manifest: Manifest) -> str:
    return f"brief-{manifest.digest[:32]}"
