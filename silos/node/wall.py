"""The guard's side of the wall: answers a worker's calls of the silo's roles, within narrow bounds.

A worker speaks of its own run, step, job and contract only. It gets rows as every verb of the job
would, no key of the silo's and not the run's secret, but one that is derived from it for this step
and bundle; and that by which rows are held out, since they are the same in every job. What it keeps
for later lies under the bundle's hash, so that no other code ever finds it. What it says of a fault
is its kind; words that it made never leave.
"""

from __future__ import annotations

import contextlib
import hmac
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from consilo.errors import BudgetExhausted, ConsiloError, ModelDiverged, Refused, ReplyInvalid
from consilo.horizontal.holdout import PURPOSE as HELD_OUT
from consilo.jobs.joint import JointJob
from consilo.jobs.scoring import Scoring
from consilo.kernel import roles
from consilo.kernel.letters import relay_statement
from consilo.kernel.roles import SiloHost
from consilo.kernel.verbs import Field, declared_field
from consilo.kernel.view import MANIFEST
from consilo.privacy.account import Charge
from consilo.protocols.dispatch import Question
from consilo.protocols.names import NAMES, find_protocol
from consilo.vertical.parts import Part, require_purpose
from consilo.vertical.roles import ModelParts
from silos.gate.bundles import declared
from silos.node.apart import Units
from silos.node.channel import Channel, Closed, Named, heard, trusted

log = logging.getLogger(__name__)


def _methods(role: type) -> frozenset[str]:
    return frozenset(name for name in vars(role) if not name.startswith("_"))


METHODS: Mapping[str, frozenset[str]] = {
    "account": _methods(roles.PrivacyAccount),
    "gate": frozenset({"permit"}),
    "letters": _methods(roles.Letters),
    "matches": frozenset({"match"}),
    "numbers": _methods(roles.Numbers),
    "parts": _methods(ModelParts),
    "rows": _methods(roles.Rows),
    "run_state": _methods(roles.RunState),
    "secrets": _methods(roles.Secrets),
}
"""Role → what of it a worker may call."""
_WORDS: Mapping[str, ConsiloError] = {
    "budget": BudgetExhausted("the job's own budget does not pay for this step"),
    "diverged": ModelDiverged("the model diverged, as the job's own code says"),
    "reply": ReplyInvalid("the answer of the job's own code is not what was declared"),
    "refused": Refused("the job's own code refuses; the silo's own log says why", code="code"),
}


def has_code(bundle: Path) -> bool:
    """Return whether a packed bundle has modules; one that is no bundle is taken to have some."""
    try:
        return declared(bundle)[0] is not None
    except (OSError, Refused):
        return True


def _is_keyed_by_run(protocol: str) -> bool:
    return protocol in NAMES and find_protocol(protocol).keyed_by_run


class Wall:
    """One worker, as the guard sees it; the silo's `Elsewhere`.

    Args:
        channel: the way to it.
        bundle: the packed bundle that it runs.
    """

    def __init__(self, channel: Channel, bundle: Path) -> None:
        self._channel = channel
        self._bundle = bundle
        self._raised: list[BaseException] = []

    def compute(
        self, question: Question, host: SiloHost
    ) -> tuple[Mapping[str, Any], Mapping[str, Field]]:
        """Return the fields that the worker answers with, and what it says that they declare.

        Raises:
            Refused: where this machine cannot lock it in.
            ConsiloError: what a role raised, or the kind of what the worker raised.
        """
        try:
            self._begin(b"T", (question, host.name, host.code_classes))
            found = self._until(b"D", _Bounds(question, host, self._bundle.stem))
            fields, declared = found["fields"], found["declared"]
            if not isinstance(fields, dict) or not _is_declaration(declared):
                raise ReplyInvalid("the worker's answer has no fields")
            return fields, {name: declared_field(each) for name, each in declared.items()}
        except Closed:
            raise ConsiloError("the worker ended without an answer") from None

    def apart(self, question: Question) -> Units:
        """Return processes of which each sees the rows of one unit only.

        Raises:
            Refused: at the first use, where this machine cannot lock them in.
        """
        asked = (question.job, question.contract)
        return Units(self._channel, lambda: self._begin(b"P", asked), question.header.step_id)

    def _begin(self, kind: bytes, asked: Any) -> None:
        """Tell the worker what it is to do, once it is locked in."""
        try:
            self._channel.send(kind, trusted(asked))
            told, content = self._channel.receive()
        except Closed:
            raise ConsiloError("the worker ended without an answer") from None
        if told != b"R":
            why = str(heard(content, _no_call))[:300]
            raise Refused(
                f"this silo runs code of a bundle locked in, which its machine cannot do: {why}"
                "; its operator sees more with 'consilo silo preflight', and may set 'sandbox: "
                "off' in policy.yaml",
                code="sandbox",
            )

    def _until(self, wanted: bytes, bounds: _Bounds) -> Any:
        """Answer calls until a frame of the wanted kind comes; return what it says."""
        while True:
            kind, content = self._channel.receive()
            if kind == b"C":
                self._serve(content, bounds)
            elif kind == wanted:
                return heard(content, _no_call)
            elif kind in (b"F", b"X"):
                raise self._cause(heard(content, _no_call))
            else:
                raise ReplyInvalid("the worker speaks out of turn")

    def _serve(self, content: bytes, bounds: _Bounds) -> None:
        def back(number: int) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                self._channel.send(b"K", trusted((number, args)))
                return self._until(b"B", bounds)

            return call

        try:
            role, method, args, named = heard(content, back)
            found = bounds.call(str(role), str(method), list(args), dict(named))
        except Closed:
            raise
        except Exception as cause:
            self._raised.append(cause)
            self._channel.send(b"E", trusted((_copy(cause), len(self._raised) - 1)))
        else:
            self._channel.send(b"A", trusted(_plain(found)))

    def _cause(self, told: Mapping[str, Any]) -> BaseException:
        """Return the guard's own exception that the worker passes on, or a kind in our words."""
        number = int(told["number"])
        if 0 <= number < len(self._raised):
            return self._raised[number]
        words = "".join(each if each.isprintable() else " " for each in str(told["words"])[:8000])
        log.warning("the job's own code raised: %s", words)
        return _WORDS.get(str(told["kind"]), ConsiloError("the job's own code failed"))


