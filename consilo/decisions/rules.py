"""By which rules a silo's policy turns what its held-out rows say of a model into a vote.

`verdict` is all there is to it: No, where an interval lies below the tolerance, or another rule is
broken beyond doubt; yes, where every interval lies above it and every other rule is kept; else
abstain. What the policy wants judged and nobody could judge is no yes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from consilo.config import Config
from consilo.decisions.vote import Verdict
from consilo.metrics.bootstrap import LEVEL, Interval

CHAMPION, LOCAL, CONSTANT = "champion", "local", "constant"
"""What a candidate is compared with: the model in use; the silo's own, trained here alone; where
there is no champion, one answer for everybody."""


class FairnessRule(Config):
    """How alike a model must treat the groups that the contract declares.

    Args:
        metric: the figure that is compared; one that `consilo.metrics.bootstrap.FIGURES` has for
            the job's task.
        gap: the largest difference between two groups, in the figure's units; of ``rmse`` and
            ``mae`` as a share of the largest.
        floor: held-out rows of a group below which it stays unjudged.
    """

    metric: str = "accuracy"
    gap: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    floor: int = Field(default=30, ge=1)


class VoteRules(Config):
    """When a silo says yes or no to a model.

    Args:
        decided_by: ``policy``: these rules; ``people``: nobody but people here, by
            ``consilo silo vote``; until then the silo abstains.
        tolerance: by how much the job's metric may be worse than that of the champion and of the
            silo's own model, in its units; of ``rmse`` and ``mae`` as a share of the other's.
        level: of the intervals that tell models apart.
        min_rows: held-out rows, or people where rows belong to people, below which the silo
            abstains.
        fairness: how alike groups must be treated; None judges nothing.
        max_ece: the largest expected calibration error of a binary model.
        max_brier: the largest Brier score.
        max_epsilon: the largest ε that the candidate's training may have cost here; a model without
            differential privacy is above any.
        figures: whether the numbers behind a vote leave, or the vote alone.
        per_day: votes about models within 24 hours; later ones abstain. A question that was asked
            before gets the answer that it got, and is not counted. None sets no limit.
    """

    decided_by: Literal["policy", "people"] = "policy"
    tolerance: float = Field(default=0.02, ge=0, allow_inf_nan=False)
    level: float = Field(default=LEVEL, ge=0.5, le=0.999)
    min_rows: int = Field(default=50, ge=1)
    fairness: FairnessRule | None = None
    max_ece: float | None = Field(default=None, gt=0, le=1)
    max_brier: float | None = Field(default=None, gt=0, le=2)
    max_epsilon: float | None = Field(default=None, gt=0)
    figures: Literal["numbers", "verdict"] = "numbers"
    per_day: int | None = Field(default=20, ge=1)

    @property
    def calibrates(self) -> bool:
        """Whether chances are held against what came true."""
        return self.max_ece is not None or self.max_brier is not None


@dataclass(frozen=True)
class Evidence:
    """What a silo's held-out rows say of a candidate.

    Args:
        rows: how many there are, or how many people they belong to.
        gains: whom it is compared with → by how much it is better; None where that is not defined.
        gaps: column of groups → the largest difference between them; None where that is unknown.
        errors: ``ece`` and ``brier``, as far as they were asked for; None where unknown.
        epsilon: what its training cost here at most; None without differential privacy.
        lacking: codes of what could not be judged, whatever the rows.
    """

    rows: int
    gains: Mapping[str, Interval | None] = field(default_factory=dict)
    gaps: Mapping[str, Interval | None] = field(default_factory=dict)
    errors: Mapping[str, Interval | None] = field(default_factory=dict)
    epsilon: float | None = None
    lacking: tuple[str, ...] = ()

    def figures(self) -> dict[str, float]:
        """Return the numbers, as `consilo.decisions.vote.Vote` names them."""
        found: dict[str, float] = {"rows": float(self.rows)}
        for whom, each in self.gains.items():
            if each is not None:
                found |= {
                    f"gain/{whom}": each.value,
                    f"low/{whom}": each.low,
                    f"high/{whom}": each.high,
                }
        found |= {f"gap/{name}": each.value for name, each in self.gaps.items() if each is not None}
        return found | {name: e.value for name, e in self.errors.items() if e is not None}


def verdict(rules: VoteRules, seen: Evidence) -> tuple[Verdict, tuple[str, ...]]:
    """Return what a silo's rules say of a model, and why: codes of `consilo.decisions.vote`.

    >>> verdict(VoteRules(), Evidence(80, {"champion": Interval(0.0, -0.01, 0.03)}))
    ('yes', ('not_worse',))
    >>> verdict(VoteRules(), Evidence(80, {"champion": Interval(0.0, -0.05, 0.05)}))
    ('abstain', ('uncertain_champion',))
    >>> verdict(VoteRules(), Evidence(80, {"champion": Interval(-0.1, -0.15, -0.05)}))
    ('no', ('worse_than_champion',))
    """
    against = broken_beforehand(rules, seen.epsilon)
    unsure = list(seen.lacking)
    if seen.rows < rules.min_rows:
        unsure.append("few_rows")
    else:
        for found in (_gains(rules, seen), _gaps(rules, seen), _errors(rules, seen)):
            against += found[0]
            unsure += found[1]
    if against:
        return "no", tuple(dict.fromkeys(against))
    if unsure:
        return "abstain", tuple(dict.fromkeys(unsure))
    return "yes", ("not_worse",)


def broken_beforehand(rules: VoteRules, epsilon: float | None) -> list[str]:
    """Return which rules a model breaks whatever the rows say: the ε that it cost."""
    most = rules.max_epsilon
    return [] if most is None or (epsilon is not None and epsilon <= most) else ["epsilon"]


def _gains(rules: VoteRules, seen: Evidence) -> tuple[list[str], list[str]]:
    against, unsure = [], []
    for whom, each in seen.gains.items():
        if each is None:
            unsure.append(f"uncertain_{whom}")
        elif each.high < -rules.tolerance:
            against.append(f"worse_than_{whom}")
        elif each.low <= -rules.tolerance:
            unsure.append(f"uncertain_{whom}")
    if not seen.gains and not seen.lacking:
        unsure.append("metric")
    return against, unsure


def _gaps(rules: VoteRules, seen: Evidence) -> tuple[list[str], list[str]]:
    if rules.fairness is None:
        return [], []
    known = [each for each in seen.gaps.values() if each is not None]
    if not known:
        return [], ["fairness_unjudged"]
    worst = [_beyond(each, rules.fairness.gap) for each in known]
    return (
        ["unfair"] if "yes" in worst else [],
        ["fairness_uncertain"] if "perhaps" in worst else [],
    )


def _errors(rules: VoteRules, seen: Evidence) -> tuple[list[str], list[str]]:
    against, unsure = [], []
    for name, most in (("ece", rules.max_ece), ("brier", rules.max_brier)):
        if most is None:
            continue
        each = seen.errors.get(name)
        found = "unknown" if each is None else _beyond(each, most)
        against += ["uncalibrated"] if found == "yes" else []
        unsure += ["calibration_unjudged"] if found == "unknown" else []
        unsure += ["calibration_uncertain"] if found == "perhaps" else []
    return against, unsure


def _beyond(found: Interval, most: float) -> Literal["yes", "no", "perhaps"]:
    """Return whether a figure is above a limit: as it is, and beyond the doubt of few rows."""
    if found.value <= most:
        return "no"
    return "yes" if found.low > most else "perhaps"
