"""The mean of a cohort's vectors as an estimate of all silos' mean (Horvitz, Thompson 1952).

A silo that was drawn with probability π stands for 1/π silos: with the weight a (its rows, or 1),
the estimate is Σ a Δ / π over those drawn, over the a of all who could be. Its expectation over
draws is the mean of all, whatever the probabilities are; drawn uniformly it is the second scheme of
Li, Huang, Yang, Wang, Zhang (2020), by Poisson that of McMahan, Ramage, Talwar, Zhang (2018):
1/(qN) of each. Where everybody is drawn it is the mean, to the bit.

Differences from these papers: deltas are weighted, not models, so that weights which do not sum to
one make a step longer or shorter, and nothing else; the draw is without replacement, also by rows;
of those who were drawn and did not answer, those who did take over the weight.

Vectors that no optimiser sees (a model's buffers) are averaged with weights that sum to one,
a / π over their sum: a variance stays one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consilo.jobs.quorum import Quorum
from consilo.kernel.steps import Reply, Step, Stream
from consilo.reduce import Gives, Reduced
from consilo.reduce.draw import Draw
from consilo.reduce.mean import Total, finish, fold, no_rows

ROWS = "num_examples"
"""The reply field whose sum over all silos is known: their rows."""


@dataclass(frozen=True)
class DrawnMean:
    """Combines the vectors of one draw.

    Args:
        draw: who was drawn, with which probabilities.
        convex: reply fields whose mean has weights that sum to one.
    """

    draw: Draw
    convex: tuple[str, ...] = ()
    gives: Gives = "vectors"
    linear: bool = True
    passes: int = 1

    def __call__(
        self,
        members: Sequence[str],
        verb: str,
        payload: Mapping[str, Any],
        *,
        vectors: Mapping[str, str | None],
        quorum: Quorum | None,
    ) -> Generator[Step, Any, Reduced]:
        """Ask ``verb`` of ``members``, who were drawn, and return the estimate for each field.

        Raises:
            RunFailed: where the quorum is not met, or nobody holds a row.
        """
        replies = yield Stream(members, verb, payload, quorum=quorum)
        totals: dict[str, Total] = {}
        masses = dict.fromkeys(vectors, 0.0)
        shares: dict[str, float] = {}
        first = next(iter(vectors))
        others: dict[str, Reply] = {}
        for reply in replies:
            fields = dict(reply.fields)
            for name, weight in vectors.items():
                amount = (1 if weight is None else fields[weight]) / self.draw.share(reply.silo)
                totals[name] = fold(totals.get(name), fields.pop(name), amount)
                masses[name] += amount
                if name == first:
                    shares[reply.silo] = amount
            others[reply.silo] = Reply(reply.silo, fields, reply.seconds)
            del reply
        if not totals or not all(masses.values()):
            raise no_rows(verb, members)
        for name, weight in vectors.items():
            if name not in self.convex:
                masses[name] *= self.draw.correction(by_rows=weight is not None)
        weights = {silo: share / masses[first] for silo, share in shares.items()}
        means = {name: finish(totals.pop(name), masses[name]) for name in vectors}
        return Reduced(means, others, told={"weights": weights})
