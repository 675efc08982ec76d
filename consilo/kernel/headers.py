"""What a request and a reply say of themselves, in canonical JSON, signed.

Wire version 3: job and contract travel once a run (`consilo.kernel.brief`). In version 2 they are
in every request's body. Version 1 has neither signatures nor a manifest; a coordinator still speaks
it to a silo that knows nothing newer; a silo answers it where its policy allows unsigned requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.errors import ReplyInvalid, VersionUnsupported
from consilo.jobs.job import Job
from consilo.printable import is_plain, printable
from consilo.wire.json_text import read_json
from consilo.wire.parcel import Fault, Parcel
from consilo.wire.payload import canonical_json, digest
from consilo.wire.signing import is_signed, sign

WIRE_VERSION = 3
WIRE_VERSIONS = (1, 2, 3)
"""What this release speaks: its own version and those before."""

MAX_LIFE_S = 24 * 3600.0
"""How long a request may be answered; a silo takes none that was signed for longer."""
MAX_HEADER_BYTES = 1024 * 1024
"""Of a request: a cohort of thousands with their attestations."""
_MAX_CODE = 40
_MAX_REASON = 2000
_MAX_NAMES = 10_000
_MAX_NAME = 64
_MAX_REPLY_BYTES = 256 * 1024
_MOST = {
    "run_id": 128,
    "scope": 200,
    "content": 64,
    "silo": _MAX_NAME,
    "protocol": 200,
    "verb": _MAX_NAME,
    "head": 64,
    "signature": 128,
}
"""Characters of a request's texts, all of which must be printable."""
_MOST_OF_RUN = {
    "run_id": 128,
    "job": _MAX_NAME,
    "job_digest": 64,
    "contract": 128,
    "contract_digest": 64,
    "purpose": _MAX_NAME,
    "bundle": 64,
}
_MAX_WORD = 128
"""Characters of an attestation: a signature."""
_ATTENDS = "attends"
_NOT_PLAIN = "is too long, or has signs that are not printable"


