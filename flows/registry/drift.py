"""Federated column statistics as people read them: one row per column, and how far silos drift."""

from __future__ import annotations

import math
from typing import Any

from consilo.horizontal.statistics import Summary


def drift(summary: Summary) -> dict[str, list[float]]:
    """Return silo → its mean minus the global one, in global deviations, column by column."""
    deviations = [math.sqrt(float(each)) for each in summary.moments.variance]
    return {
        silo: [
            (float(own) - float(mean)) / deviation if deviation > 0 else 0.0
            for own, mean, deviation in zip(means, summary.moments.mean, deviations, strict=True)
        ]
        for silo, means in summary.silo_means.items()
    }


def column_table(summary: Summary) -> list[dict[str, Any]]:
    """Return one row per column: count, mean, deviation, and each silo's drift."""
    drifts = drift(summary)
    return [
        {
            "column": column,
            "count": int(summary.moments.count[place]),
            "mean": _figure(float(summary.moments.mean[place])),
            "deviation": _figure(math.sqrt(float(summary.moments.variance[place]))),
            **{f"drift {silo}": _figure(each[place]) for silo, each in drifts.items()},
        }
        for place, column in enumerate(summary.columns)
    ]


def _figure(value: float) -> float:
    return float(f"{value:.5g}")
