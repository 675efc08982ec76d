"""Cut one table into silos, as alike or as unlike as an experiment wants them.

Every row goes to exactly one silo, whatever the rule, and the same seed cuts alike on any machine.

| rule | silos differ in | set by |
|---|---|---|
| iid | nothing but chance | |
| dirichlet | their labels: Hsu, Qi, Brown 2019 (arXiv 1909.06335) | ``alpha``: small is unlike |
| column | the values of one column: a hospital, a region, a month | ``column`` |
| quantity | their number of rows | ``law`` and ``skew`` |

Differences from Hsu et al.: they draw each client's rows with its own label distribution
``q ~ Dirichlet(alpha * prior)`` until the classes run dry, which bends the clients that come last.
Here proportional fitting (Deming and Stephan 1940) bends all of them evenly, until every row is
dealt once and the silos are of equal size to within the number of classes.

>>> import numpy as np
>>> parts = cut(np.array([0, 0, 0, 1, 1, 1]), Partition(silos=2))
>>> list(parts), sorted(int(row) for rows in parts.values() for row in rows)
(['silo-0', 'silo-1'], [0, 1, 2, 3, 4, 5])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from consilo.config import Config, parse
from consilo.errors import ConfigInvalid
from consilo.kernel import seeds

Rows: TypeAlias = npt.NDArray[np.int64]
_Floats: TypeAlias = npt.NDArray[np.float64]

_LEAST_SHARE = 1e-9
"""Of a class that a silo hardly draws, so that proportional fitting has a solution."""
_FITTING_PASSES = 200
_BINS = 10


class Partition(Config):
    """How a table is cut into silos.

    Args:
        silos: how many.
        rule: a row of the module's table.
        alpha: dirichlet: concentration; 0.1 gives each silo a class or two, 100 is nearly IID.
        column: column: whose values make the silos.
        law: quantity: sizes fall as ``rank ** -skew``, or are log-normal with deviation ``skew``.
        skew: quantity: 0 makes all sizes equal.
        min_rows: the fewest rows of a silo; smaller ones get rows of the largest.
        seed: of every draw.
    """

    silos: int = Field(ge=1, le=1_000_000)
    rule: Literal["iid", "dirichlet", "column", "quantity"] = "iid"
    alpha: float = Field(0.5, gt=0, allow_inf_nan=False)
    column: str | None = None
    law: Literal["power", "lognormal"] = "power"
    skew: float = Field(1.0, ge=0, le=20)
    min_rows: int = Field(2, ge=1)
    seed: int = Field(0, ge=0)

    @classmethod
    def parse(cls, text: str, *, silos: int, seed: int = 0) -> Partition:
        """Return what a command line says: ``iid``, ``dirichlet:0.1``, ``column:ward``, …

        Args:
            text: a rule, and after a colon its alpha, column or skew; ``lognormal:1`` is the rule
                ``quantity`` with that law.
            silos: how many.
            seed: of every draw.

        Raises:
            ConfigInvalid: with one finding per fault.
        """
        rule, _, value = text.partition(":")
        said: dict[str, Any] = {"silos": silos, "rule": rule, "seed": seed}
        if rule in ("power", "lognormal"):
            said |= {"rule": "quantity", "law": rule}
        if value:
            key = {"dirichlet": "alpha", "column": "column"}.get(rule, "skew")
            said[key] = value
        return parse(cls, said, where=f"partition '{text}'")


def cut(values: npt.NDArray[Any], partition: Partition) -> dict[str, Rows]:
    """Return the rows of each silo, ascending, by its name.

    Args:
        values: one per row: the labels for ``dirichlet`` (numbers of more than 20 kinds are put
            into 10 bins of equal size), the column's values for ``column``; else only its length
            matters.
        partition: how.

    Raises:
        ConfigInvalid: where there are too few rows or values for that many silos.
    """
    number, count = partition.silos, len(values)
    needed = number * partition.min_rows
    if count < needed:
        raise ConfigInvalid(
            "partition",
            [f"{number} silos of {partition.min_rows} rows need {needed} rows, found {count}"],
        )
    rng = seeds.generator(partition.seed, "partition", partition.rule)
    if partition.rule == "column":
        groups = _by_value(values, number)
    elif partition.rule == "dirichlet":
        groups = _by_label(_codes(values), number, partition.alpha, rng)
    else:
        skew = partition.skew if partition.rule == "quantity" else 0.0
        ends = np.cumsum(_sizes(count, number, partition.law, skew, rng))[:-1]
        groups = np.split(rng.permutation(count), ends)
    if partition.rule == "column":
        small = min(len(each) for each in groups)
        if small < partition.min_rows:
            raise ConfigInvalid(
                "partition",
                [f"a value of the column has {small} rows, min_rows is {partition.min_rows}"],
            )
    else:
        _even_out(groups, partition.min_rows)
    return dict(zip(silo_names(number), map(np.sort, groups), strict=True))


def silo_names(number: int) -> tuple[str, ...]:
    """Return ``silo-000``, ``silo-001``, …: as many digits as the last needs, so they sort."""
    digits = len(str(number - 1))
    return tuple(f"silo-{place:0{digits}}" for place in range(number))


def label_skew(labels: npt.NDArray[Any], parts: Mapping[str, Rows]) -> float:
    """Return how unlike the silos' labels are: mean total variation distance to the whole table's.

    In [0, 1): 0 where every silo has the same shares, near 1 where each has a rare class only.
    """
    codes = _codes(labels)
    classes = int(codes.max()) + 1
    whole = np.bincount(codes, minlength=classes) / len(codes)
    apart = [
        np.abs(np.bincount(codes[rows], minlength=classes) / len(rows) - whole).sum() / 2
        for rows in parts.values()
    ]
    return float(np.mean(apart))


def _codes(values: npt.NDArray[Any]) -> Rows:
    kinds, codes = np.unique(np.asarray(values), return_inverse=True)
    codes = codes.astype(np.int64)
    if len(kinds) > 20 and kinds.dtype.kind in "iuf":
        order = np.argsort(codes, kind="stable")
        bins = np.empty(len(codes), np.int64)
        bins[order] = np.arange(len(codes)) * _BINS // len(codes)
        return bins
    return codes


def _by_label(codes: Rows, number: int, alpha: float, rng: np.random.Generator) -> list[Rows]:
    counts = np.bincount(codes).astype(np.float64)
    prior = counts / counts.sum()
    # Gamma draws that are normalised are a Dirichlet draw; a tiny alpha makes them all zero.
    drawn = rng.standard_gamma(np.broadcast_to(alpha * prior, (number, len(counts))))
    empty = drawn.sum(axis=1) == 0
    drawn[empty, rng.choice(len(counts), size=int(empty.sum()), p=prior)] = 1.0
    shares = drawn / drawn.sum(axis=1, keepdims=True) + _LEAST_SHARE
    size = len(codes) / number
    for _ in range(_FITTING_PASSES):
        shares *= size / shares.sum(axis=1, keepdims=True)
        shares *= counts / shares.sum(axis=0)
    groups: list[list[Rows]] = [[] for _ in range(number)]
    for label in range(len(counts)):
        rows = rng.permutation(np.flatnonzero(codes == label))
        ends = np.rint(np.cumsum(shares[:, label])[:-1]).astype(np.int64)
        for group, part in zip(groups, np.split(rows, np.clip(ends, 0, len(rows))), strict=True):
            group.append(part)
    return [np.concatenate(group) for group in groups]


def _by_value(values: npt.NDArray[Any], number: int) -> list[Rows]:
    kinds, codes = np.unique(np.asarray(values), return_inverse=True)
    if len(kinds) < number:
        raise ConfigInvalid(
            "partition", [f"the column has {len(kinds)} values, too few for {number} silos"]
        )
    counts = np.bincount(codes)
    # More values than silos: the largest first, each to the silo that has the fewest rows so far.
    silo_of = np.zeros(len(kinds), np.int64)
    loads = np.zeros(number, np.int64)
    for kind in np.argsort(-counts, kind="stable"):
        place = int(kind) if len(kinds) == number else int(np.argmin(loads))
        silo_of[kind] = place
        loads[place] += counts[kind]
    owners = silo_of[codes]
    return [np.flatnonzero(owners == place) for place in range(number)]


def _sizes(
    count: int, number: int, law: str, skew: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return whole sizes that sum to ``count``, by largest remainder."""
    if law == "power":
        weights: _Floats = np.arange(1, number + 1, dtype=np.float64) ** -skew
    else:
        weights = np.exp(skew * rng.standard_normal(number))
    exact: _Floats = count * weights / weights.sum()
    sizes: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    short = count - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:short]] += 1
    return sizes


def _even_out(groups: list[Rows], least: int) -> None:
    """Give silos below ``least`` rows of the largest, in place."""
    for place in range(len(groups)):
        while len(groups[place]) < least:
            donor = max(range(len(groups)), key=lambda each: len(groups[each]))
            spare = min(least - len(groups[place]), max((len(groups[donor]) - least) // 2, 1))
            groups[place] = np.concatenate([groups[place], groups[donor][-spare:]])
            groups[donor] = groups[donor][:-spare]
