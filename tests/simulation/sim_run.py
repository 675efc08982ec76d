"""Play a schedule: from its seed to what it ended with."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim_checks import check_end
from sim_faults import Fault, Scenario, drawn, shrunk
from sim_world import Violation, World

_COLLECTED_EVERY = 200


@dataclass(frozen=True)
class Played:
    """One schedule that was played.

    Args:
        status: of the run; empty where something did not hold.
        violation: what did not; empty where all did.
        story: what happened, line by line.
    """

    status: str
    violation: str
    story: tuple[str, ...]


def lay_aside_garbage() -> None:
    """Let this process look for garbage between schedules only, and not among what is loaded."""
    gc.collect()
    gc.freeze()
    gc.disable()


def play(
    seed: int,
    scenario: Scenario,
    faults: list[Fault],
    plant: Callable[[Any], None] | None = None,
) -> Played:
    """Play a schedule; what the software raises besides is a failure, too."""
    world = World(seed, scenario, faults, plant)
    status, violation = "", ""
    try:
        status = check_end(world, world.run())
    except Violation as cause:
        violation = str(cause)
    except Exception as cause:
        violation = f"{type(cause).__name__}: {cause}"
    finally:
        world.close()
        if not gc.isenabled() and seed % _COLLECTED_EVERY == 0:
            gc.collect()
    return Played(status, violation, tuple(world.story))


def play_seed(seed: int, plant: Callable[[Any], None] | None = None) -> Played:
    """Play the schedule of a seed."""
    return play(seed, *drawn(seed), plant)


def first_failure(plant: Callable[[Any], None], *, most: int) -> int | None:
    """Return the first seed whose schedule notices a mistake; None where none of ``most`` does."""
    return next((seed for seed in range(most) if play_seed(seed, plant).violation), None)


def smallest(
    seed: int, plant: Callable[[Any], None] | None = None
) -> tuple[Scenario, list[Fault], Played]:
    """Return the schedule of a seed that fails, with as few of its faults as still fail."""
    scenario, faults = drawn(seed)
    fewer = shrunk(faults, lambda some: bool(play(seed, scenario, some, plant).violation))
    return scenario, fewer, play(seed, scenario, fewer, plant)
