"""How fast schedules of faults are played, and what they find; see tests/simulation.

A schedule is one whole run of a coordinator and one or two silos, from its first question to its
record's last line, on a virtual clock: messages are lost, late or doubled, machines die at any
write and at any await and come back with what was synced, disks are full, clocks jump. The kernel,
dispatch, the guard, the store, the ledger and the record are the real ones.

    schedules_per_cpu_minute    played, with everything that must hold looked at
    failures                    schedules in which something did not hold
    planted_found               mistakes planted in the software that a schedule noticed
    planted                     how many were planted
    seeds_PLANT                 schedules until the mistake was noticed
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from report import Report, load_now, options, sized

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "simulation"), str(TESTS / "support")]

from sim_plants import PLANTS  # noqa: E402
from sim_run import first_failure, lay_aside_garbage, play_seed  # noqa: E402

WARM = 50
MOST = 20_000
"""A planted mistake must be noticed within so many schedules."""


def main() -> int:
    """Play schedules; return 1 where one fails, or a mistake is not noticed."""
    parser = options(__doc__)
    parser.add_argument("--schedules", type=int, help="how many, in place of the size's number")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    chosen = parser.parse_args()
    load = load_now()
    number = chosen.schedules or sized(chosen, full=(5_000,), quick=(1_000,), smoke=(20,))[0]
    for seed in range(WARM if chosen.size != "smoke" else 3):
        play_seed(seed)
    lay_aside_garbage()
    failures = []
    started = time.process_time()
    for seed in range(chosen.first, chosen.first + number):
        played = play_seed(seed)
        if played.violation:
            failures.append(seed)
            print(f"seed {seed}: {played.violation}", file=sys.stderr)
    minutes = (time.process_time() - started) / 60.0
    plants = sorted(PLANTS)[: 1 if chosen.size == "smoke" else None]
    noticed = {name: first_failure(PLANTS[name], most=MOST) for name in plants}
    figures = {
        "schedules_per_cpu_minute": number / minutes,
        "failures": len(failures),
        "planted_found": sum(seed is not None for seed in noticed.values()),
        "planted": len(plants),
        **{f"seeds_{n}": seed + 1 for n, seed in noticed.items() if seed is not None},
    }
    Report("schedules", chosen.size, load, figures).show(as_json=chosen.json)
    return 1 if failures or None in noticed.values() else 0


if __name__ == "__main__":
    sys.exit(main())
