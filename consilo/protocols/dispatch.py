"""The silo half of the kernel: one request parcel in, one reply parcel out, never an exception."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from consilo.contracts.contract import Contract
from consilo.errors import (
    BudgetExhausted,
    ConsiloError,
    ContractInvalid,
    InvalidInput,
    JobInvalid,
    ModelDiverged,
    Refused,
    ReplyInvalid,
    SchemaDrift,
    SourceUnreadable,
    VersionUnsupported,
)
from consilo.jobs.causes import DISK_FULL, TOO_FEW_ROWS
from consilo.jobs.job import Job
from consilo.kernel.brief import SINCE_WIRE, UNBRIEFED, briefed
from consilo.kernel.headers import WIRE_VERSION, Header, ReplyHeader
from consilo.kernel.roles import Apart, SiloHost
from consilo.kernel.verbs import Asked, Disclosure, Field, Permitted, Verb, unread
from consilo.kernel.view import Message, SiloView
from consilo.learners.threads import computing
from consilo.machine.files import is_full
from consilo.protocols.names import NAMES, asked_of, declaration_of, find_protocol
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
_TOLD = {
    **{each: each for each in ("bundle_not_approved", UNBRIEFED)},
    **dict.fromkeys(("group", "intersection", "set_size"), TOO_FEW_ROWS),
}
"""A refusal's rule → the code that travels with its words; of any other it is ``refused``."""


@dataclass(frozen=True)
class Question:
    """What a verb is asked, once the gate has judged it.

    Args:
        header: the request's.
        job: as its manifest names it.
        contract: as its manifest names it.
        payload: what the coordinator half sent.
        permitted: what the gate keeps back of it, and its floors.
    """

    header: Header
    job: Job
    contract: Contract
    payload: Mapping[str, Any]
    permitted: Permitted = field(default_factory=Permitted)


class Elsewhere(Protocol):
    """Runs a job's own code in other processes."""

    def compute(
        self, question: Question, host: SiloHost
    ) -> tuple[Mapping[str, Any], Mapping[str, Field]]:
        """Return a whole answer that was made there: its fields, and what these declare."""
        ...

    def apart(self, question: Question) -> AbstractContextManager[Apart]:
        """Give processes of which each sees the rows of one unit only."""
        ...


