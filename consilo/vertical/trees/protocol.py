"""The protocol ``vertical_trees``: the kind of trees that a job's ``histograms`` name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

from consilo.jobs.model_job import ModelJob
from consilo.vertical.trees.plain import PlainTrees
from consilo.vertical.trees.secure import SecureTrees

if TYPE_CHECKING:
    from consilo.jobs.job import Job
    from consilo.kernel.verbs import Verb


class VerticalTrees(PlainTrees):
    """Boosted trees over the columns of several silos; see the module of each kind."""

    runs_job_code = False

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with a job's settings: the one that its ``histograms`` ask for."""
        asked = ModelJob.of(job)
        kind = SecureTrees if asked.protocol.args.get("histograms") == "secure" else PlainTrees
        return cast(Self, kind(asked))

    @classmethod
    def verbs(cls) -> dict[str, Verb]:
        """Return the verbs of both kinds; each kind refuses the other's."""
        return SecureTrees.verbs()
