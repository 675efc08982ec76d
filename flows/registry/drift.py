"""Federated column statistics as people read them: one row per column, and how far silos drift."""

from __future__ import annotations

import math
from typing import Any

from consilo.horizontal.statistics import Summary


def drift(found: Summary) -> dict[str, list[float]]:
    """Return silo → its mean minus the global one, in global deviations, column by column."""
    deviations = [math.sqrt(float(each)) for each in found.moments.variance]
    return {
        silo: [
            (float(own) - float(mean)) / deviation if deviation > 0 else 0.0
            for own, mean, deviation in zip(means, found.moments.mean, deviations, strict=True)
        ]
        for silo, means in found.silo_means.items()
    }


def column_table(found: Summary) -> list[dict[str, Any]]:
    """Return one row per column: count, mean, deviation, and each silo's drift."""
    drifts = drift(found)
    return [
        {
            "column": column,
            "count": int(found.moments.count[place]),
            "mean": _figure(float(found.moments.mean[place])),
            "deviation": _figure(math.sqrt(float(found.moments.variance[place]))),
            **{f"drift {silo}": _figure(each[place]) for silo, each in drifts.items()},
        }
        for place, column in enumerate(found.columns)
    ]


def _figure(value: float) -> float:
    return float(f"{value:.5g}")
