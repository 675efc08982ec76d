"""What a run's history costs, computed once per silo and kept, some rounds ahead.

Every message is answered by a fresh process, in which the accountants start without what they had
worked out for the round before: 0.2 to 0.3 s of CPU, four fifths of it for the Rényi orders of one
(rate, noise), which are the same in every round. So whoever has to compute computes the rounds that
follow as well, at a third of the price each. Kept is `accounting.spent` itself, under the exact
history; nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from consilo.privacy.accounting import HistoryRow, Spend, _merged, spent

Keep: TypeAlias = Callable[[str, Callable[[], float]], float]
"""Returns the number kept under a key, or builds and keeps it: `SiloView.kept_number`."""

AHEAD = 16
"""Rounds that are computed at once; more would make the first of them wait."""


def afresh(key: str, build: Callable[[], float]) -> float:
    """Keep nothing."""
    return build()


def kept_spend(keep: Keep, history: Sequence[Sequence[float]], delta: float) -> Spend:
    """Return `spent` of a history, to the last bit, from what is kept or computed now."""
    rows = _merged(history)
    name = f"{rows} at {delta!r}"
    return Spend(
        epsilon_prv=keep(f"epsilon prv {name}", lambda: spent(rows, delta).epsilon_prv),
        epsilon_rdp=keep(f"epsilon rdp {name}", lambda: spent(rows, delta).epsilon_rdp),
        delta=delta,
    )


def keep_ahead(
    keep: Keep, history: Sequence[HistoryRow], step: HistoryRow, delta: float, *, rounds: int
) -> int:
    """Compute what the next rounds will cost, unless the next one is kept; return how many.

    Args:
        keep: where.
        history: up to now.
        step: what each round adds.
        delta: the probability that the bounds do not cover.
        rounds: how many are to come; at most `AHEAD` of them are computed.
    """
    built = 0

    def noting(key: str, build: Callable[[], float]) -> float:
        def noted() -> float:
            nonlocal built
            built += 1
            return build()

        return keep(key, noted)

    rows = list(history)
    for done in range(min(rounds, AHEAD)):
        rows.append(step)
        before = built
        kept_spend(noting, rows, delta)
        if built == before:
            return done
    return min(rounds, AHEAD)
