"""Federated analytics: count, mean, variance and histogram per column, over all silos.

Moments are merged pairwise (Chan, Golub, LeVeque 1979, equations 1.5a, b), so the result equals
that of the pooled rows to rounding. What leaves a silo: per column the count of values, their mean
and sum of squared deviations, or counts per bin; and the number of rows per class.

Exact, unless the job's ``privacy.statistics_epsilon`` says what a question may cost: then each row
is clipped to the contract's ranges, Gaussian noise from the silo's secret stream is added to sums
of a known L2 sensitivity (`consilo.privacy.sums`), and the data set's account pays. The number of
rows is public either way.

Where the job hides subjects, the rows of each weigh 1 together, their number is public in place of
that of the rows, and nothing exact is told: without ``privacy.statistics_epsilon``, their number
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consilo.errors import Refused
from consilo.horizontal.dataset import TrainingRows, training_rows
from consilo.horizontal.features import Encoding, Floats, class_codes, unbounded
from consilo.horizontal.learning import admit, statistics_noise
from consilo.jobs.job import Job
from consilo.jobs.table_job import TableJob
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Step
from consilo.kernel.verbs import Disclosure, FromRows, count, number, tensors, verb
from consilo.kernel.view import Message, SiloView
from consilo.privacy.noise import SecretStream
from consilo.privacy.sums import Sums, noisy_histogram

STATISTIC = Disclosure.STATISTIC
NOISY = FromRows.STATISTICS


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

    def of_at_least(self, least: int) -> Moments:
        """Return the same without columns of fewer values, as if these had none.

        The mean of one value is that value, however many rows have none.
        """
        told = (self.count >= least).astype(np.float64)
        return Moments(self.count * told, self.mean * told, self.m2 * told)

    def to_payload(self) -> dict[str, Floats]:
        """Return the moments as arrays by name."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

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
        target: of the target over all silos, where it was asked for.
        left_out: silo → rows on neither side of the job's split; of silos that have such and tell.
    """

    columns: tuple[str, ...]
    moments: Moments
    rows: Mapping[str, int]
    class_counts: Mapping[str, tuple[int, ...]]
    edges: Mapping[str, Floats]
    histogram: Mapping[str, Floats]
    silo_means: Mapping[str, Floats]
    target: Moments | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


class Statistics(Protocol[None]):
    """Moments of every numeric feature, and if wanted its histogram.

    Args:
        bins: bins per histogram over mean ± 4 deviations, the outer ones open; 0 asks for none.
        moments: False asks for the number of rows, per class, and nothing of the features.
        target: ask for the moments of the target, too: of values, without privacy.
    """

    runs_job_code = False

    def __init__(self, bins: int = 0, *, moments: bool = True, target: bool = False) -> None:
        self.bins = bins
        self.target = target
        self.moments = moments or bins > 0

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return whether a run scales features or shows them: all but people's questions do."""
        return not isinstance(job, TableJob) or job.describes_columns

    @classmethod
    def asks(cls, job: Job) -> frozenset[str]:
        """Return the names of verbs: a histogram is of analytics alone."""
        return frozenset({"moments", "histogram"} if job.kind == "analytics" else {"moments"})

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Summary]:
        """Merge the silos' moments; then, with ``bins``, ask for counts per bin."""
        cohort, quorum = fed.cohort(), fed.job.cohort_quorum
        encoding = Encoding.plan(fed.contract, fed.job)
        columns = encoding.numeric
        wanted = _templates(encoding, moments=self.moments, target=self.target)
        answers = yield Ask(cohort, "moments", wanted, quorum=quorum)
        asked = [key for key, each in wanted.items() if key != "classes" and each]
        parts = {
            name: reply.fields
            for name, reply in answers.replies.items()
            if all(key in reply.fields for key in asked)
        }
        moments = _merged(parts, "moments", len(columns) if self.moments else None)
        if moments is None:
            moments = Moments.of(np.empty((0, len(columns))))
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
                name: tuple(int(each) for each in fields.get("classes", {}).get("counts", ()))
                for name, fields in parts.items()
            },
            edges,
            histogram,
            {
                name: fields.get("moments", {}).get("mean", unknown)
                for name, fields in parts.items()
            },
            _merged(parts, "target", len(encoding.targets) if self.target else None),
            {name: int(each["left_out"]) for name, each in parts.items() if "left_out" in each},
        )

    @verb(
        "moments",
        replies={
            "moments": tensors(STATISTIC, like="moments", optional=True, rows=NOISY),
            "classes": tensors(STATISTIC, like="classes", optional=True, rows=NOISY),
            "target": tensors(STATISTIC, like="target", optional=True, rows=NOISY),
            "rows": count(STATISTIC, rows=FromRows.NONE),
            "left_out": number(STATISTIC, optional=True, rows=NOISY),
        },
    )
    def silo_moments(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return the number of this silo's training rows and, if asked, the features' moments."""
        encoding = Encoding.plan(silo.contract, silo.job)
        if message.payload["moments"]:
            silo.require_admitted("moments")
        of_target = "target" in message.payload
        if of_target:
            silo.require_admitted("target")
            if encoding.classes or silo.job.privacy is not None:
                raise Refused("exact moments of this job's target do not leave", code="privacy")
        if private_statistics(silo):
            return _private_moments(silo, encoding, moments=bool(message.payload["moments"]))
        training = training_rows(silo, encoding)
        silo.require_floor(STATISTIC, training.count)
        if silo.job.hides_subjects:
            if message.payload["moments"]:
                raise _exact()
            return {"rows": training.count}
        part: Moments | None = None
        target = Moments.of(np.empty((0, len(encoding.targets))))
        counts = np.zeros(len(encoding.classes), np.int64)
        for block, _ in training.blocks():
            if message.payload["moments"]:
                more = Moments.of(encoding.raw_numeric(block))
                part = more if part is None else part.merge(more)
            if of_target:
                values = encoding.target(block).reshape(len(block), -1)
                target = target.merge(Moments.of(values))
            if encoding.classes:
                codes = class_codes(block[encoding.targets[0]].to_numpy(object), encoding.classes)
                counts += np.bincount(codes, minlength=len(encoding.classes))
        least = silo.permitted.floors.get(STATISTIC, 1)
        return {
            "moments": {} if part is None else part.of_at_least(least).to_payload(),
            "classes": {"counts": counts} if encoding.classes else {},
            "rows": training.count,
            **({"target": target.of_at_least(least).to_payload()} if of_target else {}),
            **_left_out(silo, training),
        }

    @verb("histogram", replies={"counts": tensors(STATISTIC, like="counts", rows=NOISY)})
    def silo_histogram(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return counts per bin of this silo's training rows."""
        encoding = Encoding.plan(silo.contract, silo.job)
        edges = {
            name: np.asarray(message.payload["edges"][name], dtype=np.float64)
            for name in encoding.numeric
        }
        counts = {name: np.zeros(len(each) - 1) for name, each in edges.items()}
        private, mark = private_statistics(silo), hashlib.sha256()
        if silo.job.hides_subjects and not private:
            raise _exact()
        low, high = ranges_of(silo, encoding) if private else (None, None)
        training = training_rows(silo, encoding)
        silo.require_floor(STATISTIC, training.count)
        for block, weights in training.blocks():
            raw = encoding.raw_numeric(block)
            if private:
                mark.update(raw.tobytes() + _bytes(weights))
                raw = np.clip(raw, low, high)
            for place, (name, each) in enumerate(edges.items()):
                there = ~np.isnan(raw[:, place])
                bins = np.searchsorted(each[1:-1], raw[there, place], side="right")
                weighed = None if weights is None else weights[there]
                counts[name] += np.bincount(bins, weights=weighed, minlength=len(each) - 1)
        if private and counts:
            sigma, stream = reserve_noise(
                silo, "gaussian_histogram", mark.hexdigest(), training.count
            )
            counts = noisy_histogram(counts, sigma, stream)
        return {"counts": counts}


def private_statistics(silo: SiloView) -> bool:
    """Return whether the job's statistics are differentially private."""
    return silo.job.privacy is not None and silo.job.privacy.statistics_epsilon is not None


def reserve_noise(
    silo: SiloView, mechanism: str, fingerprint: str, num_rows: int
) -> tuple[float, SecretStream]:
    """Reserve one question about statistics; return its noise multiplier and secret stream.

    Args:
        silo: where; its job has ``privacy.statistics_epsilon``.
        mechanism: as the ledger calls it.
        fingerprint: of the rows.
        num_rows: how many there are, or how many subjects.

    Raises:
        BudgetExhausted: where the job's ε or the data set's account cannot pay.
    """
    privacy = silo.job.privacy
    assert privacy is not None
    sigma = statistics_noise(silo.kept_number, privacy)
    silo.reserve(
        mechanism,
        sigma=sigma,
        sample_rate=1.0,
        steps=1,
        rows=num_rows,
        fingerprint=fingerprint,
        admit=lambda history: admit(history, privacy),
    )
    return sigma, silo.noise(fingerprint)


def _private_moments(silo: SiloView, encoding: Encoding, *, moments: bool) -> dict[str, Any]:
    """Return the reply of ``moments`` from noisy sums over rows clipped to the contract's ranges.

    Raises:
        Refused: where the contract gives no ranges to clip to.
        BudgetExhausted: where it cannot be paid.
    """
    low, high = ranges_of(silo, encoding) if moments else (np.empty(0), np.empty(0))
    num_classes, mark = len(encoding.classes), hashlib.sha256()
    training = training_rows(silo, encoding)
    silo.require_floor(STATISTIC, training.count)
    sums = Sums.of(
        np.empty((0, len(low))), low=low, high=high, num_classes=num_classes, rows=training.count
    )
    for block, weights in training.blocks():
        values = encoding.raw_numeric(block) if moments else np.empty((len(block), 0))
        codes = None
        if num_classes:
            codes = class_codes(block[encoding.targets[0]].to_numpy(object), encoding.classes)
            mark.update(codes.tobytes())
        mark.update(values.tobytes() + _bytes(weights))
        part = Sums.of(
            values,
            low=low,
            high=high,
            codes=codes,
            num_classes=num_classes,
            weights=weights,
            rows=0,
        )
        sums = sums.plus(part)
    reply: dict[str, Any] = {"moments": {}, "classes": {}, "rows": sums.rows}
    if sums.vector.size:
        sigma, stream = reserve_noise(silo, "gaussian_sums", mark.hexdigest(), sums.rows)
        noisy = sums.noisy(sigma, stream)
        if moments:
            told = Moments(*noisy.moments())
            # By the noisy number of values: the floor holds where there is next to no noise.
            told = told.of_at_least(silo.permitted.floors.get(STATISTIC, 1))
            reply["moments"] = told.to_payload()
        if num_classes:
            reply["classes"] = {"counts": noisy.class_counts()}
    return reply


def _left_out(silo: SiloView, training: TrainingRows) -> dict[str, int]:
    """Return how many rows are on neither side of a job's split, where that may be told."""
    tells = silo.job.privacy is None and silo.admits("left_out")
    return {"left_out": training.left_out} if training.left_out and tells else {}


def _bytes(weights: Floats | None) -> bytes:
    """Return what names the rows' weights: other weights of the same rows are another question."""
    return b"" if weights is None else weights.tobytes()


def _exact() -> Refused:
    return Refused(
        "exact statistics tell of single rows, and this job hides subjects: give "
        "privacy.statistics_epsilon",
        code="privacy",
    )


def ranges_of(silo: SiloView, encoding: Encoding) -> tuple[Floats, Floats]:
    """Return the least and the largest value of each numeric column, by the contract."""
    if encoding.open_ended:
        raise Refused(unbounded(silo.contract, encoding), code="privacy")
    ends = [encoding.ranges[name] for name in encoding.numeric]
    low, high = np.array(ends, np.float64).reshape(-1, 2).T
    return low, high


def _templates(encoding: Encoding, *, moments: bool, target: bool) -> dict[str, Any]:
    """Return arrays of zeros like those of an answer, to check answers by."""
    counts = {"counts": np.zeros(len(encoding.classes), np.int64)} if encoding.classes else {}
    asked = {"moments": _empty(len(encoding.numeric)) if moments else {}, "classes": counts}
    return {**asked, "target": _empty(len(encoding.targets))} if target else asked


def _empty(size: int) -> dict[str, Floats]:
    return Moments.of(np.empty((0, size))).to_payload()


def _merged(parts: Mapping[str, Any], key: str, size: int | None) -> Moments | None:
    """Return the silos' moments together; None where ``size``, the columns asked for, is None."""
    if size is None:
        return None
    total: Moments | None = None
    for fields in parts.values():
        part = Moments(**{each: fields[key][each] for each in _empty(size)})
        total = part if total is None else total.merge(part)
    return total


def _edges(columns: tuple[str, ...], moments: Moments, bins: int) -> dict[str, Floats]:
    deviation = np.sqrt(moments.variance)
    return {
        name: np.linspace(mean - 4 * width, mean + 4 * width, bins + 1)
        for name, mean, width in zip(
            columns, moments.mean, np.where(deviation > 0, deviation, 0.5), strict=True
        )
    }