@dataclass(frozen=True)
class Manifest:
    """What a run is: the same in each of its requests, and what a silo attests to.

    Args:
        run_id: the run.
        job: the job's name.
        job_digest: SHA-256 of the job's canonical JSON.
        contract: ``name@version``.
        contract_digest: SHA-256 of the contract's canonical JSON.
        purpose: what the job says that it is for.
        bundle: SHA-256 of the code that silos execute; empty in process.
        secure: whether the coordinator sees sums only.
        epsilon: of the job's differential privacy; None without.
        delta: of the job's differential privacy; None without.
    """

    run_id: str = ""
    job: str = ""
    job_digest: str = ""
    contract: str = ""
    contract_digest: str = ""
    purpose: str = ""
    bundle: str = ""
    secure: bool = False
    epsilon: float | None = None
    delta: float | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest's canonical JSON."""
        return digest(_plain(self))

    @classmethod
    def of(cls, run_id: str, job: Job, contract: Contract, bundle: str) -> Self:
        """Return the manifest of a run; the silo holds it against the body that it gets."""
        privacy = job.privacy
        return cls(
            run_id=run_id,
            job=job.name,
            job_digest=job.digest,
            contract=contract.ref,
            contract_digest=contract.digest,
            purpose=job.purpose,
            bundle=bundle,
            secure=job.is_secure,
            epsilon=None if privacy is None else privacy.epsilon,
            delta=None if privacy is None else privacy.delta,
        )

    @classmethod
    def decode(cls, value: Any) -> Self:
        """Return the manifest in plain JSON values.

        Raises:
            ReplyInvalid: where it is none.
        """
        try:
            manifest = cls(**value)
        except TypeError:
            raise ReplyInvalid("a request's manifest lacks a field or has one too many") from None
        for name, found in _plain(manifest).items():
            kinds: tuple[type, ...] = (str,)
            if name == "secure":
                kinds = (bool,)
            elif name in ("epsilon", "delta"):
                kinds = (int, float, type(None))
            if type(found) not in kinds:
                raise ReplyInvalid("a request's manifest has a field of the wrong type")
            if isinstance(found, str) and not is_plain(found, most=_MOST_OF_RUN[name]):
                raise ReplyInvalid(f"'{name}' of a request's manifest {_NOT_PLAIN}")
        return manifest


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a header or manifest; nothing is copied."""
    names = _names(type(value))  # type: ignore[arg-type]  # a class is hashable
    return {name: getattr(value, name) for name in names}


class _Signed:
    """What request and reply have in common: a signature over everything else."""

    PURPOSE: ClassVar[str]
    V1_FIELDS: ClassVar[tuple[str, ...]]
    signature: str
    wire: int

    def signed(self, key: Ed25519PrivateKey) -> Self:
        """Return the header with the signature of its sender."""
        statement = sign(key, self.PURPOSE, self._statement())
        return replace(self, signature=statement)  # type: ignore[type-var]

    def is_signed_by(self, public: str) -> bool:
        """Return whether the raw Ed25519 key ``public`` (hexadecimal) signed this header."""
        told = self._statement()
        return self.wire >= 2 and is_signed(public, self.PURPOSE, told, self.signature)

    def encode(self) -> bytes:
        """Return the header as bytes, in its own wire version."""
        fields = self._fields()
        if self.wire == 1:
            fields = {name: fields[name] for name in self.V1_FIELDS}
        return canonical_json(fields)

    def _statement(self) -> dict[str, Any]:
        return {name: value for name, value in self._fields().items() if name != "signature"}

    def _fields(self) -> dict[str, Any]:
        return {**_plain(self), **self._nested()}

    def _nested(self) -> dict[str, Any]:
        """Return the fields that hold an object."""
        return {}


@dataclass(frozen=True)
class Header(_Signed):
    """What a request says of itself; the coordinator writes it, the silo's guard reads it.

    Args:
        run_id: the run.
        scope: which step of it, ``round/index/verb``: the seed's second part. The protocol is
            not in it, so that FedProx with mu 0 draws the same batches as FedAvg.
        content: SHA-256 of the body, so that secret noise is never used for another question.
        round: 1, 2, … within training; 0 outside of it.
        silo: the receiver.
        protocol: the protocol's name or dotted path.
        verb: which silo half is asked.
        cohort: everybody who is asked in this step.
        manifest: what the run is.
        attestations: silo → its signed word that it takes part in this run; see `attestation`;
            and what `consilo.kernel.standing` says of their logs.
        issued: when it was signed, in seconds since 1970.
        expires: until when it may be answered.
        head: hash of the newest line of the coordinator's run record.
        signature: by the coordinator, over all the rest.
        wire: version of this format.
    """

    PURPOSE = "request"
    V1_FIELDS = (
        "run_id",
        "scope",
        "content",
        "round",
        "silo",
        "protocol",
        "verb",
        "cohort",
        "wire",
    )

    run_id: str
    scope: str
    content: str
    round: int
    silo: str
    protocol: str
    verb: str
    cohort: tuple[str, ...]
    manifest: Manifest = Manifest()
    attestations: Mapping[str, str] = field(default_factory=dict)
    issued: float = 0.0
    expires: float = 0.0
    head: str = ""
    signature: str = ""
    wire: int = WIRE_VERSION

    def _nested(self) -> dict[str, Any]:
        return {"manifest": _plain(self.manifest)}

    @cached_property
    def step_id(self) -> str:
        """Names the question: asked it twice, a silo answers the same bytes and pays once.

        The cohort is left out: a round that lost its quorum is asked again of fewer silos, and is
        the same question to those that answered before. So are time, signature and attestations.
        """
        return digest([self.run_id, *self.question, self.silo])[:32]

    @property
    def question(self) -> tuple[str | int, ...]:
        """What is asked, whatever the run and the silo: all that an answer may depend on."""
        asked = (self.protocol, self.verb, self.round, self.scope, self.content)
        if self.wire < 3:  # the body holds job and contract
            return asked
        return (*asked, self.manifest.job_digest, self.manifest.contract_digest)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the header in ``data``; its signature is not looked at.

        Raises:
            VersionUnsupported: where the coordinator speaks a wire version that we do not.
            ReplyInvalid: where it is no header.
        """
        told = _fields(data, most=MAX_HEADER_BYTES)
        wire = told.get("wire")
        if type(wire) is not int or wire not in WIRE_VERSIONS:
            older = type(wire) is int and wire < WIRE_VERSIONS[0]
            raise VersionUnsupported(
                f"this silo speaks the wire versions {_shown(WIRE_VERSIONS)}, the coordinator "
                f"{wire if type(wire) is int else 'none'}; upgrade Consilo "
                f"{'at the coordinator' if older else 'in the silo'}"
            )
        if wire == 1 and set(told) != set(cls.V1_FIELDS):
            raise ReplyInvalid("a request's header lacks a field or has one too many")
        try:
            cohort, manifest = tuple(told["cohort"]), told.get("manifest", {})
            parts = {"cohort": cohort, "manifest": Manifest.decode(manifest)}
            header = cls(**{**told, **parts})
        except (TypeError, KeyError):
            raise ReplyInvalid("a request's header lacks a field or has one too many") from None
        attestations = header.attestations
        if not (
            isinstance(told["cohort"], list)
            and isinstance(attestations, dict)
            and len(attestations) <= _MAX_NAMES
            and all(isinstance(each, str) for each in (*cohort, *attestations.values()))
            and all(isinstance(getattr(header, name), str) for name in _MOST)
            and type(header.round) is int
            and all(_is_time(each) for each in (header.issued, header.expires))
        ):
            raise ReplyInvalid("a request's header has a field of the wrong type")
        for name, most in _MOST.items():
            if not is_plain(getattr(header, name), most=most):
                raise ReplyInvalid(f"'{name}' of a request's header {_NOT_PLAIN}")
        names, words = (*cohort, *attestations), attestations.values()
        if len(cohort) > _MAX_NAMES or not (
            all(is_plain(each, most=_MAX_NAME) for each in names)
            and all(is_plain(each, most=_MAX_WORD) for each in words)
        ):
            raise ReplyInvalid(f"the names of silos in a request's header: one {_NOT_PLAIN}")
        return header


