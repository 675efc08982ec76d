"""Score the rows of a match with a vertical model whose parts the silos keep.

The feature silos seal what their parts say of their columns; the label silo makes the scores of it
and keeps them for people there. Who learns what:

- **Label silo**: the scores, and for each row and feature silo what training told it too (class
  ``embedding``): a share of the score, an embedding, or which way the row goes at splits.
- **Feature silos**: nothing but which of their rows are asked for.
- **Coordinator**: how many rows, padded sizes of envelopes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from consilo.config import parse
from consilo.errors import IncompatibleJob, JobInvalid, Refused
from consilo.jobs.holders import Holders
from consilo.jobs.model_job import ModelJob
from consilo.kernel.steps import Answers, Step
from consilo.kernel.verbs import FromRows, count, verb
from consilo.kernel.view import Message, SiloView
from consilo.vertical import turns
from consilo.vertical.blocks import Batch, batch_of
from consilo.vertical.parts import Part, part_of_model
from consilo.vertical.roles import PARTS
from consilo.vertical.scoring import scorer_of, told
from consilo.vertical.training import Turn, VerticalTraining

_TOLD = "told"


class ScoreSettings(Holders):
    """``protocol.args`` of vertical_score."""

    model: str = Field(
        min_length=1,
        max_length=200,
        description="the model: id of the run that trained it, or models:/NAME@ALIAS or "
        "models:/NAME/VERSION of the registry",
    )


class VerticalScore(VerticalTraining):
    """Scores rows; trains nothing, so it has no rounds.

    Args:
        job: of the kind ``scoring``; ``protocol.args`` are those of `ScoreSettings`.
    """

    reads = ("task", "local.threads", "match*", "protocol.args", "protocol.rounds")
    tasks: ClassVar[tuple[str, ...]] = ("binary", "multiclass", "regression", "custom")
    keyed_by_run = True
    label_verbs: ClassVar[tuple[str, ...]] = ("score",)
    feature_verbs: ClassVar[tuple[str, ...]] = ("tell",)
    settings: ScoreSettings

    def __init__(self, job: ModelJob) -> None:
        super().__init__(job)
        where = f"{job.name}, protocol.args"
        self.settings = parse(ScoreSettings, job.protocol.args, where=where, error=JobInvalid)
        if job.privacy is not None:
            raise IncompatibleJob(
                "vertical_score is exact and adds no noise; a scoring job has no privacy section"
            )

    def begin(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Begin with the scoring at once."""
        return replace(state, is_trained=True)
        yield  # a generator without steps

    def finish(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Carry what the feature silos' parts say to the label silo, which keeps the scores."""
        label, others, everybody = self.settings.parties
        answers: Answers = yield turns.asked(others, everybody, "tell", {})
        own = {label: {"envelopes": turns.sent(answers, label)[label]}}
        yield turns.asked((label,), everybody, "score", {}, own)
        return replace(state, facts={"scored": float(state.rows)})

    @verb("tell", replies={"envelopes": turns.SCORES})
    def tell(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: seal what the own part says of the rows."""
        part, batch = self._opened(silo)
        outward = scorer_of(part, silo.search_path).outward(batch.features)
        post = turns.Post(silo, batch.mark)
        sealed = post.seal(part.label_silo, _TOLD, dict(outward))
        return {"envelopes": {part.label_silo: sealed}}

    @verb("score", replies={"rows": count(rows=FromRows.NONE)})
    def score(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: make the scores and keep them for people here."""
        part, batch = self._opened(silo)
        post = turns.Post(silo, batch.mark)
        letters = message.payload["envelopes"]
        others = {
            name: post.open(name, _TOLD, letters[name]) for name in self.settings.feature_silos
        }
        outputs = scorer_of(part, silo.search_path).outputs(batch.features, others)
        columns = {name: np.asarray(each) for name, each in told(part, outputs).items()}
        silo.role(PARTS).keep_scores(silo.header.run_id, batch.names.assign(**columns))
        return {"rows": len(batch.names)}

    def num_rows(self, silo: SiloView) -> int:
        """Return how many rows are matched, once they can be scored."""
        return len(self._opened(silo)[1].names)

    def _opened(self, silo: SiloView) -> tuple[Part, Batch]:
        part = part_of_model(silo, self.settings.model)
        if (part.label_silo, part.members) != (self.settings.label_silo, self.settings.members):
            raise Refused(
                f"the model's parts lie in {', '.join(part.members)}, its labels in "
                f"{part.label_silo}; protocol.args says otherwise",
                code="model",
            )
        batch = batch_of(
            silo, self.settings, inputs=part.inputs, features=part.features, scale=part.scale
        )
        return part, batch
