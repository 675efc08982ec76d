"""What a round will move, and how long that takes over the silos' links: said before a run.

A link's rate is what earlier exchanges showed, less the silo's own computing; where none moved
enough to tell, `probe` asks.

>>> print(forecast(100_000_000, ["north", "south"], {"north": 10e6, "south": 50e6}))
200.0 MB a round and silo (100.0 MB down, 100.0 MB up); slowest link: north, 20 s a round
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from consilo.kernel.loop import Exchange
from consilo.wire.parcel import Parcel, Transport

_TELLING_BYTES = 1_000_000  # less than this is mostly waiting, and says nothing of the rate
_PROBE_BYTES = 4_000_000
_PROBES = 3
_PROBE_S = 60.0


@dataclass(frozen=True)
class Forecast:
    """What a round moves.

    Args:
        bytes_down: to each silo, a round.
        bytes_up: from each silo, a round.
        seconds: silo → what its transfers take in a round; only silos whose rate is known.
        unknown: silos whose rate is not known.
    """

    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]
    unknown: tuple[str, ...]

    @property
    def seconds_per_round(self) -> float | None:
        """The slowest known silo's seconds; silos transfer side by side. None: nothing is known."""
        return max(self.seconds.values(), default=None)

    def __str__(self) -> str:
        text = (
            f"{_size(self.bytes_down + self.bytes_up)} a round and silo "
            f"({_size(self.bytes_down)} down, {_size(self.bytes_up)} up)"
        )
        if self.seconds:
            slowest = max(self.seconds, key=lambda silo: self.seconds[silo])
            text += f"; slowest link: {slowest}, {_time(self.seconds[slowest])} a round"
        if self.unknown:
            text += f"; no measured rate: {', '.join(self.unknown)}"
        return text


def forecast(
    model_bytes: int,
    silos: Sequence[str],
    link_rates: Mapping[str, float],
    *,
    update_bytes: int | None = None,
) -> Forecast:
    """Return what a round will move.

    Args:
        model_bytes: of what goes down, such as `consilo.wire.params.num_bytes` of the global model.
        silos: who will take part.
        link_rates: silo → bytes a second, as `link_rates` or `probe` found.
        update_bytes: of what comes up; as much as goes down where it is not said.
    """
    up = model_bytes if update_bytes is None else update_bytes
    seconds = {
        silo: (model_bytes + up) / link_rates[silo]
        for silo in silos
        if link_rates.get(silo, 0.0) > 0
    }
    unknown = tuple(silo for silo in silos if silo not in seconds)
    return Forecast(model_bytes, up, seconds, unknown)


def link_rates(exchanges: Iterable[Exchange]) -> dict[str, float]:
    """Return silo → bytes a second, the median over the exchanges that moved 1 MB or more.

    The silos of a step transfer side by side, so a rate is what a silo gets while the others are
    served too. It includes the wait for a turn: replies are taken in the cohort's order.
    """
    found: dict[str, list[float]] = {}
    for each in exchanges:
        moved, took = each.bytes_down + each.bytes_up, each.seconds - each.silo_seconds
        if each.fault is None and moved >= _TELLING_BYTES and took > 0:
            found.setdefault(each.silo, []).append(moved / took)
    return {silo: median(rates) for silo, rates in sorted(found.items())}


def probe(
    transport: Transport, silos: Sequence[str], *, probe_bytes: int = _PROBE_BYTES
) -> dict[str, float]:
    """Measure the links: a small and a larger parcel that every silo turns down unread.

    What the larger one takes longer is its transfer; nothing is computed, and no step is asked.
    A silo that does not answer is left out.

    Args:
        transport: open.
        silos: who is measured, one after the other.
        probe_bytes: of the larger parcel.
    """
    rates = {}
    body = os.urandom(probe_bytes)
    for silo in silos:
        small = _seconds(transport, silo, b"")
        large = _seconds(transport, silo, body)
        if small is not None and large is not None:
            # Two transfers: to the SuperLink, and from there to the silo. The slower one is its.
            rates[silo] = probe_bytes / max(large - small, 1e-3)
    return rates


def _seconds(transport: Transport, silo: str, body: bytes) -> float | None:
    """Return the fastest of three; None where the silo does not answer."""
    times = []
    for _ in range(_PROBES):
        parcel = Parcel(b'{"probe":true}', body)
        (arrival,) = transport.exchange({silo: parcel}, deadline_s=_PROBE_S)
        if arrival.parcel is None:
            return None
        times.append(arrival.seconds)
    return min(times)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
