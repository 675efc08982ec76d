"""What goes wrong in one schedule: drawn from a seed, written down, made fewer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

COORDINATOR, SILOS = "coordinator", ("east", "north")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        kind: ``kill``, ``power``, ``full`` or ``io`` at a step of a machine; ``lose``, ``double``
            or ``delay`` of a message; ``clock`` of a machine, set at an event.
        place: the machine; empty for a message.
        at: the how many-th step, message or event.
        seconds: until it comes again, or by how much a clock is set.
    """

    kind: str
    place: str
    at: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """What is run while things go wrong.

    Args:
        num_silos: 1 or 2.
        rounds: 1 to 3.
        is_checked: whether the silos are asked for their rows' verdict first.
        waits: whether the run needs all of them, and waits where one is away.
    """

    num_silos: int = 2
    rounds: int = 3
    is_checked: bool = True
    waits: bool = False

    @property
    def silos(self) -> tuple[str, ...]:
        """Their names."""
        return SILOS[: self.num_silos]

    @property
    def num_messages(self) -> int:
        """How many messages travel where nothing goes wrong."""
        return 2 * self.num_silos * (2 + self.rounds + self.is_checked)


def drawn(seed: int) -> tuple[Scenario, list[Fault]]:
    """Return the scenario and the faults of a schedule; small ones are drawn more often."""
    rng = Random(seed)
    scenario = Scenario(rng.choice((1, 1, 2)), rng.choice((1, 1, 1, 2, 2, 3)), rng.random() < 0.2)
    scenario = replace(scenario, waits=seed % 4 == 0)
    faults = [_fault(rng, scenario) for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 6)))]
    return scenario, faults


def _fault(rng: Random, scenario: Scenario) -> Fault:
    kind = rng.choice(
        ("kill", "kill", "power", "power", "full", "io", "lose", "double", "delay", "clock")
    )
    if kind in ("lose", "double", "delay"):
        wait = rng.choice((0.01, 1.0, 20.0, 70.0, 4000.0))
        return Fault(kind, "", rng.randint(1, scenario.num_messages), wait)
    place = rng.choice((COORDINATOR, *scenario.silos))
    if kind == "clock":
        jump = rng.choice((-86_400.0, -3600.0, -60.0, 60.0, 3600.0, 86_400.0))
        return Fault(kind, place, rng.randint(1, scenario.num_messages + 4), jump)
    asked = 2 + scenario.rounds + scenario.is_checked
    most = 11 * asked * scenario.num_silos if place == COORDINATOR else 26 * asked
    return Fault(kind, place, rng.randint(1, most), rng.choice((0.1, 5.0, 65.0, 400.0)))


def shrunk(faults: list[Fault], fails: Callable[[list[Fault]], bool]) -> list[Fault]:
    """Return as few of the faults as still fail."""
    again = True
    while again:
        again = False
        for each in faults:
            fewer = [other for other in faults if other is not each]
            if fails(fewer):
                faults, again = fewer, True
                break
    return faults
