"""The worker: runs verb, model and a bundle's code, locked in, and holds no secret of the silo.

It is forked before anything of the silo is opened, hears one question, and confines itself
(`consilo.machine.sandbox`) before it runs anything of the job's. A silo's roles are there for it as
for every verb; each call of one goes to the guard, which answers it (`silos.node.wall`). Where the
question is private it becomes a template instead (`silos.node.template`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from consilo.errors import BudgetExhausted, ConsiloError, ModelDiverged, Refused, ReplyInvalid
from consilo.kernel.verbs import Disclosure, declaration
from consilo.machine import sandbox
from consilo.machine.reaper import die_with_parent
from consilo.protocols.dispatch import compute, verb_of
from silos.node import template
from silos.node.channel import Channel, Closed, believed, said

ROLES = (
    "account",
    "gate",
    "letters",
    "matches",
    "numbers",
    "parts",
    "rows",
    "run_state",
    "secrets",
)
"""What a worker may ask for; `silos.node.wall` says which methods."""
KINDS: dict[str, type[ConsiloError]] = {
    "budget": BudgetExhausted,
    "diverged": ModelDiverged,
    "reply": ReplyInvalid,
    "refused": Refused,
}
"""Faults that the guard tells apart; their words stay behind, since code of a job made them."""
_MARK = "_consilo_guard_raised"


def fork_worker(bundle: Path, silo: Path) -> Channel:
    """Fork a locked-in worker, and return the guard's end of the way to it.

    Args:
        bundle: the packed bundle, which is all of the silo that it may read.
        silo: the silo's directory, which nothing readable may contain.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        theirs.close()
        return Channel(ours.detach())
    try:
        ours.close()
        die_with_parent(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _work(Channel(theirs.detach()), bundle, silo)
    except BaseException:  # nobody can be told: its words are the job's own
        os._exit(1)
    os._exit(0)


def _work(channel: Channel, bundle: Path, silo: Path) -> None:
    kind, content = channel.receive()
    try:
        if kind == b"P":
            template.serve(channel, bundle, silo, content)
            return
        if kind != b"T":
            return
        sandbox.confine([bundle], keep=(channel.descriptor,), hidden=silo)
    except (sandbox.SandboxUnavailable, OSError) as cause:
        channel.send(b"U", said(str(cause), []))
        return
    channel.send(b"R")
    question, name, classes = believed(content)
    try:
        host = RemoteSilo(channel, name, bundle, classes)
        verb = verb_of(question.header, host)  # type: ignore[arg-type]
        fields = compute(verb, question, host)  # type: ignore[arg-type]
        verb.check(fields, question.payload)
        declared = {name: declaration(each) for name, each in verb.replies.items()}
        channel.send(b"D", said({"fields": fields, "declared": declared}, []))
    except Closed:
        return
    except BaseException as cause:
        channel.send(b"F", said(_told(cause), []))


def _told(cause: BaseException) -> dict[str, Any]:
    """Return what the guard hears of an exception: its kind, and words for the silo's own log."""
    kind = next((name for name, each in KINDS.items() if isinstance(cause, each)), "failed")
    words = "".join(traceback.format_exception(cause))[-8000:]
    return {"kind": kind, "number": getattr(cause, _MARK, -1), "words": words}


class RemoteSilo:
    """A `consilo.kernel.roles.SiloHost` whose roles are the guard's.

    Args:
        channel: the way there.
        name: the silo's.
        bundle: where the job's own modules lie.
        classes: what its label declares.
    """

    def __init__(
        self, channel: Channel, name: str, bundle: Path, classes: frozenset[Disclosure]
    ) -> None:
        self.name = name
        self.search_path = (bundle,)
        self.code_classes = classes
        for role in ROLES:
            setattr(self, role, _Role(channel, role))


class _Role:
    """One role: every method of it is a call to the guard."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **named: Any) -> Any:
            return _asked(self._channel, [self._name, method, list(args), named])

        return call


def _asked(channel: Channel, question: list[Any]) -> Any:
    calls: list[Callable[..., Any]] = []
    channel.send(b"C", said(question, calls))
    while True:
        kind, content = channel.receive()
        if kind == b"A":
            return believed(content)
        if kind == b"E":
            cause, number = believed(content)
            setattr(cause, _MARK, number)
            raise cause
        number, args = believed(content)
        try:
            channel.send(b"B", said(calls[number](*args), []))
        except Closed:
            raise
        except BaseException as cause:
            channel.send(b"X", said(_told(cause), []))
