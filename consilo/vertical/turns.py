"""Asking silos in turn, with sealed letters between the label silo and the feature silos."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilo.errors import PartnerRejected, Refused, ReplyInvalid
from consilo.jobs.quorum import Quorum
from consilo.kernel.letters import Envelope, Mailbox
from consilo.kernel.steps import Answers, Ask, Reply, Step
from consilo.kernel.verbs import Disclosure, FromRows, envelopes
from consilo.kernel.view import SiloView
from consilo.wire.payload import pack, unpack

Letters = Mapping[str, Envelope]

INTRODUCTIONS = {"envelopes": envelopes()}
"""What the verb that introduces a silo replies."""
SCORES = envelopes(Disclosure.EMBEDDING)
RESIDUALS = envelopes(Disclosure.LABEL)
NOISY_SCORES = envelopes(Disclosure.EMBEDDING, rows=FromRows.TRAINING)
NOISY_RESIDUALS = envelopes(Disclosure.LABEL, rows=FromRows.TRAINING)


def asked(
    members: Sequence[str],
    everybody: Sequence[str],
    verb: str,
    payload: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> Ask:
    """Return an ask in which all ``members`` must answer, as a part of what ``everybody`` does."""
    quorum = Quorum(min_silos=len(members), mandatory=tuple(members))
    return Ask(members, verb, payload, own or {}, quorum, cohort=everybody)


def introduced(everybody: Sequence[str]) -> Generator[Step, Any, dict[str, dict[str, Envelope]]]:
    """Ask all for their public keys; return receiver → sender → introduction."""
    answers: Answers = yield asked(everybody, everybody, "introduce", {})
    return {
        name: {
            sender: letter(reply, name)
            for sender, reply in answers.replies.items()
            if sender != name
        }
        for name in everybody
    }


def letter(reply: Reply, receiver: str) -> Envelope:
    """Return the envelope for one receiver."""
    envelope: Envelope | None = reply.fields["envelopes"].get(receiver)
    if envelope is None:
        raise ReplyInvalid(f"silo '{reply.silo}' sent no envelope for '{receiver}'")
    return envelope


def sent(answers: Answers, *receivers: str) -> dict[str, dict[str, Envelope]]:
    """Return what silos sent, for delivery: receiver → sender → envelope.

    Args:
        answers: of all senders.
        receivers: who must get something from each sender.

    Raises:
        ReplyInvalid: where a sender has nothing for one of them.
    """
    for reply in answers.replies.values():
        for receiver in receivers:
            letter(reply, receiver)
    by_receiver: dict[str, dict[str, Envelope]] = {}
    for sender, reply in answers.replies.items():
        for receiver, envelope in reply.fields["envelopes"].items():
            by_receiver.setdefault(receiver, {})[sender] = envelope
    return by_receiver


@dataclass(frozen=True)
class Post:
    """One silo's letters; each says of which match it speaks, so that rows cannot be mixed up.

    Args:
        silo: whose.
        mark: of the match here.
    """

    silo: SiloView
    mark: str

    def seal(self, receiver: str, topic: str, content: Mapping[str, Any]) -> Envelope:
        """Return an envelope for another silo."""
        packed = pack({"mark": self.mark, "content": content})
        return Mailbox(self.silo).seal(receiver, topic, packed)

    def open(self, sender: str, topic: str, envelope: Envelope) -> Mapping[str, Any]:
        """Return what another silo sealed; raise `Refused` where it speaks of another match."""
        opened = unpack(Mailbox(self.silo).unseal(sender, topic, envelope))
        if opened.get("mark") != self.mark:
            raise Refused(
                f"silo '{sender}' has another match under this handle; match again", code="match"
            )
        content: Mapping[str, Any] = opened["content"]
        return content


def require_shape(sender: str, name: str, value: Any, shape: tuple[int | None, ...]) -> None:
    """Raise `PartnerRejected` unless an array from another silo has a shape; None is any length."""
    actual = getattr(value, "shape", ())
    if len(actual) != len(shape) or any(
        want not in (None, has) for want, has in zip(shape, actual, strict=True)
    ):
        raise PartnerRejected(f"'{name}' from silo '{sender}' has another shape than was agreed")


def require_finite(sender: str, name: str, value: Any) -> None:
    """Raise `PartnerRejected` where an array from another silo holds NaN or infinite numbers."""
    if not np.isfinite(value).all():
        raise PartnerRejected(f"'{name}' from silo '{sender}' holds numbers that are none")


def keep(silo: SiloView, name: str, step: int, value: Mapping[str, Any]) -> None:
    """Keep a silo's state after a step; that of the step before stays, for a step asked again.

    Raises:
        Refused: where another message has asked for the same step before: what it answered counts,
            and a second answer would tell more than was agreed.
    """
    before, kept_newest = silo.kept(f"{name}-{step}"), silo.kept(f"newest-{name}")
    newest = -1 if kept_newest is None else int(unpack(kept_newest)["value"]["step"])
    is_known = before is not None and unpack(before)["step_id"] == silo.header.step_id
    # Of a step before the last two it is not kept who asked for it.
    if not is_known and (before is not None or step <= newest):
        raise Refused(f"this silo has done step {step} of this run already", code="order")
    silo.keep(f"{name}-{step}", pack({"step_id": silo.header.step_id, "value": value}))
    if step > newest:
        silo.keep(f"newest-{name}", pack({"value": {"step": step}}))
    silo.forget(f"{name}-{step - 2}")


def kept(silo: SiloView, name: str, step: int) -> dict[str, Any]:
    """Return a silo's state after a step."""
    content = silo.kept(f"{name}-{step}")
    if content is None:
        raise Refused(f"this silo does not stand at step {step} of this run", code="order")
    value: dict[str, Any] = unpack(content)["value"]
    return value
