"""Silos in this process: in the order asked, one at a time, only when asked for."""

from __future__ import annotations

from itertools import count

from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Parcel, Transport


def _transport(*names: str, asked: list[str], step_s: float = 1.0) -> LocalTransport:
    def answer_of(name: str):
        def answer(parcel: Parcel) -> Parcel:
            asked.append(name)
            return Parcel(parcel.header, name.encode() + parcel.body)

        return answer

    ticks = count()
    clock = lambda: next(ticks) * step_s  # noqa: E731
    return LocalTransport({name: answer_of(name) for name in names}, clock=clock)


def test_a_silo_computes_when_its_answer_is_asked_for() -> None:
    asked: list[str] = []
    transport = _transport("b", "a", asked=asked)
    assert isinstance(transport, Transport)
    assert transport.online() == ("a", "b")
    arrivals = transport.exchange({n: Parcel(b"h", b"!") for n in ("b", "a")}, deadline_s=9)
    assert asked == []
    first = next(arrivals)
    assert asked == ["b"]
    assert first.parcel == Parcel(b"h", b"b!")
    assert first.seconds == 1.0
    assert [each.silo for each in arrivals] == ["a"]


def test_who_is_late_or_unknown_is_a_fault() -> None:
    transport = _transport("a", asked=[], step_s=10.0)
    found = list(transport.exchange({n: Parcel(b"", b"") for n in ("x", "a")}, deadline_s=5))
    assert [each.fault.code for each in found if each.fault] == ["unreachable", "deadline"]
    assert all(each.parcel is None for each in found)


def test_closing_forgets_the_silos() -> None:
    transport = _transport("a", asked=[])
    transport.close()
    transport.close()
    assert transport.online() == ()
