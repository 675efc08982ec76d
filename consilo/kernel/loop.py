"""One loop that drives any protocol; no algorithm's name in it.

A protocol's coordinator half is a generator. The kernel takes the step it yields, carries it over
the transport, checks every answer against the verb's declaration, and sends the result back in. It
keeps no model: replies are handed on one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, MessagesLost, ReplyInvalid, UpdateRejected
from consilo.jobs.causes import BAD_UPDATE, FOR_GOOD
from consilo.jobs.job import Job
from consilo.jobs.quorum import Deadline
from consilo.kernel import brief
from consilo.kernel.federation import Federation
from consilo.kernel.headers import (
    MAX_LIFE_S,
    WIRE_VERSION,
    Header,
    Manifest,
    ReplyHeader,
    attests,
)
from consilo.kernel.owner import owner_told
from consilo.kernel.pace import Pace, kind_of
from consilo.kernel.protocol import Protocol
from consilo.kernel.standing import Held, Standing, from_word, to_attestations
from consilo.kernel.steps import (
    Answers,
    Ask,
    Checkpoint,
    Publish,
    Receive,
    Received,
    Reply,
    Send,
    Step,
    Stream,
)
from consilo.kernel.under_way import UnderWay
from consilo.kernel.updates import Updates
from consilo.kernel.verbs import Verb
from consilo.wire.parcel import Arrival, Fault, Parcel, Transport
from consilo.wire.payload import digest, pack_pieces, unpack

_MARGIN_S = 300.0  # clocks differ, and an answer that is late is still worth having
_AWAY = ("unreachable", "deadline")
"""Faults of a silo that was not heard: its node may be shut out, which the node cannot say."""
_UNSIGNED = "the reply is not signed by the silo's key"


@dataclass(frozen=True)
class Party:
    """How a silo signs, and what it speaks.

    Args:
        signing_key: the raw Ed25519 public key of its replies in hexadecimal; empty where the silo
            does not sign: in a simulation, or because it speaks wire version 1.
        wire: the newest wire version that both sides speak.
    """

    signing_key: str = ""
    wire: int = WIRE_VERSION


@dataclass(frozen=True)
class Exchange:
    """One silo's part in one step: the participation record's row.

    Args:
        round: 1, 2, … within training; 0 outside.
        protocol: its name.
        verb: what was asked.
        silo: who was asked.
        fault: why there is no valid answer, else None.
        bytes_down: size of the request, as serialised.
        bytes_up: size of the reply, as serialised.
        seconds: from sending to arrival.
        silo_seconds: the silo's own computing time.
        reply: what the reply says of itself, where there is one that holds what it must.
    """

    round: int
    protocol: str
    verb: str
    silo: str
    fault: Fault | None
    bytes_down: int
    bytes_up: int
    seconds: float
    silo_seconds: float
    reply: ReplyHeader | None = None


class Kernel:
    """Carries a protocol's steps over a transport.

    Args:
        transport: moves the parcels.
        run_id: the run; step ids depend on it.
        job: travels with every request.
        contract: travels with every request.
        observe: called with every `Exchange`, in the order of arrival.
        publish: called with every `Publish`.
        key: signs the requests to silos that are in ``parties``.
        bundle: SHA-256 of the code that silos execute; empty in process.
        parties: silo → how it signs and what it speaks; a silo that is not in it is simulated:
            nobody signs.
        head: gives the hash of the newest line of the run record.
        newest: gives the header of the newest reply that a silo signed in any run, if known.
        owner: gives the number of the process that owns the run; see `consilo.kernel.owner`.
        now: the time in seconds since 1970.
        pace: how long answers took, in this run and in those before.
        updates: judges the updates that silos answer.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        run_id: str,
        job: Job,
        contract: Contract,
        observe: Callable[[Exchange], None],
        publish: Callable[[Publish], None] = lambda _: None,
        key: Ed25519PrivateKey | None = None,
        bundle: str = "",
        parties: Mapping[str, Party] | None = None,
        head: Callable[[], str] = lambda: "",
        newest: Callable[[str], Mapping[str, Any] | None] = lambda _: None,
        owner: Callable[[], int] = lambda: 0,
        now: Callable[[], float] = time.time,
        pace: Pace | None = None,
        updates: Updates | None = None,
    ) -> None:
        self._transport = transport
        self._run_id = run_id
        self._job = job
        self._key = key
        self._parties = dict(parties or {})
        self._head = head
        self._newest = newest
        self._owner = owner
        self._now = now
        self.manifest = Manifest.of(run_id, job, contract, bundle)
        self._attestations: dict[str, str] = {}
        self._standings: dict[str, Standing] = {}
        self._held: dict[str, dict[str, Held]] = {}  # of a silo's log, by who holds it
        self._common = {"job": job.to_json(), "contract": contract.to_json()}
        self._briefed: set[str] = set()
        self._observe = observe
        self._publish = publish
        self._pace = Pace() if pace is None else pace
        self._updates = Updates() if updates is None else updates
        self._like = kind_of(job)

    def drive(
        self, name: str, protocol: Protocol[Any], fed: Federation, state: Any
    ) -> Generator[Checkpoint, None, Any]:
        """Run ``protocol`` from ``state``; yield at every checkpoint, return the final state.

        Step ids count from the last checkpoint, so that a run resumed from it asks the same ids and
        every silo answers the same bytes.

        Args:
            name: the protocol's name in `consilo.protocols.NAMES`, or its dotted path.
            protocol: its coordinator half.
            fed: who may take part.
            state: where to start; has ``round``, the number of rounds that are done. None for a
                protocol without rounds, whose steps all belong to round 0.

        Raises:
            RunFailed: where a step's quorum is not met; its class is the cause.
            RunCancelled: from the transport.
        """
        generator = protocol.coordinate(fed, state)
        done, index, result = 0 if state is None else int(state.round), 0, None
        in_rounds = state is not None
        under_way: UnderWay[_Came] = UnderWay()
        del state  # the first model would stay for as long as the run
        while True:
            try:
                step = generator.send(result)
            except StopIteration as stop:
                return stop.value
            result = None
            if isinstance(step, Checkpoint):
                done, index = int(step.state.round), 0
                yield step
            elif isinstance(step, Publish):
                self._publish(step)
            else:
                current = done + 1 if in_rounds else 0
                place = _Place(name, protocol, round=current, index=index)
                result = self._carry(step, place, fed, under_way)
                index += 1
            del step

    def run(self, name: str, protocol: Protocol[Any], fed: Federation, state: Any = None) -> Any:
        """Run ``protocol`` to its end, past any checkpoint, and return its final state."""
        driven = self.drive(name, protocol, fed, state)
        while True:
            try:
                next(driven)
            except StopIteration as stop:
                return stop.value

    def _carry(self, step: Step, place: _Place, fed: Federation, under_way: UnderWay[_Came]) -> Any:
        if isinstance(step, Receive):
            return self._receive(step, place, fed, under_way)
        if isinstance(step, Send):
            return self._send(step, replace(place, round=step.round, index=0), fed, under_way)
        if isinstance(step, Stream):
            return self._replies(step, place, fed)
        if isinstance(step, Ask):
            return self._answers(step, place, fed)
        raise TypeError(f"a protocol yielded {type(step).__name__}, which is no step")

    def _answers(self, step: Ask, place: _Place, fed: Federation) -> Answers:
        missing: dict[str, Fault] = {}
        replies = {each.silo: each for each in self._replies(step, place, fed, missing)}
        return Answers(replies, missing)

    def _replies(
        self, step: Ask, place: _Place, fed: Federation, missing: dict[str, Fault] | None = None
    ) -> Iterator[Reply]:
        """Yield the valid replies of one ask, in the order of its members; then hold the quorum."""
        verb = place.protocol.verbs()[step.verb]
        deadline = fed.job.deadline if step.deadline_s is None else Deadline(step.deadline_s)
        faults: dict[str, Fault] = {} if missing is None else missing
        faults |= self._too_old(step.members)
        answered: list[str] = []
        paces = {name: self._pace_of(name, step, place) for name in step.members}
        deadline_s = deadline.seconds({n: self._pace.times(each) for n, each in paces.items()})
        faults |= self._brief(step, place, fed, without=faults)
        for name in [each for each in step.members if each in faults]:
            self._note_unasked(name, faults[name], step, place)
        parcels = self._parcels(step, place, deadline_s, without=faults)
        for arrival in self._exchange(parcels, step, place, fed, deadline_s):
            reply, fault, header = self._open(arrival, verb, step, parcels[arrival.silo])
            if fault is not None and fault.code in _AWAY and (why := fed.standing(arrival.silo)):
                fault = Fault(fault.code, why)
            self._note(arrival, header, fault, parcels[arrival.silo], step, place)
            if reply is None:
                faults[arrival.silo] = fault or Fault("failed", "no answer")
                continue
            answered.append(arrival.silo)
            self._pace.note(paces[arrival.silo], arrival.seconds)
            yield reply
            del arrival, reply  # or it is held until the next one is here
        fed.said_no |= {name: each for name, each in faults.items() if each.code in FOR_GOOD}
        if step.quorum is not None:
            where = f"round {place.round}" if place.round else f"'{step.verb}' before the rounds"
            absent = fed.others(answered, faults)
            step.quorum.require(answered, missing=absent, num_examples=fed.rows, where=where)

    def _send(
        self, step: Send, place: _Place, fed: Federation, under_way: UnderWay[_Came]
    ) -> float:
        """Ask each member in a thread of its own; return for how long the slowest is waited for."""
        rule = fed.job.deadline if step.deadline_s is None else Deadline(step.deadline_s)
        history = {n: self._pace.times(self._pace_of(n, step, place)) for n in step.members}
        cohort, longest = step.cohort or step.members, 0.0
        for name in [each for each in step.members if each not in under_way]:
            seconds = rule.seconds({name: history[name]} if history[name] else history)
            longest = max(longest, seconds)
            own = replace(step, members=(name,), cohort=cohort)
            under_way.begin(name, partial(self._ask_one, own, place, fed, seconds * step.life))
        return longest

    def _ask_one(self, step: Send, place: _Place, fed: Federation, deadline_s: float) -> _Came:
        (name,) = step.members
        faults = self._too_old(step.members) or self._brief(step, place, fed)
        if faults:
            return _Came(step, place, Arrival(name, None, faults[name], 0.0), None)
        parcels = self._parcels(step, place, deadline_s)
        (arrival,) = self._exchange(parcels, step, place, fed, deadline_s)
        return _Came(step, place, arrival, parcels[name])

    def _receive(
        self, step: Receive, place: _Place, fed: Federation, under_way: UnderWay[_Came]
    ) -> Received | None:
        """Take what came next; it is noted in the round that it came in."""
        came = under_way.take(step.seconds)
        if came is None:
            return None
        asked, arrival, request = came.step, came.arrival, came.request
        noted = replace(came.place, round=place.round)
        if request is None:
            fault = arrival.fault or Fault("failed", "no answer")
            self._note_unasked(arrival.silo, fault, asked, noted)
            return Received(arrival.silo, None, fault)
        verb = noted.protocol.verbs()[asked.verb]
        reply, found, header = self._open(arrival, verb, asked, request)
        if found is not None and found.code in _AWAY and (why := fed.standing(arrival.silo)):
            found = Fault(found.code, why)
        self._note(arrival, header, found, request, asked, noted)
        if reply is None:
            return Received(arrival.silo, None, found or Fault("failed", "no answer"))
        self._pace.note(self._pace_of(arrival.silo, asked, noted), arrival.seconds)
        return Received(arrival.silo, reply, None)

    def _pace_of(self, silo: str, step: Ask, place: _Place) -> str:
        return f"{silo}|{place.name}.{step.verb}|{self._like}"

    def _too_old(self, members: Sequence[str]) -> dict[str, Fault]:
        """Return who would not understand this job, and why; they are not asked."""
        young = self._job.young_keys()
        faults = {}
        for name in [each for each in members if each in self._parties]:
            unknown = [key for key, since in young.items() if self._wire(name) < since]
            if unknown:
                reason = f"the job says '{unknown[0]}', which the silo's release does not know"
                faults[name] = Fault("version", f"{reason}; upgrade Consilo there")
        return faults

    def _brief(
        self,
        step: Ask,
        place: _Place,
        fed: Federation,
        *,
        without: Container[str] = (),
        index: int = 0,
    ) -> dict[str, Fault]:
        """Hand job and contract to those who lack them; return who did not take them, and why."""
        told = [
            name
            for name in step.members
            if name not in without
            and name not in self._briefed
            and self._wire(name) >= brief.SINCE_WIRE
        ]
        if not told or place.name == brief.BRIEF:
            return {}
        cohort = step.cohort or step.members
        own = {
            name: {brief.NEWEST: known}
            for name in told
            if (known := self._newest(name)) is not None
        }
        asked = Ask(told, brief.BRIEF, {}, own, deadline_s=step.deadline_s, cohort=cohort)
        where = _Place(brief.BRIEF, brief.Brief(), round=0, index=index)
        answers = self._answers(asked, where, fed)
        self._briefed |= set(answers.replies)
        return dict(answers.missing)

    def _exchange(
        self,
        parcels: Mapping[str, Parcel],
        step: Ask,
        place: _Place,
        fed: Federation,
        deadline_s: float,
    ) -> Iterator[Arrival]:
        """Yield what arrives; a silo that has lost job and contract is briefed and asked again."""
        for arrival in self._sent(parcels, step, place, deadline_s):
            if not self._is_unbriefed(arrival):
                yield arrival
                continue
            self._briefed.discard(arrival.silo)
            again = replace(step, members=(arrival.silo,), cohort=step.cohort or step.members)
            # Under an index of its own, or the silo would answer from memory and keep nothing.
            if self._brief(again, place, fed, index=int(self._now())):
                yield arrival
                continue
            parcel = {arrival.silo: parcels[arrival.silo]}
            yield from self._sent(parcel, again, place, deadline_s)

    def _sent(
        self, parcels: Mapping[str, Parcel], step: Ask, place: _Place, deadline_s: float
    ) -> Iterator[Arrival]:
        """Yield what arrives; what is lost on the way is asked again, as often as it is lost.

        A silo that had answered already answers the same bytes, and pays nothing twice.
        """
        left = dict(parcels)
        while left:
            try:
                for arrival in self._transport.exchange(dict(left), deadline_s=deadline_s):
                    del left[arrival.silo]
                    yield arrival
                return
            except MessagesLost:
                again = replace(step, members=tuple(left), cohort=step.cohort or step.members)
                left = self._parcels(again, place, deadline_s)

    def _is_unbriefed(self, arrival: Arrival) -> bool:
        if arrival.parcel is None or arrival.silo not in self._briefed:
            return False
        try:
            stated = ReplyHeader.decode(arrival.parcel.header)
            if stated.code != brief.UNBRIEFED:
                return False  # to hash its body and verify it is for whoever opens it
            self._authenticate(arrival.silo, stated, arrival.parcel)
        except ConsiloError:
            return False
        return True

    def _wire(self, name: str) -> int:
        """Return the wire version that a silo is spoken to; 0 for one that is simulated."""
        return self._parties[name].wire if name in self._parties else 0

    def _parcels(
        self, step: Ask, place: _Place, deadline_s: float, without: Container[str] = ()
    ) -> dict[str, Parcel]:
        now = self._now()
        cohort = tuple(step.cohort or step.members)
        header = Header(
            run_id=self._run_id,
            scope=f"{place.round}/{place.index}/{step.verb}",
            content="",
            round=place.round,
            silo="",
            protocol=place.name,
            verb=step.verb,
            cohort=cohort,
            manifest=self.manifest,
            attestations={n: w for n, w in dict(self._attestations).items() if n in cohort},
            issued=now,
            expires=now + min(deadline_s + _MARGIN_S, MAX_LIFE_S),
            head=self._head(),
        )
        parcels: dict[str, Parcel] = {}
        bodies: dict[bool, tuple[str, bytes]] = {}
        for name in [each for each in step.members if each not in without]:
            knows = place.name != brief.BRIEF and self._wire(name) >= brief.SINCE_WIRE
            if step.own or knows not in bodies:
                told = {} if knows else self._common
                own = {**step.payload, **step.own.get(name, {})}
                bodies[knows] = self._body({**told, "payload": own})
            content, body = bodies[knows]
            party = self._parties.get(name)
            mine = replace(header, silo=name, content=content)
            if party is not None:
                mine = replace(mine, wire=party.wire)
            if party is not None and party.wire >= 2 and self._key is not None:
                words = dict(mine.attestations)
                words |= to_attestations(
                    dict(self._standings), dict(self._held.get(name, {})), cohort
                )
                words |= owner_told(self._owner())
                mine = replace(mine, attestations=words).signed(self._key)
            parcels[name] = Parcel(mine.encode(), body)
        return parcels

    def _body(self, payload: Mapping[str, Any]) -> tuple[str, bytes]:
        """Return a request's body and its SHA-256; arrays are copied only where the transport must.

        A transport that sends a body piece by piece says ``takes_pieces``.
        """
        pieces = pack_pieces(payload)
        body = pieces if getattr(self._transport, "takes_pieces", False) else bytes(pieces)
        return digest(body), cast(bytes, body)

    def _open(
        self, arrival: Arrival, verb: Verb, step: Ask, request: Parcel
    ) -> tuple[Reply | None, Fault | None, ReplyHeader | None]:
        if arrival.parcel is None:
            return None, arrival.fault, None
        header = None
        try:
            stated = ReplyHeader.decode(arrival.parcel.header)
            self._authenticate(arrival.silo, stated, arrival.parcel)
            header = stated
            if header.status == "fault":
                return None, header.fault, header
            asked = Header.decode(request.header)
            if header.step_id != asked.step_id:
                raise ReplyInvalid("the reply answers another step than the one that was asked")
            fields = unpack(arrival.parcel.body)
            payload = {**step.payload, **step.own.get(arrival.silo, {})}
            verb.check(fields, payload)
            self._updates.require_like(
                verb,
                fields,
                payload,
                silo=arrival.silo,
                round=asked.round,
                step=asked.scope.split("/")[1],
            )
        except UpdateRejected as cause:
            return None, Fault(BAD_UPDATE, str(cause)), header
        except ConsiloError as cause:
            return None, Fault("invalid_reply", str(cause)), header
        return Reply(arrival.silo, fields, header.seconds), None, header

    def _authenticate(self, silo: str, header: ReplyHeader, parcel: Parcel) -> None:
        """Raise `ReplyInvalid` unless a reply is the silo's own, whole, and of this run."""
        if header.silo != silo:
            raise ReplyInvalid("the reply names another silo than the one that sent it")
        party = self._parties.get(silo)
        if party is None or not party.signing_key:
            return
        if not header.is_signed_by(party.signing_key):
            raise ReplyInvalid(_UNSIGNED)
        if header.content != digest(parcel.body):
            raise ReplyInvalid("the reply's body is not the one that its header names")
        word, standing, held = from_word(header.attestation)
        if word:
            if not attests(party.signing_key, self.manifest, silo, word):
                raise ReplyInvalid("the reply attests to another run")
            self._attestations[silo] = word
        if standing is not None:
            self._standings[silo] = standing
        for name in held.keys() & self._parties.keys():
            self._held.setdefault(name, {})[silo] = held[name]

    def _note_unasked(self, silo: str, fault: Fault, step: Ask, place: _Place) -> None:
        """Tell of a silo that the step was to be asked of, and why it was not."""
        self._observe(Exchange(place.round, place.name, step.verb, silo, fault, 0, 0, 0.0, 0.0))

    def _note(
        self,
        arrival: Arrival,
        header: ReplyHeader | None,
        fault: Fault | None,
        request: Parcel,
        step: Ask,
        place: _Place,
    ) -> None:
        self._observe(
            Exchange(
                round=place.round,
                protocol=place.name,
                verb=step.verb,
                silo=arrival.silo,
                fault=fault,
                bytes_down=request.num_bytes,
                bytes_up=0 if arrival.parcel is None else arrival.parcel.num_bytes,
                seconds=arrival.seconds,
                silo_seconds=0.0 if header is None or fault is not None else header.seconds,
                reply=header,
            )
        )


@dataclass(frozen=True)
class _Place:
    """Where in the run a step stands."""

    name: str
    protocol: Protocol[Any]
    round: int
    index: int


@dataclass(frozen=True)
class _Came:
    """What came of one `Send` to one silo; ``request`` is None where it was not even asked."""

    step: Send
    place: _Place
    arrival: Arrival
    request: Parcel | None
