"""What a silo's keys look like, without any of them: shown to its own people when nothing matches.

What the steps of a key make nothing of is shown to them in any case.

Keys that no other silo has are mostly written otherwise there: ``1000`` and ``1000.0``, ``AB-12``
and ``ab12``. Lengths, kinds of signs and their shares tell; a value never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.jobs.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 5000
_FEW = 5
"""A length that fewer rows have could be one person's."""


def key_shapes(frame: pd.DataFrame, recipe: Recipe) -> list[str]:
    """Return a sentence for each part of each key: how its values look after the steps.

    Args:
        frame: canonical rows; the first 5000 are looked at.
        recipe: what the keys are.
    """
    rows = frame.iloc[:_ROWS]
    return [
        f"key {number + 1}, column {part.column} after [{', '.join(part.steps)}]: "
        f"{_shape(part.texts(rows[part.column]), len(rows))}"
        for number, key in enumerate(recipe.keys)
        for part in key.parts
    ]


def lost_parts(frame: pd.DataFrame, recipe: Recipe) -> list[str]:
    """Return a sentence for each part of each key whose steps leave nothing of some values.

    Args:
        frame: canonical rows; the first 5000 are looked at.
        recipe: what the keys are.
    """
    rows, told = frame.iloc[:_ROWS], []
    for number, key in enumerate(recipe.keys):
        for part in key.parts:
            column = rows[part.column]
            there = column.notna().to_numpy(dtype=bool)
            left = np.array([each is not None for each in part.texts(column)], dtype=bool)
            if (lost := int((there & ~left).sum())) > 0:
                told.append(
                    f"key {number + 1}, column {part.column}: the steps [{', '.join(part.steps)}] "
                    f"leave nothing of {_about(lost, int(there.sum()))} of its values, whose rows "
                    "have no such key; let the mapping write them as the others do"
                )
    return told


def _shape(values: list[str | None], num_rows: int) -> str:
    there = [each for each in values if each]
    if not there:
        return f"none of {num_rows} rows has one"
    lengths, counts = np.unique([len(each) for each in there], return_counts=True)
    common = lengths[counts >= min(_FEW, counts.max())]
    signs = "".join(there)
    total = len(signs)
    told = [
        _share("digits", sum(each.isdigit() for each in signs), total),
        _share("small letters", sum(each.islower() for each in signs), total),
        _share("capitals", sum(each.isupper() for each in signs), total),
        _share("blanks", sum(each.isspace() for each in signs), total),
        _share("points", signs.count("."), total),
        _share("dashes", signs.count("-"), total),
    ]
    known = sum(each.isalnum() or each.isspace() or each in ".-" for each in signs)
    told.append(_share("other signs", total - known, total))
    span = f"{common[0]}" if len(common) == 1 else f"{common[0]} to {common[-1]}"
    ends = sum(each.endswith(".0") for each in there)
    zeros = sum(each.startswith("0") for each in there)
    told += [
        _share("of them ending in .0", ends, len(there)),
        _share("of them beginning with 0", zeros, len(there)),
    ]
    return f"{_about(len(there), num_rows)} of the rows have one, {span} signs long, " + ", ".join(
        each for each in told if each
    )


def _share(name: str, count: Any, total: int) -> str:
    return f"{_about(count, total)} {name}" if count else ""


def _about(count: Any, total: int) -> str:
    """Return a share in coarse words: so that one odd value more or less is not seen."""
    share = count / total
    return "all" if share == 1 else f"{max(5, min(95, round(share * 20) * 5))}%"