@dataclass(frozen=True)
class ReplyHeader(_Signed):
    """What a reply says of itself.

    Args:
        step_id: the step it answers.
        silo: who answers.
        status: ``ok`` or ``fault``.
        seconds: the silo's own computing time, to a millisecond.
        code: a fault's code, else empty.
        reason: a fault's reason, else empty.
        content: SHA-256 of the body; empty where the silo does not sign.
        manifest: digest of the run's manifest, as the silo saw it.
        head: hash of the line of the silo's audit log that says of this reply.
        attestation: the silo's word that it takes part in the run, for the others; see
            `attestation`. Where it was asked for, more stands behind it; see
            `consilo.kernel.standing`.
        signature: by the silo, over all the rest; empty where it does not sign.
        wire: version of this format.
    """

    PURPOSE = "reply"
    V1_FIELDS = ("step_id", "silo", "status", "seconds", "code", "reason", "wire")

    step_id: str
    silo: str
    status: str
    seconds: float = 0.0
    code: str = ""
    reason: str = ""
    content: str = ""
    manifest: str = ""
    head: str = ""
    attestation: str = ""
    signature: str = ""
    wire: int = WIRE_VERSION

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the header in ``data``; its signature is not looked at.

        Raises:
            ReplyInvalid: where it is no reply header of a version that we speak.
        """
        told = _fields(data, most=_MAX_REPLY_BYTES)
        try:
            reply = cls(**told)
        except TypeError:
            raise ReplyInvalid("a reply's header lacks a field or has one too many") from None
        if reply.wire not in WIRE_VERSIONS or reply.status not in ("ok", "fault"):
            raise ReplyInvalid("a reply's header has an unknown version or status")
        if reply.wire == 1 and set(told) != set(cls.V1_FIELDS):
            raise ReplyInvalid("a reply's header lacks a field or has one too many")
        texts = [value for name, value in _plain(reply).items() if name not in ("seconds", "wire")]
        if not all(isinstance(each, str) for each in texts) or not _is_time(reply.seconds):
            raise ReplyInvalid("a reply's header has a field of the wrong type")
        return reply

    @property
    def fault(self) -> Fault:
        """Why there is no answer, in words that can be shown: cut, and without control signs."""
        code = printable(self.code, most=_MAX_CODE) or "failed"
        return Fault(code, printable(self.reason, most=_MAX_REASON))


def attestation(key: Ed25519PrivateKey, manifest: Manifest, silo: str) -> str:
    """Return a silo's signed word that it was asked to take part in the run of ``manifest``.

    Other silos count it: a coordinator cannot make up the members of a cohort, since each must
    have signed this very run with the key that the others have pinned.
    """
    return sign(key, _ATTENDS, [manifest.digest, silo])


def attests(public: str, manifest: Manifest, silo: str, word: str) -> bool:
    """Return whether ``word`` is the attestation of ``silo``, whose key is ``public``."""
    return is_signed(public, _ATTENDS, [manifest.digest, silo], word)


def fault_parcel(*, silo: str, step_id: str, fault: Fault) -> Parcel:
    """Return the unsigned parcel with which a silo says that it does not answer, and why."""
    header = ReplyHeader(step_id, silo, "fault", code=fault.code, reason=fault.reason)
    return Parcel(header.encode(), b"")


def _shown(versions: tuple[int, ...]) -> str:
    return " and ".join(str(each) for each in versions)


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _fields(data: bytes, *, most: int) -> dict[str, Any]:
    try:
        fields = read_json(data, max_bytes=most)
    except (ValueError, RecursionError) as cause:
        # The parser's own words may repeat what it read; ours are counts.
        why = f" of {most} bytes at most" if len(data) > most else ""
        raise ReplyInvalid(f"a header is not JSON{why} ({type(cause).__name__})") from None
    if not isinstance(fields, dict):
        raise ReplyInvalid("a header is not a JSON object")
    return fields
