"""What one silo may leave at the SuperLink by Flower's own calls, which keep whatever comes.

Bodies have a quota of their own (`consilo.transports.flower.bodies`). What comes as messages and
objects lies in the SuperLink's database until its run ends; so each silo has an allowance that
fills again with time, and is told so in one sentence once it has none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Allowance:
    """What a silo may put in, at once and again in each hour.

    Args:
        bytes: of all its calls; what is large travels as a body and is not counted here.
        calls: how many.
    """

    bytes: int = 4 * 1024**3
    calls: int = 200_000


class Pushes:
    """Counts what silos put in.

    Args:
        allowance: of each.
        clock: seconds, of any origin.
    """

    def __init__(
        self, allowance: Allowance | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._allowance = allowance or Allowance()
        self._clock = clock
        self._left: dict[str, tuple[float, float, float]] = {}  # bytes, calls, when

    def fault(self, silo: str, size: int) -> str:
        """Take a call from what a silo has left; return why it may not, empty where it may.

        Args:
            silo: who calls; one that the gate has let pass, so that there are no more than members.
            size: of the call, in bytes.
        """
        most, now = self._allowance, self._clock()
        left, calls, at = self._left.get(silo, (most.bytes, most.calls, now))
        share = max(0.0, now - at) / _HOUR_S
        left = min(most.bytes, left + share * most.bytes)
        calls = min(most.calls, calls + share * most.calls)
        if left < size or calls < 1:
            self._left[silo] = (left, calls, now)
            wait_s = _HOUR_S * max((size - left) / most.bytes, (1 - calls) / most.calls)
            return (
                f"this silo has put in {most.bytes} bytes or {most.calls} calls within an hour, "
                f"which is all that it may; the next is taken in {math.ceil(wait_s)} s"
            )
        self._left[silo] = (left - size, calls - 1, now)
        return ""
