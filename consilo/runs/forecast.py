"""What a round will move, and how long that takes over the silos' links: said before a run.

A link's rate is what earlier exchanges showed, less the silo's own computing; where none moved
enough to tell, `probe` asks.

>>> moved = Traffic(100_000_000, 100_000_000)
>>> print(forecast(moved, ["north", "south"], {"north": 10e6, "south": 50e6}))
200.0 MB a round and silo (100.0 MB down, 100.0 MB up); slowest link: north, 20 s a round
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from consilo.kernel.loop import Exchange
from consilo.kernel.protocol import Protocol, StateT
from consilo.wire.parcel import Parcel, Transport
from consilo.wire.payload import pack_pieces

_TELLING_BYTES = 1_000_000  # less than this is mostly waiting, and says nothing of the rate
_PROBE_BYTES = 4_000_000
_PROBES = 3
_PROBE_S = 60.0


@dataclass(frozen=True)
class Traffic:
    """What a round moves between the coordinator and one silo, in bytes."""

    bytes_down: int
    bytes_up: int


def traffic(protocol: Protocol[StateT], state: StateT, *, passes: int = 1) -> Traffic | None:
    """Return what a round moves, by the payloads that the protocol sends and its verbs declare.

    Counted are whole payloads down and vectors up; a reply's figures, headers and, once a run, job
    and contract are some kilobytes more.

    Args:
        protocol: whose.
        state: as the round begins.
        passes: exchanges a round that the reduction takes.

    Returns:
        None where the protocol does not say what it sends.
    """
    sent, verbs = protocol.sends(state), protocol.verbs()
    if not sent:
        return None
    down = sum(len(pack_pieces(payload)) for payload in sent.values())
    up = sum(verbs[name].num_bytes(payload) for name, payload in sent.items())
    return Traffic(passes * down, passes * up)


@dataclass(frozen=True)
class Forecast:
    """What a round moves.

    Args:
        moved: to and from each silo, a round; None where the protocol does not say.
        seconds: silo → what its transfers take in a round; only silos whose rate is known.
        unknown: silos whose rate is not known.
    """

    moved: Traffic | None
    seconds: Mapping[str, float]
    unknown: tuple[str, ...]

    @property
    def seconds_per_round(self) -> float | None:
        """The slowest known silo's seconds; silos transfer side by side. None: nothing is known."""
        return max(self.seconds.values(), default=None)

    def __str__(self) -> str:
        if self.moved is None:
            return "the protocol does not say what a round moves"
        down, up = self.moved.bytes_down, self.moved.bytes_up
        text = f"{_size(down + up)} a round and silo ({_size(down)} down, {_size(up)} up)"
        if self.seconds:
            slowest = max(self.seconds, key=lambda silo: self.seconds[silo])
            text += f"; slowest link: {slowest}, {_time(self.seconds[slowest])} a round"
        if self.unknown:
            text += f"; no measured rate: {', '.join(self.unknown)}"
        return text


def forecast(
    moved: Traffic | None, silos: Sequence[str], link_rates: Mapping[str, float]
) -> Forecast:
    """Return what a round will move, and how long that takes.

    Args:
        moved: as `traffic` counts it.
        silos: who will take part.
        link_rates: silo → bytes a second, as `link_rates` or `probe` found.
    """
    seconds = {}
    if moved is not None:
        both = moved.bytes_down + moved.bytes_up
        seconds = {each: both / link_rates[each] for each in silos if link_rates.get(each, 0.0) > 0}
    return Forecast(moved, seconds, tuple(each for each in silos if each not in seconds))


def link_rates(exchanges: Iterable[Exchange]) -> dict[str, float]:
    """Return silo → bytes a second, the median over the exchanges that moved 1 MB or more.

    The silos of a step transfer side by side, so a rate is what a silo gets while the others are
    served too. It includes the wait for a turn: replies are taken in the cohort's order.
    """
    by_silo: dict[str, list[float]] = {}
    for each in exchanges:
        moved, took = each.bytes_down + each.bytes_up, each.seconds - each.silo_seconds
        if each.fault is None and moved >= _TELLING_BYTES and took > 0:
            by_silo.setdefault(each.silo, []).append(moved / took)
    return {silo: median(rates) for silo, rates in sorted(by_silo.items())}


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
