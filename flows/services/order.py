"""What a flow wants of a federation, and what it gets: an order, and an open connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.kernel.loop import Party
from consilo.membership.members import Member
from consilo.wire.parcel import Transport

ORDERED_FROM = "job_file"
"""In a run's directory: the path of the file that its job was read from."""


@dataclass(frozen=True)
class Order:
    """What a flow wants to do, before it is connected to anybody.

    Args:
        home: the coordinator's directory.
        job: with all changes made.
        contract: what the silos' data must obey.
        search_path: where the job's own modules lie.
        cancelled: set once the run shall stop; a transport that waits looks at it.
        run_id: of the run that a pipeline opens, or goes on with.
        resume: whether that run has begun and its process died.
        bundle: that the author of the job's code has made; None makes one here.
        registers: whether the model becomes a version of the registry.
        job_file: where the job was read.
    """

    home: Path
    job: Job
    contract: Contract
    search_path: tuple[Path, ...]
    cancelled: threading.Event
    run_id: str = ""
    resume: bool = False
    bundle: Path | None = None
    registers: bool = True
    job_file: Path | None = None


@dataclass(frozen=True)
class Connection:
    """An open federation.

    Args:
        transport: how the silos are reached.
        silos: everybody who belongs to the federation, connected or not, suspended or not.
        bundle: SHA-256 of the code that silos execute; empty in process.
        signing_key: signs the run record.
        tracking_uri: of the MLflow server.
        home: the coordinator's directory; runs are kept in ``runs`` below it.
        finish: called once at the end: whether the run went through, and why not.
        parties: silo → how it signs; silos that are not in it exist in a simulation only.
        members: the admitted silos, as the coordinator knows them; empty in a simulation.
        absent: silo → why it is not asked: suspended, or its certificate has expired.
        standing: the same, asked at any later time; empty for a silo that may take part.
    """

    transport: Transport
    silos: tuple[str, ...]
    bundle: str
    signing_key: Ed25519PrivateKey
    tracking_uri: str
    home: Path
    finish: Callable[[bool, str], None]
    parties: Mapping[str, Party] = field(default_factory=dict)
    members: Mapping[str, Member] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    standing: Callable[[str], str] = lambda silo: ""
