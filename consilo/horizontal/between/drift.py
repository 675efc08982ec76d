"""Have a silo's rows moved since the last training? Each silo compares them with what it kept then.

At the end of a training each silo is told to *remember*: it keeps how its rows are spread over the
contract's bins (`consilo.contracts.bins`), and that stays with it. Asked to *compare* later, it
counts again, and answers per column with the population stability index, the Kolmogorov-Smirnov
distance, the change of the share that is missing, the share whose values were never there before,
and which of these pass the job's thresholds and chance (`consilo.metrics.shifts`). No count leaves.

Who asks chooses no bins, no rows and no reference: bins are the contract's, rows are all canonical
ones that the purpose may use, whatever the job holds out, and figures are rounded to hundredths, of
bins of five rows or as many as the silo's policy wants. So asking again tells nothing new.

With ``privacy.statistics_epsilon`` the counts are noisy, and paid once: they are kept, and answer
each such question for 20 hours while the number of rows, which is public, is the same. Not "while
the rows are the same": then a new answer would say that a row has changed. The reference is of the
same kind, a paid spread of the training's day; where none was paid for then, the first one after it
is. Training itself pays nothing for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Interface

import numpy as np

from consilo.contracts.bins import Bins, bins_of
from consilo.errors import Refused
from consilo.horizontal.learning import statistics_noise
from consilo.horizontal.statistics import private_statistics, reserve_noise
from consilo.horizontal.subjects import Subjects
from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job
from consilo.jobs.retrain import Retrain
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.roles import Role
from consilo.kernel.steps import Ask, Step
from consilo.kernel.verbs import Disclosure, FromRows, number, numbers, tensors, verb
from consilo.kernel.view import Message, SiloView
from consilo.metrics.shifts import Shift, shift
from consilo.privacy.noise import noise_std
from consilo.privacy.sums import noisy_histogram

Floats = np.ndarray[Any, np.dtype[np.float64]]

STATISTIC = Disclosure.STATISTIC
NOISY = FromRows.STATISTICS
INDICES = ("psi", "ks", "missing", "unseen")
"""What is told of each column."""
_OVER = "over"
"""Beside them: which of them are over threshold and chance, as bits, the first of them 1."""
SAME_FOR_S = 20 * 3600.0
"""So long a paid spread answers for; shorter than from one night to the next."""
_LEAST = 5
_DIGITS = 2


class Spreads(Interface):
    """Keeps how a silo's rows were spread, for as long as it is of use; it never leaves by itself.

    A name is 64 hexadecimal digits; of many names those that were kept last stay.
    """

    def spread(self, name: str, *, within_s: float | None) -> bytes | None:
        """Return what is kept under a name, unless it was kept longer ago; None is any time."""
        ...

    def keep_spread(self, name: str, content: bytes) -> None:
        """Keep something under a name, durably, in place of what was there."""
        ...

    def forget_spread(self, name: str) -> None:
        """Forget what is kept under a name, if anything is."""
        ...


SPREADS: Role[Spreads] = Role("spreads")


@dataclass(frozen=True)
class Moved:
    """What one silo said.

    Args:
        compared: whether it had a reference; else what it counted is the reference from now on.
        drifted: whether a column passed a threshold, and chance.
        indices: name of `INDICES` → column → figure.
        over: column → which indices passed, in their order; columns without are left out.
    """

    compared: bool
    drifted: bool
    indices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def reason(self) -> str:
        """Return in words what has moved; empty where nothing has."""
        told = [
            f"{column} ({', '.join(f'{name} {self.indices[name][column]:g}' for name in names)})"
            for column, names in self.over.items()
        ]
        return ", ".join(told)

    def to_json(self) -> dict[str, Any]:
        """Return it for records and programs."""
        return {
            "compared": self.compared,
            "drifted": self.drifted,
            "indices": {name: dict(each) for name, each in self.indices.items()},
            "over": {column: list(names) for column, names in self.over.items()},
        }


class Drift(Protocol[None]):
    """One question to everybody: have your rows moved; or one word: remember them as they are.

    Args:
        remember: tell the silos to keep their rows' spread as the reference, and ask nothing.
    """

    runs_job_code = False

    def __init__(self, *, remember: bool = False) -> None:
        self.remember_now = remember

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return whether the job trains where its silos' rows have moved."""
        return isinstance(job, Horizontal) and job.retrain is not None and job.retrain.asks_silos

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, dict[str, Moved]]:
        """Return what each silo said; of those that are told to remember, nothing."""
        columns = [each.column for each in bins_of(fed.contract)]
        if self.remember_now:
            yield Ask(fed.cohort(), "remember", {}, quorum=fed.job.cohort_quorum)
            return {}
        empty = {name: np.zeros(len(columns)) for name in (*INDICES, _OVER)}
        answers = yield Ask(
            fed.cohort(), "compare", {"indices": empty}, quorum=fed.job.cohort_quorum
        )
        return {
            name: _moved(columns, reply.fields["verdict"], reply.fields["indices"])
            for name, reply in answers.replies.items()
        }

    @verb(
        "compare",
        replies={
            "verdict": numbers(STATISTIC, rows=NOISY),
            "indices": tensors(STATISTIC, like="indices", rows=NOISY),
        },
    )
    def compare(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return how far this silo's rows have moved since the reference."""
        rule, bins = _rule(silo), bins_of(silo.contract)
        if not bins:
            raise Refused(
                "no column of the contract has bins: give the features a range with min and max, "
                "or allowed values",
                code="contract",
            )
        spreads = silo.role(SPREADS)
        now = _spread_now(silo, bins)
        kept = spreads.spread(_name(silo, "reference"), within_s=None)
        zeros = {name: np.zeros(len(bins)) for name in (*INDICES, _OVER)}
        if kept is None:
            spreads.keep_spread(_name(silo, "reference"), now.packed())
            return {"verdict": {"compared": 0.0, "drifted": 0.0}, "indices": zeros}
        before = Spread.unpacked(kept)
        least = max(_LEAST, silo.permitted.floors.get(STATISTIC, 1))
        for place, each in enumerate(bins):
            found = shift(
                before.counts[each.column],
                now.counts[each.column],
                is_ordered=each.is_ordered,
                noise_before=before.noise,
                noise_now=now.noise,
                least=float(least),
            )
            for bit, (name, figure, is_over) in enumerate(_judged(found, rule)):
                zeros[name][place] = figure
                zeros[_OVER][place] += is_over * 2**bit
        drifted = float(zeros[_OVER].any())
        return {"verdict": {"compared": 1.0, "drifted": drifted}, "indices": zeros}

    @verb("remember", replies={"told": number(STATISTIC, rows=FromRows.NONE)})
    def remember(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Keep how this silo's rows are spread as the reference for later questions.

        A private job keeps what was paid for within `SAME_FOR_S`, or nothing; nothing is paid now.
        """
        _rule(silo)
        spreads, reference = silo.role(SPREADS), _name(silo, "reference")
        bins = bins_of(silo.contract)
        if not private_statistics(silo):
            _require_exact(silo)
            spreads.keep_spread(reference, _counted(silo, bins).packed())
            return {"told": 1.0}
        paid = spreads.spread(_name(silo, "paid"), within_s=SAME_FOR_S)
        if paid is None:
            spreads.forget_spread(reference)
        else:
            spreads.keep_spread(reference, paid)
        return {"told": 1.0}


@dataclass(frozen=True)
class Spread:
    """How a silo's rows are spread over bins.

    Args:
        counts: column → rows per bin, subjects where the job hides those; the last is missing.
        rows: how many there are, or subjects; public.
        noise: standard deviation of the noise on each count; 0 where they are exact.
        mark: SHA-256 of what was counted; empty once it is noisy.
    """

    counts: Mapping[str, Floats]
    rows: int
    noise: float = 0.0
    mark: str = ""

    def packed(self) -> bytes:
        """Return it as JSON."""
        counts = {name: each.tolist() for name, each in self.counts.items()}
        return json.dumps({"counts": counts, "rows": self.rows, "noise": self.noise}).encode()

    @classmethod
    def unpacked(cls, content: bytes) -> Spread:
        """Return what `packed` wrote."""
        value = json.loads(content)
        counts = {name: np.array(each, np.float64) for name, each in value["counts"].items()}
        return cls(counts, int(value["rows"]), float(value["noise"]))


def _spread_now(silo: SiloView, bins: tuple[Bins, ...]) -> Spread:
    """Return how the rows are spread now: exactly, or noisy and paid for, today or before."""
    exact = _counted(silo, bins)
    silo.require_floor(STATISTIC, exact.rows)
    if not private_statistics(silo):
        _require_exact(silo)
        return exact
    spreads, name = silo.role(SPREADS), _name(silo, "paid")
    paid = spreads.spread(name, within_s=SAME_FOR_S)
    if paid is not None:
        known = Spread.unpacked(paid)
        if known.rows == exact.rows:
            return known
    sigma, stream = reserve_noise(silo, "gaussian_drift", exact.mark, exact.rows)
    counts = noisy_histogram(dict(exact.counts), sigma, stream)
    size = sum(each.size for each in counts.values())
    noise = noise_std(sigma, sensitivity=float(np.sqrt(len(counts))), size=size)
    noisy = Spread(counts, exact.rows, noise)
    spreads.keep_spread(name, noisy.packed())
    return noisy


def _counted(silo: SiloView, bins: tuple[Bins, ...]) -> Spread:
    """Count the rows per bin; where the job hides subjects, those of one weigh 1 together."""
    frame = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
    weights, rows = None, len(frame)
    if silo.job.hides_subjects:
        whose = silo.contract.subject
        if whose is None:
            raise Refused("the contract names no subject to hide", code="privacy")
        import pandas as pd

        subjects = Subjects(pd.factorize(frame[whose])[0].astype(np.int64))
        weights, rows = subjects.weights, subjects.count
    mark, counts = hashlib.sha256(), {}
    if weights is not None:
        mark.update(weights.tobytes())
    for each in bins:
        places = each.places(frame[each.column])
        mark.update(places.tobytes())
        found = np.bincount(places, weights=weights, minlength=each.size)
        counts[each.column] = found.astype(np.float64)
    return Spread(counts, rows, 0.0, mark.hexdigest())


def _judged(found: Shift, rule: Retrain) -> list[tuple[str, float, bool]]:
    """Return name, rounded figure, and whether it is over the job's threshold and over chance."""
    told = (
        ("psi", found.psi, rule.psi, found.psi_by_chance),
        ("ks", found.ks, rule.ks, found.ks_by_chance),
        ("missing", found.missing, rule.missing, found.missing_by_chance),
        ("unseen", found.unseen, rule.unseen, found.unseen_by_chance),
    )
    return [
        (name, round(figure, _DIGITS), abs(figure) > max(limit, by_chance))
        for name, figure, limit, by_chance in told
    ]


def _moved(
    columns: list[str], verdict: Mapping[str, float], indices: Mapping[str, Floats]
) -> Moved:
    if not verdict.get("compared"):
        return Moved(compared=False, drifted=False)
    over = {
        column: tuple(name for bit, name in enumerate(INDICES) if int(bits) & 2**bit)
        for column, bits in zip(columns, indices[_OVER], strict=True)
    }
    return Moved(
        compared=True,
        drifted=bool(verdict.get("drifted")),
        indices={
            name: dict(zip(columns, map(float, indices[name]), strict=True)) for name in INDICES
        },
        over={column: names for column, names in over.items() if names},
    )


def _rule(silo: SiloView) -> Retrain:
    job = silo.job
    if not isinstance(job, Horizontal) or job.retrain is None or not job.retrain.asks_silos:
        raise Refused("the job does not say that it trains when rows drift", code="verb")
    return job.retrain


def _require_exact(silo: SiloView) -> None:
    if silo.job.hides_subjects:
        raise Refused(
            "a job that hides subjects asks for no exact spread: give privacy.statistics_epsilon",
            code="privacy",
        )


def _name(silo: SiloView, what: str) -> str:
    """Return the name under which a spread is kept; paid and exact ones never meet."""
    kind: list[Any] = ["exact"]
    privacy = silo.job.privacy
    if private_statistics(silo):
        assert privacy is not None
        kind = [privacy.unit]
        if what == "paid":
            kind.append(statistics_noise(silo.kept_number, privacy))
    if what == "reference":
        kind.append(silo.job.name)
    said = [what, silo.rows.dataset(silo.contract), silo.contract.digest, silo.job.purpose, *kind]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
