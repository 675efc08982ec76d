"""A silo that comes and goes is left out for some rounds, longer each time: each costs a wait.

One that was away once, or is away still, is asked in each round: re-joining always works.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from consilo.jobs.causes import AWAY
from consilo.jobs.quorum import Awaited
from consilo.kernel.loop import Exchange

_TIMES = 2
"""A silo may go so often before it is left out."""
_MOST_ROUNDS = 8


def benched(
    exchanges: Iterable[Exchange],
    round: int,
    *,
    silos: Sequence[str],
    here: Sequence[str],
    holds: Awaited,
) -> Mapping[str, str]:
    """Return who is left out of a round → why, in words that say when it is asked again.

    Going is to be away in a round after an answer in one before. The third time costs 2 rounds,
    each further one twice as many, 8 at most. Nobody is left out whom the quorum needs of those who
    are connected.

    Args:
        exchanges: of the run, in the order of their rounds; those outside of rounds do not count.
        round: that is to come, 1, 2, ….
        silos: who would be asked.
        here: who of them is connected.
        holds: whether the job's quorum holds with some; silos that it names are never left out.
    """
    was_here: dict[str, bool] = {}
    gone: dict[str, list[int]] = {}
    for each in exchanges:
        if not each.round:
            continue
        if each.fault is None:
            was_here[each.silo] = True
        elif each.fault.code in AWAY:
            if was_here.get(each.silo):
                gone.setdefault(each.silo, []).append(each.round)
            was_here[each.silo] = False
    found = {}
    for name in silos:
        times = gone.get(name, [])
        if name in holds.quorum.mandatory or len(times) <= _TIMES:
            continue
        again = times[-1] + 1 + min(_MOST_ROUNDS, 2 ** (len(times) - _TIMES))
        if round < again and was_here.get(name) is False:
            found[name] = f"came and went {len(times)} times; asked again in round {again}"
    return found if holds([name for name in here if name not in found]) else {}
