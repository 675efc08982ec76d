"""Federated analytics: count, mean, variance and histogram per column, over all silos.

Moments are merged pairwise (Chan, Golub, LeVeque 1979, equations 1.5a, b), so the result equals
that of the pooled rows to rounding. What leaves a silo: per column the count of values, their mean
and sum of squared deviations, or counts per bin; and the number of rows per class. These are
exact, not differentially private: the threat model says what that means.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilo.dataset import training_frame
from consilo.features import Encoding, Floats, class_codes
from consilo.protocol import Disclosure, Protocol, count, tensors, verb
from consilo.silo import Message, SiloView
from consilo.steps import Ask, Step

STATISTIC = Disclosure.STATISTIC


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations per column; float64, one entry a column."""

    count: Floats
    mean: Floats
    m2: Floats

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """Return the moments of the columns of ``values`` (rows, columns); NaN is missing."""
        count = np.sum(~np.isnan(values), axis=0).astype(np.float64)
        safe = np.maximum(count, 1.0)
        mean = np.nansum(values, axis=0) / safe
        return cls(count, mean, np.nansum((values - mean) ** 2, axis=0))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together."""
        count = self.count + other.count
        safe = np.maximum(count, 1.0)
        delta = other.mean - self.mean
        mean = self.mean + delta * other.count / safe
        m2 = self.m2 + other.m2 + delta**2 * self.count * other.count / safe
        return Moments(count, mean, m2)

    @property
    def variance(self) -> Floats:
        """Population variance per column."""
        return np.maximum(self.m2, 0.0) / np.maximum(self.count, 1.0)


@dataclass(frozen=True)
class Summary:
    """What the coordinator learns of all silos' training rows.

    Args:
        columns: the numeric features, in order.
        moments: over all silos.
        rows: silo → rows.
        class_counts: silo → rows per class, in the contract's order; empty for regression.
        edges: column → bin edges, where histograms were asked for.
        histogram: column → counts per bin over all silos.
        silo_means: silo → mean per column, to show how unlike the silos are.
    """

    columns: tuple[str, ...]
    moments: Moments
    rows: Mapping[str, int]
    class_counts: Mapping[str, tuple[int, ...]]
    edges: Mapping[str, Floats]
    histogram: Mapping[str, Floats]
    silo_means: Mapping[str, Floats]


class Statistics(Protocol):
    """Moments of every numeric feature, and if wanted its histogram.

    Args:
        bins: bins per histogram over mean ± 4 deviations, the outer ones open; 0 asks for none.
        moments: False asks for the number of rows, per class, and nothing of the features.
    """

    def __init__(self, bins: int = 0, *, moments: bool = True) -> None:
        self.bins = bins
        self.moments = moments or bins > 0

    def coordinate(self, fed: Any, state: Any) -> Generator[Step, Any, Summary]:
        """Merge the silos' moments; then, with ``bins``, ask for counts per bin."""
        cohort, quorum = fed.cohort(), fed.job.cohort_quorum
        encoding = Encoding.plan(fed.contract, fed.job)
        columns = encoding.numeric
        wanted = _templates(encoding, moments=self.moments)
        answers = yield Ask(cohort, "moments", wanted, quorum=quorum)
        parts = {name: reply.fields for name, reply in answers.replies.items()}
        merged: Moments | None = None
        for fields in parts.values() if self.moments else ():
            part = Moments(**{key: fields["moments"][key] for key in ("count", "mean", "m2")})
            merged = part if merged is None else merged.merge(part)
        moments = merged or Moments.of(np.empty((0, len(columns))))
        unknown = np.full(len(columns), np.nan)
        edges: dict[str, Floats] = {}
        histogram: dict[str, Floats] = {}
        if self.bins:
            edges = _edges(columns, moments, self.bins)
            empty = {name: np.zeros(self.bins) for name in columns}
            question = {"edges": edges, "counts": empty}
            counted = yield Ask(tuple(parts), "histogram", question, quorum=quorum)
            for reply in counted.replies.values():
                for name, counts in reply.fields["counts"].items():
                    histogram[name] = histogram.get(name, np.zeros(self.bins)) + counts
        return Summary(
            columns,
            moments,
            {name: fields["rows"] for name, fields in parts.items()},
            {
                name: tuple(int(each) for each in fields["classes"].get("counts", ()))
                for name, fields in parts.items()
            },
            edges,
            histogram,
            {name: fields["moments"].get("mean", unknown) for name, fields in parts.items()},
        )

    @verb(
        "moments",
        replies={
            "moments": tensors(STATISTIC, like="moments"),
            "classes": tensors(STATISTIC, like="classes"),
            "rows": count(STATISTIC),
        },
    )
    def silo_moments(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return the number of this silo's training rows and, if asked, the features' moments."""
        encoding = Encoding.plan(silo.contract, silo.job)
        frame = training_frame(silo, encoding)
        moments: dict[str, Floats] = {}
        if message.payload["moments"]:
            part = Moments.of(encoding.raw_numeric(frame))
            moments = {"count": part.count, "mean": part.mean, "m2": part.m2}
        classes = {}
        if encoding.classes:
            codes = class_codes(frame[encoding.targets[0]].to_numpy(object), encoding.classes)
            classes["counts"] = np.bincount(codes, minlength=len(encoding.classes))
        return {"moments": moments, "classes": classes, "rows": len(frame)}

    @verb("histogram", replies={"counts": tensors(STATISTIC, like="counts")})
    def silo_histogram(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return counts per bin of this silo's training rows."""
        encoding = Encoding.plan(silo.contract, silo.job)
        raw = encoding.raw_numeric(training_frame(silo, encoding))
        counts = {}
        for place, name in enumerate(encoding.numeric):
            values = raw[:, place]
            edges = np.asarray(message.payload["edges"][name], dtype=np.float64)
            bins = np.searchsorted(edges[1:-1], values[~np.isnan(values)], side="right")
            counts[name] = np.bincount(bins, minlength=len(edges) - 1).astype(np.float64)
        return {"counts": counts}


def _templates(encoding: Encoding, *, moments: bool) -> dict[str, Any]:
    """Return arrays of zeros like those of an answer, to check answers by."""
    zeros = np.zeros(len(encoding.numeric))
    counts = {"counts": np.zeros(len(encoding.classes), np.int64)} if encoding.classes else {}
    asked = ("count", "mean", "m2") if moments else ()
    return {"moments": {name: zeros for name in asked}, "classes": counts}


def _edges(columns: tuple[str, ...], moments: Moments, bins: int) -> dict[str, Floats]:
    deviation = np.sqrt(moments.variance)
    return {
        name: np.linspace(mean - 4 * width, mean + 4 * width, bins + 1)
        for name, mean, width in zip(
            columns, moments.mean, np.where(deviation > 0, deviation, 0.5), strict=True
        )
    }
