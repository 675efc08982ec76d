"""The local transport: silos in this process, the same bytes as over the network.

For notebooks, tests and quick simulation. A silo computes when its answer is asked for, so
hundreds of silos hold one answer in memory at a time; where several threads ask, one computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

from consilo.wire.parcel import Answer, Arrival, Fault, Parcel


class LocalTransport:
    """Calls each silo's answer function in turn.

    Args:
        answers: silo → its half; see `consilo.protocols.dispatch.answerer`.
        clock: seconds, monotonic.

    An answer that took longer than the deadline counts as dropped, as it would over a network.
    """

    takes_pieces = True

    def __init__(
        self, answers: Mapping[str, Answer], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._answers = dict(answers)
        self._clock = clock
        self._one = threading.Lock()  # torch's state of chance is one a process

    def online(self) -> tuple[str, ...]:
        """Return every silo's name, sorted."""
        return tuple(sorted(self._answers))

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Yield each silo's answer in the order asked."""
        for name, parcel in parcels.items():
            started = self._clock()
            answer = self._answers.get(name)
            if answer is None:
                fault = Fault("unreachable", "no such silo on this transport")
                yield Arrival(name, None, fault, 0.0)
                continue
            with self._one:
                reply = answer(parcel)
            seconds = self._clock() - started
            if seconds > deadline_s:
                fault = Fault("deadline", f"no answer within {deadline_s:.0f} s")
                yield Arrival(name, None, fault, seconds)
            else:
                yield Arrival(name, reply, None, seconds)
            del reply  # or it is held while the next silo answers

    def close(self) -> None:
        """Forget the silos."""
        self._answers.clear()
