"""A run done again in this process, with those who took part in it: what its result must be.

A fault may cost a silo a round, and the model is then another one than without the fault. It must
be just the model that those who were there make: the job's own protocol, driven again over the
silos' rows, with each silo missing where the record says that it was.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.kernel.headers import Header
from consilo.kernel.loop import Party
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read
from consilo.runs.kinds import way_of
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Arrival, Parcel, Transport, not_connected
from flows.rehearsal.copies import Rehearsed, copy_silo
from silos.simulation.simulation import acquainted


@dataclass(frozen=True)
class Ended:
    """What a run came to.

    Args:
        params: SHA-256 of the model; empty where there is none.
        epsilon: silo → ε that was spent; None without privacy.
        rounds: round → who took part.
        checked: who kept the contract.
        counted: whose statistics were taken; None where the run asked for none.
        judged: who evaluated the model; None where nobody was asked.
        rows: silo → those it trained on.
        metrics: of the model.
        status: as the record says; empty where the record has no end.
        reason: why.
    """

    params: str
    epsilon: Mapping[str, float | None]
    rounds: Mapping[int, frozenset[str]]
    checked: frozenset[str]
    counted: frozenset[str] | None
    judged: frozenset[str] | None
    rows: Mapping[str, int]
    metrics: Mapping[str, float]
    status: str
    reason: str

    def is_as(self, other: Ended) -> bool:
        """Return whether model and ε are the same, to the bit."""
        return (
            (self.params, self.rounds, self._spent())
            == (other.params, other.rounds, other._spent())
        ) and dict(self.metrics) == dict(other.metrics)

    def _spent(self) -> dict[str, float]:
        return {name: each for name, each in self.epsilon.items() if each}

    @property
    def participation(self) -> tuple[Any, ...]:
        """Who was there at which step."""
        return (self.rounds, self.checked, self.counted, self.judged)


def ended(record: Path) -> Ended:
    """Return what a run came to, as its record says."""
    rounds: dict[int, frozenset[str]] = {}
    checked: set[str] = set()
    rows: dict[str, int] = {}
    found: dict[str, Any] = {
        "counted": None,
        "judged": None,
        "metrics": {},
        "status": "",
        "reason": "",
    }
    params, epsilon = "", dict[str, float | None]()
    for entry in read(record):
        body = entry["body"]
        match entry["kind"]:
            case "contract" if body["verdict"] == "passed":
                checked.add(body["silo"])
            case "standardized":
                found["counted"] = frozenset(body["rows"])
            case "round":
                rounds[int(body["round"])] = frozenset(body["silos"])
                params = body.get("params", params)
                epsilon |= {n: each["epsilon"] for n, each in body["silos"].items()}
                rows |= {n: int(each["num_examples"]) for n, each in body["silos"].items()}
            case "evaluated":
                found["judged"] = frozenset(body.get("rows") or ())
            case "closed":
                found |= {key: body[key] for key in ("status", "reason", "metrics")}
    return Ended(params, epsilon, rounds, frozenset(checked), rows=rows, **found)


_NO_DEADLINE_S = 86_400.0


class Attended:
    """A transport over which a silo is missing where it was missing before.

    Args:
        inner: reaches all silos.
        before: who was there.
    """

    takes_pieces = True

    def __init__(self, inner: Transport, before: Ended) -> None:
        self._inner = inner
        self._before = before

    def online(self) -> tuple[str, ...]:
        """Return the names of all silos."""
        return self._inner.online()

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Yield what the silos answer that were there, and that the others are not connected.

        Who was there is there however long it takes: on a machine that is busy the run that is done
        again would else be one in which others are missing.
        """
        for name, parcel in parcels.items():
            if self._was_there(Header.decode(parcel.header)):
                yield from self._inner.exchange({name: parcel}, deadline_s=_NO_DEADLINE_S)
            else:
                yield Arrival(name, None, not_connected(), 0.0)

    def close(self) -> None:
        """Let go of the silos."""
        self._inner.close()

    def _was_there(self, header: Header) -> bool:
        before = self._before
        if header.round:
            return header.silo in before.rounds.get(header.round, frozenset())
        step = {
            "contract_check": before.checked,
            "statistics": before.counted,
            "evaluation": before.judged,
        }.get(header.protocol)
        return step is None or header.silo in step


def replay(rehearsed: Rehearsed, before: Ended, place: Path) -> Ended:
    """Run a rehearsed job again with the participation of a run, and return what it comes to.

    Args:
        rehearsed: the job and its silos; copies of these are asked.
        before: the run.
        place: a directory for it, which is gone afterwards.
    """
    key = Ed25519PrivateKey.generate()
    modules: Sequence[Path] = (rehearsed.file.parent,)
    job = rehearsed.job
    try:
        copies = {name: place / "silos" / name for name in rehearsed.silos}
        for name, directory in rehearsed.silos.items():
            copy_silo(directory, copies[name])
        hosts = acquainted(copies, place / "silos", key, tuple(modules))
        inner = LocalTransport({name: answerer(host) for name, host in hosts.items()})
        run = way_of(job).run(
            job,
            Contract.load(job.contract, search=list(modules)),
            Attended(inner, before),
            silos=tuple(copies),
            directory=place / "run",
            run_id=uuid.uuid4().hex,
            key=key,
            parties={name: Party(host.signing_key) for name, host in hosts.items()},
            search_path=modules,
        )
        way_of(job).whole(run)
        return ended(place / "run" / "record.jsonl")
    finally:
        shutil.rmtree(place, ignore_errors=True)
