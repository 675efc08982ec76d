"""``python tests/simulation [--seed N] [--seeds N]``: play schedules; a failure is made small."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "support")]

from sim_plants import PLANTS  # noqa: E402
from sim_run import lay_aside_garbage, play_seed, smallest  # noqa: E402


def main() -> int:
    """Play one seed, telling its story, or many; return 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python tests/simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one, and tell what happened")
    parser.add_argument("--first", type=int, default=0, help="the first of many")
    parser.add_argument("--seeds", type=int, default=5000, help="how many (5000)")
    parser.add_argument("--plant", choices=PLANTS, help="with this mistake in the software")
    chosen = parser.parse_args()
    plant = None if chosen.plant is None else PLANTS[chosen.plant]
    if chosen.seed is not None:
        return _tell(chosen.seed, plant)
    lay_aside_garbage()
    failed = []
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        played = play_seed(seed, plant)
        if played.violation:
            failed.append(seed)
            print(f"seed {seed}: {played.violation}", flush=True)
    print(f"{chosen.seeds} schedules, {len(failed)} failures")
    return 1 if failed else 0


def _tell(seed: int, plant: Callable[[Any], None] | None) -> int:
    played = play_seed(seed, plant)
    if not played.violation:
        print("\n".join([*played.story, f"seed {seed}: {played.status}"]))
        return 0
    scenario, faults, played = smallest(seed, plant)
    print("\n".join([str(scenario), *map(str, faults), *played.story, played.violation]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
