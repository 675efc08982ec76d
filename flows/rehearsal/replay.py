"""A run done again in this process, with those who took part in it: what its result must be.

A fault may cost a silo a round, and the model is then another one than without the fault. It must
be just the model that those who were there make: the job's own protocol, driven again over the
silos' rows, with each silo missing where the record says that it was.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from consilo.wire.payload import pack, unpack
from flows.rehearsal.copies import Rehearsed, copy_silo
from flows.rehearsal.order import Order, Round
from silos.kept.model_parts import read_part
from silos.simulation.simulation import acquainted


@dataclass(frozen=True)
class Ended:
    """What a run came to.

    Args:
        params: SHA-256 of the model, or of its parts in all silos; empty where there is none.
        epsilon: silo → ε that was spent; None without privacy.
        rounds: round → who took part.
        checked: who kept the contract.
        counted: whose statistics were taken; None where the run asked for none.
        judged: who evaluated the model; None where nobody was asked.
        rows: silo → those it trained on.
        metrics: of the model.
        status: as the record says; empty where the record has no end.
        reason: why.
        order: round → in which order answers came, where a round does not wait for all.
        unheard: round and silo whose answer was late: it may have computed it, and paid.
        whole: rounds in which nobody was missing who was to take part.
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
    order: Mapping[int, Round] = field(default_factory=dict)
    unheard: frozenset[tuple[int, str]] = frozenset()
    whole: frozenset[int] = frozenset()

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
        """Who was there at which step, and in which order where that counts."""
        return (self.rounds, self.checked, self.counted, self.judged, self.order)


_MISSING = ("late", "dropped", "refused", "rejected", "unused", "left_out")
"""Outcomes of a silo's part in a round that are not as they are without a fault."""
_OWN = ("model", "salt")
"""What of a silo's part of a model is another one in each run: its run, and what hides it."""


def ended(record: Path, silos: Mapping[str, Path]) -> Ended:
    """Return what a run came to, as its record says.

    Args:
        record: of the run.
        silos: name → directory, where parts of vertical models are.
    """
    rounds: dict[int, frozenset[str]] = {}
    checked: set[str] = set()
    rows: dict[str, int] = {}
    order: dict[int, Round] = {}
    unheard: set[tuple[int, str]] = set()
    whole: set[int] = set()
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
                late = [name for name, code in body["faults"].items() if code == "deadline"]
                unheard |= {(int(body["round"]), name) for name in late}
                if not _missing(body):
                    whole.add(int(body["round"]))
                if "arrivals" in body:
                    order[int(body["round"])] = Round.of(body)
            case "evaluated" if "parts" in body:  # a vertical model, which all of them keep
                params = _model_in(record.parent.name, {n: silos[n] for n in body["parts"]})
                found["judged"] = frozenset(body["parts"])
            case "evaluated":
                found["judged"] = frozenset(body["rows"])
            case "closed":
                found |= {key: body[key] for key in ("status", "reason", "metrics")}
    return Ended(
        params,
        epsilon,
        rounds,
        frozenset(checked),
        rows=rows,
        order=order,
        unheard=frozenset(unheard),
        whole=frozenset(whole),
        **found,
    )


def _missing(told: Mapping[str, Any]) -> set[str]:
    """Return who was to take part in a round and did not; an answer that is still to come is not.

    Args:
        told: what a line ``round`` of a record says.
    """
    out = {each["silo"] for each in told["participation"] if each["outcome"] in _MISSING}
    return out - set(told.get("late", ()))


def _model_in(run: str, silos: Mapping[str, Path]) -> str:
    """Return the SHA-256 of all that is learnt in the silos' parts of a model."""
    parts = {name: unpack(read_part(directory, run)) for name, directory in silos.items()}
    learnt = {n: {k: v for k, v in each.items() if k not in _OWN} for n, each in parts.items()}
    return hashlib.sha256(pack(learnt)).hexdigest() if learnt else ""


_NO_DEADLINE_S = 86_400.0


