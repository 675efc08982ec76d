"""What all kinds of jobs share that train a model, or work with one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from consilo.errors import JobInvalid
from consilo.jobs.cohort import CohortSpec
from consilo.jobs.job import (
    DottedPath,
    Local,
    MatchSpec,
    ModelSpec,
    ProtocolSpec,
    ReduceSpec,
)
from consilo.jobs.promotion import Promotion
from consilo.jobs.table_job import TableJob


def _model_spec(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class ModelJob(TableJob):
    """A job about a model: which, by which algorithm, and how long."""

    model: Annotated[
        ModelSpec | None,
        BeforeValidator(_model_spec, json_schema_input_type=str | ModelSpec | None),
    ] = Field(
        None,
        description="what is trained; vertical_linear and vertical_trees have models of their own",
    )
    loss: DottedPath | None = Field(None, description="module:function(outputs, targets)")
    metrics: DottedPath | None = Field(None, description="module:function(outputs, targets)")
    outputs: int | None = Field(None, ge=1, description="the model's outputs; needed for custom")
    protocol: ProtocolSpec = ProtocolSpec()
    local: Local = Local(epochs=1)
    reduce: ReduceSpec = ReduceSpec()
    promotion: Promotion | None = Field(None, description="what a candidate must bring to be used")
    compare: tuple[Literal["local"], ...] = Field(
        (),
        description="local: a silo that votes on the model holds it against one that it trains "
        "alone, on its own rows, for as many steps as the run; it takes the silo that long again",
    )
    match: MatchSpec | None = Field(None, description="rows of which silos belong together")

    @model_validator(mode="after")
    def _votes_of_whom_it_asks(self) -> Self:
        both = (
            []
            if self.promotion is None
            else [name for name in self.promotion.mandatory if name in self.exclude]
        )
        if both:
            raise ValueError(
                f"promotion.mandatory: {', '.join(both)} must vote and, by 'exclude', is not "
                "asked; leave it out of one of the two"
            )
        return self

    trains: ClassVar[bool] = True
    """Whether a model is made; else one is used that was made before."""

    @property
    def module(self) -> ModelSpec:
        """The model that is trained.

        Raises:
            JobInvalid: where the job names none.
        """
        if self.model is None:
            raise JobInvalid(self.name, ["model: say what is trained, as module:Class"])
        return self.model

    @property
    def earlier_runs(self) -> tuple[str, ...]:
        """The runs that this one goes on with, in their order; none where it begins anew."""
        return ()

    @property
    def first_round(self) -> int:
        """The number of its first round: above 1 where it goes on with another run."""
        return 1

    @property
    def rounds_to_do(self) -> int:
        """How many rounds a run does by itself."""
        return self.protocol.rounds + 1 - self.first_round

    @property
    def draws(self) -> CohortSpec | None:
        """How the silos of a round are drawn; None where it is asked of all."""
        return None

    @property
    def most_rounds(self) -> int:
        """In how many rounds a silo takes part at most, over all runs that are gone on with."""
        draws = self.draws
        capped = None if draws is None else draws.most_rounds
        return self.protocol.rounds if capped is None else min(capped, self.protocol.rounds)

    @property
    def algorithm(self) -> str:
        """The name of the protocol that trains, or scores."""
        return self.protocol.name

    @property
    def matching(self) -> MatchSpec | None:
        """The section ``match``."""
        return self.match

    @property
    def threads(self) -> int:
        """What ``local.threads`` says."""
        return self.local.threads

    @property
    def is_secure(self) -> bool:
        """What ``reduce.secure`` says."""
        return self.reduce.secure

    @property
    def judges_updates(self) -> bool:
        """What ``reduce.outliers`` says."""
        return self.reduce.outliers == "reject"

    @property
    def code(self) -> tuple[str, ...]:
        """Model, bottom model, loss, metrics, optimisers and algorithm."""
        spec = self.protocol
        bottom = spec.args.get("bottom")
        named = [
            None if self.model is None else self.model.name,
            self.loss,
            self.metrics,
            self.local.optimizer,
            spec.name,
            spec.optimizer,
            spec.strategy,
            bottom.get("name") if isinstance(bottom, dict) else bottom,
        ]
        return tuple(path for path in named if path and ":" in path)

    @classmethod
    def lacking(cls) -> str:
        """Return what a job lacks that is about no model."""
        return "there is no model in it"

    def _refuse_protocol(self, *, fits: bool) -> None:
        """Raise `ValueError` unless the job's protocol is one that its kind can run."""
        name = self.protocol.name
        if not fits:
            raise ValueError(f"kind: a {self.kind} job cannot run protocol.name '{name}'")
