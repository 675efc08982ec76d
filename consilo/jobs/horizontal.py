"""Horizontal jobs: silos with the same columns of different people train one model together."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from consilo.config import Config
from consilo.finding_words import Form
from consilo.jobs.cohort import CohortSpec
from consilo.jobs.model_job import ModelJob
from consilo.jobs.retrain import Retrain

JobRunName = Annotated[str, Form("[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", "a run's name")]


class Continues(Config):
    """Which run a job goes on with; ``consilo job extend`` writes it."""

    runs: tuple[JobRunName, ...] = Field(
        min_length=1,
        max_length=100,
        description="the runs whose training this is the rest of, in their order",
    )
    rounds: int = Field(ge=1, description="how many rounds they have done together")
    record: Annotated[str, Form("[0-9a-f]{64}", "a SHA-256 in 64 hexadecimal digits")] = Field(
        description="hash of the closing line of the last one's record"
    )


class Horizontal(ModelJob):
    """What is trained over silos that hold the same columns of different people."""

    kind: Literal["horizontal"] = Field(
        "horizontal", description="silos hold the same columns of different people"
    )
    continues: Continues | None = Field(
        None,
        description="the run that this one is the rest of: it goes on from that one's last model, "
        "and privacy.epsilon is what both cost together; 'consilo job extend' writes it",
    )
    cohort: CohortSpec | None = Field(
        None,
        description="which silos a round is asked of, drawn anew for each; all, unless said",
    )
    retrain: Retrain | None = Field(
        None,
        description="when a run trains that is asked to train only where it is due (when_due), "
        "such as the nightly one; a run that is not asked so trains anyway",
    )
    kind_since: ClassVar[int] = 1

    @model_validator(mode="after")
    def _somebody_watches(self) -> Self:
        if self.retrain is not None and "performance" in self.retrain.when:
            raise ValueError(
                "retrain.when: performance: no flow of this release watches the champion, so it "
                "would never be a cause; take it out"
            )
        return self

    @property
    def draws(self) -> CohortSpec | None:
        """What ``cohort`` says."""
        return self.cohort

    @property
    def earlier_runs(self) -> tuple[str, ...]:
        """What ``continues.runs`` says."""
        return () if self.continues is None else self.continues.runs

    @property
    def first_round(self) -> int:
        """The round after those that are done."""
        return 1 if self.continues is None else self.continues.rounds + 1

    @model_validator(mode="after")
    def _goes_on_for_some_rounds(self) -> Self:
        done = self.first_round - 1
        if done >= self.protocol.rounds:
            raise ValueError(
                f"continues.rounds: {done} rounds are done, and protocol.rounds, which counts them "
                f"too, is {self.protocol.rounds}: nothing is left to train"
            )
        privacy = self.privacy
        if done and privacy is not None and self.features.standardize == "silo":
            raise ValueError(
                "continues: with privacy, 'features.standardize: silo' asks for each silo's scale "
                "once a run, which would be another one and be paid again; start a new run"
            )
        return self

    @model_validator(mode="after")
    def _draws_enough(self) -> Self:
        spec, quorum = self.cohort, self.quorum
        if spec is None:
            return self
        named = len(quorum.mandatory)
        if spec.size is not None and spec.size < max(quorum.min_silos, named):
            needed = max(quorum.min_silos, named)
            raise ValueError(
                f"cohort.size: of {spec.size} silos no round can have the {needed} that quorum "
                "wants (min_silos, mandatory); the quorum is one of those that are drawn"
            )
        if spec.most_rounds is not None and named and spec.most_rounds < self.protocol.rounds:
            raise ValueError(
                f"cohort.most_rounds: {quorum.mandatory[0]} is mandatory, which is to be in each "
                f"of {self.protocol.rounds} rounds; found {spec.most_rounds}"
            )
        if spec.most_rounds is not None and self.continues is not None and self.privacy is not None:
            raise ValueError(
                "cohort.most_rounds: a private run that goes on with another pays for its rounds "
                "at once, and cannot know who has how many left; start a new run"
            )
        if quorum.late == "next_round":
            raise ValueError(
                "quorum.late: a late answer would count in a round that was drawn of others, with "
                "the weight of another draw; with a cohort use drop or wait"
            )
        return self

    def young_keys(self) -> dict[str, int]:
        """Return what needs a younger silo: one that does not know it learns an unscaled target."""
        found = super().young_keys()
        if self.task == "regression" and self.features.standardize_target != "none":
            found.setdefault("features.standardize_target", 3)
        if self.protocol.name == "fedbuff":
            found.setdefault("protocol.name", 3)
        return found

    @model_validator(mode="after")
    def _parts_are_of_one_kind(self) -> Self:
        name = self.protocol.name
        # Before there was a kind for it, a match was asked by a job of this one.
        if self.model is None and self.match is None:
            raise ValueError(f"model: {name} trains a model; say which, as module:Class")
        self._refuse_protocol(fits=":" in name or not name.startswith("vertical_"))
        privacy = self.privacy
        if privacy is not None and self.features.standardize == "silo":
            asked = privacy.statistics_epsilon
            if asked is None:
                raise ValueError(
                    "features.standardize: with privacy, 'silo' needs privacy.statistics_epsilon: "
                    "each silo's mean and deviation are made noisy and paid for; or use 'contract'"
                )
            if 2 * asked >= privacy.epsilon:
                raise ValueError(
                    "privacy.statistics_epsilon: 'standardize: silo' asks twice, for class counts "
                    f"and for the scale, which must be below epsilon ({privacy.epsilon:g}) together"
                )
        return self
