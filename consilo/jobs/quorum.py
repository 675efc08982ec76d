"""Who takes part: quorum and deadlines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from consilo.jobs.causes import AWAY, failure, not_asked
from consilo.wire.parcel import Fault


@dataclass(frozen=True)
class Quorum:
    """Who must have answered for a result to count.

    Args:
        min_silos: how many, at least 1.
        min_data_share: share in [0, 1] of the rows of all silos known to hold any.
        mandatory: silos without which nothing counts.
    """

    min_silos: int = 1
    min_data_share: float = 0.0
    mandatory: tuple[str, ...] = ()

    def require(
        self,
        answered: Collection[str],
        *,
        missing: Mapping[str, Fault],
        num_examples: Mapping[str, int],
        where: str,
    ) -> None:
        """Raise a `RunFailed`, of the class of the cause, unless enough silos answered.

        Args:
            answered: who did.
            missing: who did not → why.
            num_examples: silo → rows, for those that told; the share is taken of these.
            where: the place in the run, for the message.
        """
        faults, absent = self._lacks(answered, num_examples)
        if faults:
            # Where only mandatory silos lack, why others do not answer is not the cause.
            needed = absent if absent and len(faults) == 1 else missing
            error = failure(
                where,
                "; ".join(faults),
                {name: fault for name, fault in missing.items() if name in needed},
            )
            may_answer = (*AWAY, not_asked().code)
            out = frozenset(n for n, each in missing.items() if each.code not in may_answer)
            awaited = Awaited(self, dict(num_examples), out)
            if awaited({*answered, *missing}):
                error.awaits = awaited
            raise error

    def _lacks(
        self, answered: Collection[str], num_examples: Mapping[str, int]
    ) -> tuple[list[str], list[str]]:
        """Return what is not reached with those who answered, and which mandatory silos lack."""
        faults = []
        if len(answered) < self.min_silos:
            faults.append(f"{len(answered)} of at least {self.min_silos} silos answered")
        absent = [name for name in self.mandatory if name not in answered]
        if absent:
            faults.append(f"mandatory: {', '.join(absent)}")
        total = sum(num_examples.values())
        if total and self.min_data_share:
            share = sum(num_examples.get(name, 0) for name in answered) / total
            if share < self.min_data_share:
                faults.append(
                    f"they hold {share:.0%} of the rows, at least {self.min_data_share:.0%} needed"
                )
        return faults, absent


@dataclass(frozen=True)
class Awaited:
    """Whether a quorum that was lost may be reached again.

    Args:
        quorum: what is to be reached.
        num_examples: silo → rows.
        out: who has said no, and would say so again.
    """

    quorum: Quorum
    num_examples: Mapping[str, int] = field(default_factory=dict)
    out: frozenset[str] = frozenset()

    def __call__(self, online: Collection[str]) -> bool:
        """Return whether those who are connected suffice."""
        here = [name for name in online if name not in self.out]
        return not self.quorum._lacks(here, self.num_examples)[0]


@dataclass(frozen=True)
class Deadline:
    """How long a step waits for its slowest silo, in seconds.

    A fixed deadline is what the job says. A learnt one (``fixed_s`` None) waits ``first_s`` while
    nothing is known, then ``factor`` times the slowest answer of the same verb so far, at least
    ``least_s``: a dead silo costs a few rounds, not an hour, and a slow healthy one is safe.
    """

    fixed_s: float | None = None
    first_s: float = 600.0
    factor: float = 5.0
    least_s: float = 30.0

    def seconds(self, history: Sequence[float]) -> float:
        """Return the deadline in seconds, given the same verb's answer times so far."""
        if self.fixed_s is not None:
            return self.fixed_s
        if not history:
            return self.first_s
        return min(self.first_s, max(self.least_s, self.factor * max(history)))