class _Bounds:
    """What a worker's calls may be about."""

    def __init__(self, question: Question, host: SiloHost, bundle: str) -> None:
        self._question = question
        self._host = host
        self._bundle = bundle
        part = question.job.part(question.contract, host.name)
        self._contracts = (question.contract, part)
        self._handle, self._models = _named_by(question)
        header = question.header
        # A split network's start (`SplitPart._seed`) and the salt of a part's reference
        # (`consilo.vertical.parts`) are the same in all steps of a run; nothing else needs a key
        # for longer than its step.
        self._scope = "" if _is_keyed_by_run(header.protocol) else header.step_id

    def call(self, role: str, method: str, args: list[Any], named: dict[str, Any]) -> Any:
        """Return what a role's method answers.

        Raises:
            Refused: for any other method, run, step, job, contract, data set or model.
        """
        if method not in METHODS.get(role, ()):
            raise Refused(f"a worker has no '{role}.{method}'", code="worker")
        function = getattr(getattr(self._host, role), method)
        bound = inspect.signature(function).bind_partial(*args, **named)
        if role != "secrets" and "purpose" in inspect.signature(function).parameters:
            bound.arguments["purpose"] = self._question.job.purpose
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._checked(role, name, value)
        if method == "sign_relay" and not self._is_own_statement(bound.arguments.get("value")):
            raise Refused("a worker introduces this silo in its own run alone", code="worker")
        if method == "keep_part" and bound.arguments["model"] != self._question.header.run_id:
            raise Refused("a worker keeps the part of its own run's model", code="worker")
        if role == "run_state" and bound.arguments["name"] == MANIFEST and method != "kept":
            own = self._question.header.manifest.digest.encode()
            if bound.arguments.get("content") != own:
                raise Refused("a worker's run is its own", code="worker")
        found = function(*bound.args, **bound.kwargs)
        if (role, method) == ("parts", "part"):
            require_purpose(Part.from_bytes(found), self._question.job.purpose)
        if (role, method) == ("secrets", "secret"):
            return hmac.digest(found, f"worker/{self._bundle}/{self._scope}".encode(), "sha256")
        return found

    def _is_own_statement(self, value: Any) -> bool:
        """Return whether a statement is what `consilo.kernel.letters` says of this silo, here.

        With another run's the coordinator could pass for this silo there: in a match, say.
        """
        header = self._question.header
        told = relay_statement(header, self._host.name, "")
        key = value.get("key") if isinstance(value, dict) else None
        return isinstance(key, str) and {**value, "key": ""} == told

    def _checked(self, role: str, name: str, value: Any) -> Any:
        """Return an argument, which is of this question or of this bundle."""
        header, job = self._question.header, self._question.job
        if role == "secrets" and name == "purpose" and value != HELD_OUT:
            raise Refused("a worker has one lasting key, that of the held-out rows", code="worker")
        if name == "key":
            return f"{self._bundle}/{value}"
        same: Mapping[str, Callable[[], bool]] = {
            "run_id": lambda: value == header.run_id,
            "step_id": lambda: value == header.step_id,
            "contract": lambda: value in self._contracts,
            "job": lambda: value == job,
            "header": lambda: value == Named(header.step_id),
            "handle": lambda: isinstance(value, str) and value == self._handle,
            "model": lambda: value in self._models,
            "account": lambda: value in {self._host.rows.dataset(c) for c in self._contracts},
            "charge": lambda: (
                isinstance(value, Charge)
                and (value.run_id, value.step_id) == (header.run_id, header.step_id)
                and value.unit == (job.privacy.unit if job.privacy is not None else "record")
            ),
        }
        if name in same and not same[name]():
            raise Refused(f"a worker asks for another {name} than its own", code="worker")
        return header if name == "header" else value


def _named_by(question: Question) -> tuple[str, frozenset[str]]:
    """Return the match that a job is over, and the models whose parts it may use.

    What else a job's text names counts for nothing: the coordinator writes it.
    """
    job, run = question.job, question.header.run_id
    handle = job.holders.match if isinstance(job, JointJob) else ""
    scored = job.protocol.args.get("model") if isinstance(job, Scoring) else run
    return handle, frozenset({run, str(scored)})


def _is_declaration(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


def _plain(value: Any) -> Any:
    """Return a result as the worker gets it: arrays without the file that they are mapped from."""
    if isinstance(value, np.ndarray):
        return np.array(value, copy=None)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _copy(cause: BaseException) -> BaseException:
    """Return an exception as the worker gets it: of its type where that travels."""
    if isinstance(cause, ConsiloError):
        with contextlib.suppress(Exception):
            made = type(cause)(str(cause))
            return made
    return ConsiloError(f"the silo's software raised {type(cause).__name__}")


def _no_call(number: int) -> Callable[..., Any]:
    raise ValueError("a function where none can be")