class Attended:
    """A transport over which a silo is missing where it was missing before.

    Where rounds do not wait for all, answers come in the order in which they came before, too.

    Args:
        inner: reaches all silos.
        before: who was there.
        now: the round that is under way.
        paid: whether those whose answers were late had computed them, so that they paid.
    """

    takes_pieces = True

    def __init__(
        self, inner: Transport, before: Ended, now: Callable[[], int], *, paid: bool
    ) -> None:
        self._now, self._paid = now, paid
        self._inner = inner
        self._before = before
        self._order = Order(before.order, now) if before.order else None

    def online(self) -> tuple[str, ...]:
        """Return who can be asked: all silos or, in rounds that wait for nobody, who was."""
        everybody = self._inner.online()
        here = None if self._order is None else self._order.here
        if here is not None and self._paid:
            here |= {name for number, name in self._before.unheard if number == self._now()}
        return everybody if here is None else tuple(n for n in everybody if n in here)

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Yield what the silos answer that were there, and that the others are not connected.

        Who was there is there however long it takes: on a machine that is busy the run that is done
        again would else be one in which others are missing.
        """
        for name, parcel in parcels.items():
            header = Header.decode(parcel.header)
            if self._order is not None and header.round:
                yield self._in_turn(self._order, header, parcel)
            elif self._was_there(header):
                yield from self._inner.exchange({name: parcel}, deadline_s=_NO_DEADLINE_S)
            else:
                yield self._unheard(header, parcel)

    def _in_turn(self, order: Order, header: Header, parcel: Parcel) -> Arrival:
        """Return what a silo answers when it is this answer's turn."""
        with order.turn(header.silo, header.round) as is_answered:
            if not is_answered:
                return self._unheard(header, parcel)
            (arrival,) = self._inner.exchange({header.silo: parcel}, deadline_s=_NO_DEADLINE_S)
            return arrival

    def _unheard(self, header: Header, parcel: Parcel) -> Arrival:
        """Return that a silo gives no answer; one that computed it computes it again."""
        if self._paid and (header.round, header.silo) in self._before.unheard:
            list(self._inner.exchange({header.silo: parcel}, deadline_s=_NO_DEADLINE_S))
        return Arrival(header.silo, None, not_connected(), 0.0)

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


def replays(rehearsed: Rehearsed, before: Ended, place: Path) -> Iterator[Ended]:
    """Run a rehearsed job again with the participation of a run; yield what it may come to.

    A record does not say whether a silo whose answer was late had computed it, and paid: where
    there is one, both are done.

    Args:
        rehearsed: the job and its silos; copies of these are asked.
        before: the run.
        place: a directory for it, which is gone afterwards.
    """
    for paid in (True, False) if before.unheard else (False,):
        yield _replay(rehearsed, before, place, paid=paid)


def _replay(rehearsed: Rehearsed, before: Ended, place: Path, *, paid: bool) -> Ended:
    """Run a rehearsed job again with the participation of a run, and return what it comes to.

    Args:
        rehearsed: the job and its silos; copies of these are asked.
        before: the run.
        place: a directory for it, which is gone afterwards.
        paid: whether silos whose answers were late had computed them.
    """
    key = Ed25519PrivateKey.generate()
    modules: Sequence[Path] = (rehearsed.file.parent,)
    job, run_id = rehearsed.job, uuid.uuid4().hex
    try:
        copies = {name: place / "silos" / name for name in rehearsed.silos}
        for name, directory in rehearsed.silos.items():
            copy_silo(directory, copies[name])
        hosts = acquainted(copies, place / "silos", key, tuple(modules))
        inner = LocalTransport({name: answerer(host) for name, host in hosts.items()})
        state: list[Any] = []

        def now() -> int:
            stands = state[0].state if state else None
            return 0 if stands is None else int(stands.round) + 1

        run = way_of(job).run(
            job,
            Contract.load(job.contract, search=list(modules)),
            Attended(inner, before, now, paid=paid),
            silos=tuple(copies),
            directory=place / run_id,
            run_id=run_id,
            key=key,
            parties={name: Party(host.signing_key) for name, host in hosts.items()},
            search_path=modules,
        )
        state.append(run)
        way_of(job).whole(run)
        return ended(place / run_id / "record.jsonl", copies)
    finally:
        shutil.rmtree(place, ignore_errors=True)
