"""What a protocol may ask for: six steps, and the results that come back into its generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consilo.jobs.quorum import Quorum
from consilo.wire.parcel import Fault


@dataclass(frozen=True)
class Ask:
    """Send a verb to members and wait for all of them; the result is `Answers`.

    Args:
        members: who is asked; the order is the order of folding.
        verb: which silo half.
        payload: what everybody gets; serialised once.
        own: what one silo alone gets besides, by silo; forces a serialisation per silo.
        quorum: who must have answered; None demands nobody.
        deadline_s: seconds until a silo counts as dropped; None leaves it to the cohort's history.
        cohort: who takes part in what is computed, where that is more than who is asked now: silos
            that take turns. A silo counts those that have attested to this run.
    """

    members: Sequence[str]
    verb: str
    payload: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quorum: Quorum | None = None
    deadline_s: float | None = None
    cohort: Sequence[str] = ()


@dataclass(frozen=True)
class Stream(Ask):
    """As `Ask`, but the result is an iterator of `Reply`, one held at a time, for folding.

    Raises a `RunFailed`, of the class of the cause, when it ends without a quorum.
    """


@dataclass(frozen=True)
class Send(Ask):
    """As `Ask`, without waiting: `Receive` brings the answers one by one, as they come.

    The result is how many seconds an answer is waited for, by the slowest of the members. A member
    that has a question under way is not asked again, so that a run that goes on may send all that
    its state says is under way.

    Args:
        round: names the question, 1, 2, …: of one round a silo is asked once, also by a run that
            goes on after the round in which it was first asked.
        life: for how many times as long an answer may still come.
    """

    round: int = 0
    life: float = 1.0


@dataclass(frozen=True)
class Receive:
    """Take the next answer to any `Send`; the result is `Received`.

    Args:
        seconds: how long it is waited for; None as long as one is under way. The result is None
            where none came, and where none is under way.
    """

    seconds: float | None = None


@dataclass(frozen=True)
class Publish:
    """Hand a result out to whoever listens to the run (the flow, a notebook).

    Args:
        name: what it is.
        value: figures by name; they may reach MLflow, so no row, no value of a row.
    """

    name: str
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A restart point: a run that dies later resumes from this state and ends the same.

    Args:
        state: a frozen object with ``round`` (int), ``to_payload()`` and ``from_payload()``.
    """

    state: Any


Step = Ask | Stream | Send | Receive | Publish | Checkpoint


@dataclass(frozen=True)
class Reply:
    """One silo's valid answer.

    Args:
        silo: who.
        fields: the declared reply fields.
        seconds: the silo's own computing time.
    """

    silo: str
    fields: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Answers:
    """What an `Ask` brings back.

    Args:
        replies: silo → valid answer, in the order asked.
        missing: silo → why there is none.
    """

    replies: Mapping[str, Reply]
    missing: Mapping[str, Fault]


@dataclass(frozen=True)
class Received:
    """What a `Receive` brings back: a valid answer or why there is none.

    Args:
        silo: whose.
        reply: None where ``fault`` says why.
        fault: None where there is a reply.
    """

    silo: str
    reply: Reply | None
    fault: Fault | None
