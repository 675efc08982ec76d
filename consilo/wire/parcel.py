"""What travels between coordinator and silo, whatever the transport.

A parcel has two parts so that one global model is serialised once for all silos:

- ``header``: canonical JSON, small, unlike for each silo (who, which step, which verb);
- ``body``: the packed payload (see `consilo.wire.payload`), the same ``bytes`` object for all
  receivers of one step.

A transport moves parcels and knows nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Parcel:
    """One message: a small header of its own and a body that may be shared.

    Args:
        header: canonical JSON, UTF-8.
        body: packed payload; empty for a fault.
    """

    header: bytes
    body: bytes

    @property
    def num_bytes(self) -> int:
        """Size of header and body together, in bytes."""
        return len(self.header) + len(self.body)


@dataclass(frozen=True)
class Fault:
    """Why a silo gave no answer; a drop-out is data, not an exception.

    Args:
        code: stable short name: ``unreachable``, ``deadline``, ``crashed``, ``refused``,
            ``contract``, ``bundle_not_approved``, ``invalid_reply``, ``diverged``, ``disk_full``,
            ``failed``;
            `consilo.jobs.causes` says what each means for a run.
        reason: a sentence without any data value.
    """

    code: str
    reason: str


def not_connected(why: str = "not connected") -> Fault:
    """Return why a silo cannot even be asked."""
    return Fault("unreachable", why)


@dataclass(frozen=True)
class Arrival:
    """What came back from one silo: a parcel or a fault, with the bytes that travelled.

    Args:
        silo: who.
        parcel: the answer, or None where ``fault`` says why there is none.
        fault: set exactly when ``parcel`` is None.
        seconds: from sending to arrival.
    """

    silo: str
    parcel: Parcel | None
    fault: Fault | None
    seconds: float


Answer = Callable[[Parcel], Parcel]
"""The silo's side of a transport: one parcel in, one parcel out; it never raises."""


@runtime_checkable
class Transport(Protocol):
    """Moves parcels between the coordinator and its silos.

    `exchange` may be called from several threads at once.
    """

    def online(self) -> tuple[str, ...]:
        """Return the names of the silos that can be asked now, sorted."""
        ...

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Send every parcel, then yield exactly one arrival per silo in the order of ``parcels``.

        Answers are materialised one at a time, when the iterator asks for them, so that a caller
        that folds them holds one at most. A silo that has not answered after ``deadline_s``
        seconds yields a fault ``deadline``. Closing the iterator early abandons what is still out.
        """
        ...

    def close(self) -> None:
        """Let go of whatever the transport holds; safe to call twice."""
        ...
