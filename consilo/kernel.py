"""One loop that drives any protocol; no algorithm's name in it.

A protocol's coordinator half is a generator. The kernel takes the step it yields, carries it over
the transport, checks every answer against the verb's declaration, and sends the result back in. It
keeps no model: replies are handed on one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from consilo.cohorts import Deadline
from consilo.contract import Contract
from consilo.errors import ConsiloError, ReplyInvalid
from consilo.job import Job
from consilo.parcel import Arrival, Fault, Parcel, Transport
from consilo.protocol import Protocol, Verb
from consilo.steps import Answers, Ask, Checkpoint, Publish, Relay, Reply, Step, Stream
from consilo.wire import Header, ReplyHeader, digest, pack_pieces, unpack


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


@dataclass
class Federation:
    """What a protocol's coordinator half sees of the silos.

    Args:
        silos: everybody who may take part, sorted; the kernel's caller narrows it.
        job: what is being run.
        contract: what the silos' data obey.
        num_examples: silo → training rows, as far as known; quorum by data share uses it.
        online: who can be asked now.
    """

    silos: tuple[str, ...]
    job: Job
    contract: Contract
    online: Callable[[], Sequence[str]]
    num_examples: dict[str, int] = field(default_factory=dict)

    def cohort(self) -> tuple[str, ...]:
        """Return who may take part and is connected now, in a fixed order."""
        connected = set(self.online())
        return tuple(name for name in self.silos if name in connected)


class Kernel:
    """Carries a protocol's steps over a transport.

    Args:
        transport: moves the parcels.
        run_id: the run; step ids depend on it.
        job: travels with every request.
        contract: travels with every request.
        observe: called with every `Exchange`, in the order of arrival.
        publish: called with every `Publish`.
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
    ) -> None:
        self._transport = transport
        self._run_id = run_id
        self._job = job
        self._common = {"job": job.to_json(), "contract": contract.to_json()}
        self._observe = observe
        self._publish = publish
        self._history: dict[tuple[str, str], list[float]] = {}

    def drive(
        self, name: str, protocol: Protocol, fed: Federation, state: Any
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
            QuorumLost: where a step's quorum is not met.
            RunCancelled: from the transport.
        """
        generator = protocol.coordinate(fed, state)
        done, index, result = 0 if state is None else int(state.round), 0, None
        in_rounds = state is not None
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
                result = self._carry(step, place, fed)
                index += 1
            del step

    def run(self, name: str, protocol: Protocol, fed: Federation, state: Any = None) -> Any:
        """Run ``protocol`` to its end, past any checkpoint, and return its final state."""
        driven = self.drive(name, protocol, fed, state)
        while True:
            try:
                next(driven)
            except StopIteration as stop:
                return stop.value

    def _carry(self, step: Step, place: _Place, fed: Federation) -> Any:
        if isinstance(step, Stream):
            return self._replies(step, place, fed)
        if isinstance(step, Ask):
            return self._answers(step, place, fed)
        if isinstance(step, Relay):
            return self._relay(step, place, fed)
        raise TypeError(f"a protocol yielded {type(step).__name__}, which is no step")

    def _answers(self, step: Ask, place: _Place, fed: Federation) -> Answers:
        missing: dict[str, Fault] = {}
        replies = {each.silo: each for each in self._replies(step, place, fed, missing)}
        return Answers(replies, missing)

    def _relay(self, step: Relay, place: _Place, fed: Federation) -> Answers:
        sending = Ask(step.members, step.send, step.payload, {}, step.quorum, step.deadline_s)
        sent = self._answers(sending, place, fed)
        inbox: dict[str, dict[str, Any]] = {name: {} for name in step.members}
        for sender, reply in sent.replies.items():
            for receiver, envelope in reply.fields["envelopes"].items():
                if receiver in inbox:
                    inbox[receiver][sender] = envelope
        own = {name: {"envelopes": letters} for name, letters in inbox.items()}
        receiving = Ask(step.members, step.receive, {}, own, step.quorum, step.deadline_s)
        return self._answers(receiving, place, fed)

    def _replies(
        self, step: Ask, place: _Place, fed: Federation, missing: dict[str, Fault] | None = None
    ) -> Iterator[Reply]:
        """Yield the valid replies of one ask, in the order of its members; then hold the quorum."""
        verb = place.protocol.verbs()[step.verb]
        parcels = self._parcels(step, place)
        history = self._history.setdefault((place.name, step.verb), [])
        deadline = fed.job.deadline if step.deadline_s is None else Deadline(step.deadline_s)
        faults: dict[str, Fault] = {} if missing is None else missing
        answered: list[str] = []
        times: list[float] = []
        arrivals = self._transport.exchange(parcels, deadline_s=deadline.seconds(history))
        for arrival in arrivals:
            reply, fault = self._open(arrival, verb, step, parcels[arrival.silo])
            self._note(arrival, reply, fault, parcels[arrival.silo], step, place)
            if reply is None:
                faults[arrival.silo] = fault or Fault("failed", "no answer")
                continue
            answered.append(arrival.silo)
            times.append(arrival.seconds)
            yield reply
            del arrival, reply  # or it is held until the next one is here
        history.extend(times)
        if step.quorum is not None:
            where = f"round {place.round}" if place.round else f"'{step.verb}' before the rounds"
            reasons = {name: f"{fault.code}: {fault.reason}" for name, fault in faults.items()}
            connected = set(fed.online())
            for name in fed.silos:
                if name not in answered and name not in reasons:
                    reasons[name] = "not asked" if name in connected else "not connected"
            step.quorum.require(
                answered, missing=reasons, num_examples=fed.num_examples, where=where
            )

    def _parcels(self, step: Ask, place: _Place) -> dict[str, Parcel]:
        header = Header(
            run_id=self._run_id,
            scope=f"{place.round}/{place.index}/{step.verb}",
            content="",
            round=place.round,
            silo="",
            protocol=place.name,
            verb=step.verb,
            cohort=tuple(step.members),
        )
        parcels: dict[str, Parcel] = {}
        for name in step.members:
            if step.own or not parcels:
                own = {**step.payload, **step.own.get(name, {})}
                content, body = self._body({**self._common, "payload": own})
            parcels[name] = Parcel(replace(header, silo=name, content=content).encode(), body)
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
    ) -> tuple[Reply | None, Fault | None]:
        if arrival.parcel is None:
            return None, arrival.fault
        try:
            header = ReplyHeader.decode(arrival.parcel.header)
            if header.silo != arrival.silo:
                raise ReplyInvalid("the reply names another silo than the one that sent it")
            if header.status == "fault":
                return None, Fault(header.code or "failed", header.reason)
            if header.step_id != Header.decode(request.header).step_id:
                raise ReplyInvalid("the reply answers another step than the one that was asked")
            fields = unpack(arrival.parcel.body)
            verb.check(fields, {**step.payload, **step.own.get(arrival.silo, {})})
        except ConsiloError as cause:
            return None, Fault("invalid_reply", str(cause))
        return Reply(arrival.silo, fields, header.seconds), None

    def _note(
        self,
        arrival: Arrival,
        reply: Reply | None,
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
                silo_seconds=0.0 if reply is None else reply.seconds,
            )
        )


@dataclass(frozen=True)
class _Place:
    """Where in the run a step stands."""

    name: str
    protocol: Protocol
    round: int
    index: int
