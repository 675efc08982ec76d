"""The silo half of the kernel: one request parcel in, one reply parcel out, never an exception."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from consilo.contracts.contract import Contract
from consilo.errors import (
    BudgetExhausted,
    ConsiloError,
    InvalidInput,
    ModelDiverged,
    Refused,
    ReplyInvalid,
    SchemaDrift,
    SourceUnreadable,
    VersionUnsupported,
)
from consilo.jobs.job import Job
from consilo.kernel.brief import UNBRIEFED, briefed
from consilo.kernel.headers import WIRE_VERSION, Header, ReplyHeader
from consilo.kernel.protocol import Protocol
from consilo.kernel.roles import SiloHost
from consilo.kernel.verbs import Asked, Verb
from consilo.kernel.view import Message, SiloView
from consilo.learners.threads import computing
from consilo.protocols.names import asked_of, declaration_of, find_protocol
from consilo.wire.parcel import Answer, Fault, Parcel
from consilo.wire.payload import digest, pack, unpack

log = logging.getLogger(__name__)

_DISCLOSED: dict[type[ConsiloError], str] = {
    SchemaDrift: "contract",
    BudgetExhausted: "budget_exhausted",
    ModelDiverged: "diverged",
    VersionUnsupported: "version",
}
"""Errors whose own words may travel: they are made of declared names and counts only."""


def answerer(host: SiloHost, *, clock: Callable[[], float] = time.perf_counter) -> Answer:
    """Return the function that answers requests on behalf of ``host``."""

    def answer(parcel: Parcel) -> Parcel:
        started = clock()
        header: Header | None = None
        try:
            header = Header.decode(parcel.header)
            host.gate.verify(header)
            known = host.memory.remembered(header.step_id)
            question = _question(header, parcel.body, host, again=known is not None)
            if known is not None:
                host.gate.repeated(header, None if question is None else question.told)
                host.account.settle(header.step_id)
                return known
            assert question is not None
            fields, is_private = question.run(host)
            body = pack(fields)
            seconds = clock() - started
            reply = ReplyHeader(
                header.step_id,
                host.name,
                "ok",
                seconds=coarse_seconds(seconds) if is_private else round(seconds, 3),
                content=digest(body),
                manifest=header.manifest.digest,
                wire=header.wire,
            )
            made = Parcel(host.gate.sign(header, reply, fields).encode(), body)
            host.memory.remember(header.step_id, made)
            host.account.settle(header.step_id)
            return made
        except Exception as cause:  # the boundary: nothing but a declared fault may leave
            fault = disclose(cause)
            step = "" if header is None else header.step_id
            said = "step %s: answered with the fault '%s': %s"
            if isinstance(cause, Refused):  # a decision, which needs no traceback
                log.warning(said, step, fault.code, cause)
            else:
                log.exception(said, step, fault.code, cause)
            return _refusal(host, header, fault)

    return answer


def _refusal(host: SiloHost, header: Header | None, fault: Fault) -> Parcel:
    """Return the signed parcel that says why there is no answer."""
    reply = ReplyHeader(
        "" if header is None else header.step_id,
        host.name,
        "fault",
        code=fault.code,
        reason=fault.reason,
        content=digest(b""),
        manifest="" if header is None else header.manifest.digest,
        wire=WIRE_VERSION if header is None else header.wire,
    )
    return Parcel(host.gate.sign(header, reply, {}).encode(), b"")


def disclose(cause: Exception) -> Fault:
    """Return what a silo says of an exception; the text of an unknown one stays in its log."""
    if isinstance(cause, Refused):
        told = cause.code if cause.code in ("bundle_not_approved", UNBRIEFED) else "refused"
        return Fault(told, str(cause))
    for kind, code in _DISCLOSED.items():
        if isinstance(cause, kind):
            return Fault(code, str(cause))
    if isinstance(cause, ReplyInvalid):  # names the fields, which a job's own code may have named
        return Fault(
            "invalid_reply",
            "what was asked, or would be answered, is not what was declared; the silo's log says",
        )
    if isinstance(cause, SourceUnreadable):
        return Fault("source", "the silo's data source cannot be read; its own log says why")
    if isinstance(cause, InvalidInput):
        return Fault("configuration", f"the silo's {cause.kind} is invalid; its own log says why")
    return Fault("failed", "the silo's computation failed; its own log says why")


def coarse_seconds(seconds: float) -> float:
    """Return a time as it is told where privacy is wanted: up to the next power of two, from 1 on.

    >>> [coarse_seconds(each) for each in (0.02, 1.0, 1.1, 300.0)]
    [1.0, 1.0, 2.0, 512.0]
    """
    return float(2 ** max(0, math.ceil(math.log2(max(seconds, 1.0)))))


@dataclass(frozen=True)
class _Question:
    """A request, read: what it is about, and the verb that answers it."""

    header: Header
    payload: Mapping[str, Any]
    job: Job
    contract: Contract
    kind: type[Protocol[Any]]
    verb: Verb

    @property
    def asked(self) -> Asked:
        """What the gate is told of it."""
        return asked_of(self.header.protocol, self.verb)

    @property
    def told(self) -> tuple[Job, Contract, Asked]:
        """What the gate is told of it where it is asked again."""
        return self.job, self.contract, self.asked

    def run(self, host: SiloHost) -> tuple[dict[str, Any], bool]:
        """Return the fields that leave, and whether the answer's time is told coarsely."""
        header, job = self.header, self.job
        permitted = host.gate.permit(header, job, self.contract, self.asked)
        protocol = self.kind.from_job(job)
        view = SiloView(host, job, self.contract, header, permitted)
        message = Message(self.payload, header.round, header.cohort)
        with computing(job.threads):
            found = dict(self.verb.function(protocol, view, message))
        # What is held back is not even checked: a verb of a bundle may have made it all the same.
        fields = {name: each for name, each in found.items() if view.admits(name)}
        self.verb.check(fields, self.payload)
        return fields, permitted.is_private or job.privacy is not None


def _question(header: Header, body: bytes, host: SiloHost, *, again: bool) -> _Question | None:
    """Return what is asked; None for a step asked again that discloses nothing, such as the end.

    Args:
        header: verified.
        body: as it came.
        host: whose bundle and whose memory of the run's job count.
        again: whether the step has its answer already.
    """
    if digest(body) != header.content:
        raise ReplyInvalid("the request's body is not the one its header names")
    kind = find_protocol(header.protocol, host.search_path)
    verb = kind.verbs().get(header.verb)
    if verb is None:
        raise Refused(f"protocol '{header.protocol}' has no verb '{header.verb}'", code="verb")
    if again and not verb.replies:
        return None
    content = unpack(body)
    told = content if "job" in content else briefed(host, header.manifest)
    job = Job.from_json(told["job"])
    if declaration_of(header.protocol).only_by_its_job and header.protocol != job.algorithm:
        raise Refused(
            f"the job is one of {job.algorithm}, in which '{header.protocol}' is not asked",
            code="verb",
        )
    contract = Contract.from_json(told["contract"])
    return _Question(header, content["payload"], job, contract, kind, verb)