_MOST_FIELDS = 64
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def answerer(
    host: SiloHost,
    *,
    elsewhere: Elsewhere | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Answer:
    """Return the function that answers requests on behalf of ``host``.

    Args:
        host: the silo.
        elsewhere: computes what runs code of the job's own; None computes all of it here.
        clock: seconds, of any origin.
    """

    def answer(parcel: Parcel) -> Parcel:
        started = clock()
        header: Header | None = None
        verified: Header | None = None
        try:
            header = Header.decode(parcel.header)
            host.gate.verify(header)
            verified = header
            known = host.memory.remembered(header.step_id)
            if known is not None:
                host.gate.repeated(header, _told_again(header, parcel.body, host))
                host.account.settle(header.step_id)
                return known
            question = _question(header, parcel.body, host)
            fields, is_private = _run(question, host, elsewhere)
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
            # The code is part of the text: lines of one code are alike where a log is bounded.
            code = fault.code.replace("%", "%%")
            said = f"answered with the fault '{code}': step %s: %s"
            if isinstance(cause, Refused):  # a decision, which needs no traceback
                log.warning(said, step, cause)
            elif fault.code == DISK_FULL:
                log.error(f"{said}; make room, the step is asked again", step, cause)
            else:
                log.exception(said, step, cause)
            return _refusal(host, header, verified, fault)

    return answer


def _refusal(
    host: SiloHost, header: Header | None, verified: Header | None, fault: Fault
) -> Parcel:
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
    return Parcel(host.gate.sign(verified, reply, {}).encode(), b"")


def disclose(cause: Exception) -> Fault:
    """Return what a silo says of an exception; the text of an unknown one stays in its log."""
    if isinstance(cause, Refused):
        return Fault(_TOLD.get(cause.code, "refused"), str(cause))
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
    is_the_silos = not isinstance(cause, ContractInvalid | JobInvalid)
    if isinstance(cause, InvalidInput) and is_the_silos:
        return Fault("configuration", f"the silo's {cause.kind} is invalid; its own log says why")
    if is_full(cause):
        return Fault(DISK_FULL, "the silo's disk is full; its people have to make room")
    return Fault("failed", "the silo's computation failed; its own log says why")


def coarse_seconds(seconds: float) -> float:
    """Return a time as it is told where privacy is wanted: up to the next power of two, from 1 on.

    >>> [coarse_seconds(each) for each in (0.02, 1.0, 1.1, 300.0)]
    [1.0, 1.0, 2.0, 512.0]
    """
    return float(2 ** max(0, math.ceil(math.log2(max(seconds, 1.0)))))


def _question(header: Header, body: bytes, host: SiloHost) -> Question:
    """Return what is asked.

    Args:
        header: verified.
        body: as it came.
        host: whose memory of the run's job counts.
    """
    if digest(body) != header.content:
        raise ReplyInvalid("the request's body is not the one its header names")
    content = unpack(body)
    if header.wire < SINCE_WIRE and "job" not in content:
        # Such a step is named by its body alone: told by the run, it would be one for two jobs.
        raise ReplyInvalid("a request of this wire version brings job and contract in its body")
    if "job" in content:
        job, contract = Job.from_json(content["job"]), Contract.from_json(content["contract"])
    else:
        job, contract = briefed(host, header.manifest)
    if declaration_of(header.protocol).only_by_its_job and header.protocol != job.algorithm:
        raise Refused(
            f"the job is one of {job.algorithm}, in which '{header.protocol}' is not asked",
            code="verb",
        )
    return Question(header, job, contract, content["payload"])


def _told_again(header: Header, body: bytes, host: SiloHost) -> tuple[Job, Contract, Asked] | None:
    """Return what the gate is told of a step asked again; None where it discloses nothing."""
    asked, _ = _asked(header, host)
    if not asked.fields:  # such as the end of a run, whose job is forgotten by then
        return None
    question = _question(header, body, host)
    return question.job, question.contract, asked


def _asked(header: Header, host: SiloHost) -> tuple[Asked, Verb | None]:
    """Return what the gate is told of a verb, and the verb.

    Code of a bundle is imported only once the gate has judged the most that it may let leave: then
    there is no verb yet.
    """
    classes = None if header.protocol in NAMES else host.code_classes
    if classes is not None:
        return unread(header.verb, classes), None
    verb = verb_of(header, host)
    return asked_of(header.protocol, verb), verb


def _run(
    question: Question, host: SiloHost, elsewhere: Elsewhere | None
) -> tuple[dict[str, Any], bool]:
    """Return the fields that leave, and whether the answer's time is told coarsely."""
    header, job = question.header, question.job
    asked, verb = _asked(header, host)
    permitted = host.gate.permit(header, job, question.contract, asked)
    question = replace(question, permitted=permitted)
    is_private = permitted.is_private or job.privacy is not None
    is_ours, is_plain = header.protocol in NAMES, False
    try:
        kind = find_protocol(header.protocol) if is_ours else None
        wants_privacy = permitted.wants_privacy or job.privacy is not None
        if elsewhere is None or (kind is not None and not kind.runs_job_code):
            is_plain = is_ours
            verb = verb or verb_of(header, host)
            _refuse_more(verb.disclosures, asked)
            fields = compute(verb, question, host)
        elif kind is not None and (wants_privacy or kind.decides) and kind.asks_apart:
            verb = verb or verb_of(header, host)
            with elsewhere.apart(question) as apart:
                fields = compute(verb, question, host, apart)
        elif kind is not None and wants_privacy and asked.fields:
            raise Refused(
                f"'{header.protocol}' would compute with rows and a job's own code in one process, "
                "which could write rows into what is called private: use a bundle without modules "
                "of its own; an operator who trusts them may set 'sandbox: off' in policy.yaml",
                code="sandbox",
            )
        else:
            computed, declared = elsewhere.compute(question, host)
            verb = verb or _declared_elsewhere(header.verb, declared)
            _refuse_more(verb.disclosures, asked)
            fields = _admitted(computed, permitted)
        verb.check(fields, question.payload)
        size = verb.named_bytes(fields) if is_ours else verb.unsized_bytes(fields)
        _refuse_large(size, permitted.unsized_bytes)
    except (BudgetExhausted, Refused):  # judged by numbers of rows and by the ledger
        raise
    except Exception as cause:
        # Our own code writes as much whatever the rows are: that there is no room tells of none.
        if not is_private or (is_plain and is_full(cause)):
            raise
        # What went wrong, and where, is computed from rows: it is not covered by ε.
        raise ConsiloError("under differential privacy no reason leaves") from cause
    return fields, is_private


def _admitted(fields: Mapping[str, Any], permitted: Permitted) -> dict[str, Any]:
    """Return the fields that the silo does not keep back; a bundle may have made them all."""
    return {name: each for name, each in fields.items() if name not in permitted.withheld}


def _declared_elsewhere(name: str, declared: Mapping[str, Field]) -> Verb:
    """Return a verb as the process that answered says that it is declared.

    Raises:
        ReplyInvalid: where its fields are too many, or their names none.
    """
    if len(declared) > _MOST_FIELDS or not all(_FIELD.fullmatch(each) for each in declared):
        raise ReplyInvalid(f"a verb has {_MOST_FIELDS} fields at most, whose names are identifiers")

    def answered(*_: Any) -> Mapping[str, Any]:
        raise AssertionError("it is computed elsewhere")

    return Verb(name, declared, answered)


def _refuse_large(size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise ReplyInvalid(
            f"fields without a declared size have {size} bytes; this silo's policy lets {most} "
            "leave (limits.unsized_kib). What is as large as a part of the request is declared so: "
            "tensors(like=…)"
        )


def _refuse_more(declared: frozenset[Disclosure], asked: Asked) -> None:
    more = sorted(declared - asked.disclosures)
    if more:
        raise Refused(
            f"'{asked.name}' discloses '{more[0]}', which its bundle does not declare",
            code="disclosure",
        )


def compute(
    verb: Verb, question: Question, host: SiloHost, apart: Apart | None = None
) -> dict[str, Any]:
    """Return the fields with which a verb answers, not checked yet."""
    header, job = question.header, question.job
    protocol = find_protocol(header.protocol, host.search_path).from_job(job)
    view = SiloView(host, job, question.contract, header, question.permitted, apart)
    message = Message(question.payload, header.round, header.cohort)
    with computing(job.threads):
        fields = verb.function(protocol, view, message)
    return _admitted(fields, question.permitted)


def verb_of(header: Header, host: SiloHost) -> Verb:
    """Return the verb that a request names.

    Raises:
        Refused: where its protocol has none of that name.
    """
    verb = find_protocol(header.protocol, host.search_path).verbs().get(header.verb)
    if verb is None:
        raise Refused(f"protocol '{header.protocol}' has no verb '{header.verb}'", code="verb")
    return verb
