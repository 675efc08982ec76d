"""What one ε is about: a row, or a subject with all of its rows; and how accounts tell them apart.

A ledger's entry names its unit within its mechanism and its mark (``dp_sgd/subject``): so entries,
and uses that linked ledgers tell one another, keep their form. What names none is about rows, as
all entries of releases before were.

What an entry about subjects says of one row, there or not: it changes what its subject adds from
one vector within the ball to another, by twice the ball's radius at most, and the number of
subjects stays or changes by that one. So it counts as one with half the noise multiplier. With
sampling the subject takes part either way, by the same chance, and the Rényi divergence of the two
mixtures is at most that of the plain pair at half the noise (tests/privacy/test_unit.py integrates
both over rates, noises and all orders of the accountant). PRV's pair of distributions does not
dominate it, so that such an account is bounded by Rényi moments alone.

What an entry about rows says of a subject depends on how many rows it has, which nothing bounds: it
is not covered.
"""

from __future__ import annotations

from collections.abc import Iterable

from consilo.jobs.job import Unit

_MARK = "/subject"
_Row = tuple[float, float, int]


def named(mechanism: str, unit: Unit) -> str:
    """Return how the ledger calls a mechanism, or a use of one, that hides a unit.

    >>> named("dp_sgd", "subject"), named("dp_sgd", "record")
    ('dp_sgd/subject', 'dp_sgd')
    """
    return mechanism + _MARK if unit == "subject" else mechanism


def unit_of(name: str) -> Unit:
    """Return the unit of a mechanism, or of a use, as the ledger calls it."""
    return "subject" if name.endswith(_MARK) else "record"


def plain(name: str) -> str:
    """Return a mechanism's name without its unit."""
    return name.removesuffix(_MARK)


def seen(uses: Iterable[tuple[Unit, _Row]], unit: Unit) -> tuple[list[_Row], bool]:
    """Return what uses cost a row, or a subject, and whether PRV bounds it too.

    Args:
        uses: what each hides, and its (noise multiplier, sampling rate, steps).
        unit: whose cost is asked for.

    >>> seen([("subject", (4.0, 1.0, 1)), ("record", (3.0, 0.5, 2))], "record")
    ([(2.0, 1.0, 1), (3.0, 0.5, 2)], True)
    >>> seen([("subject", (4.0, 0.1, 1)), ("record", (3.0, 0.5, 2))], "subject")
    ([(4.0, 0.1, 1)], True)
    """
    found, is_tight = [], True
    for hides, (sigma, rate, steps) in uses:
        if hides == unit:
            found.append((sigma, rate, steps))
        elif unit == "record":
            found.append((sigma / 2, rate, steps))
            is_tight = is_tight and rate >= 1
    return found, is_tight
