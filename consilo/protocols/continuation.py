"""The first question of a private run that goes on with others: pay for all of its rounds at once.

Each silo works out, from its own ledger, what the earlier runs have cost it, calibrates the noise
of the rounds to come so that all of them together stay within the job's ε, and reserves that before
a row is used. One that cannot pay says so, and takes no part.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

from consilo.errors import Refused
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.learning import prepaid, run_epsilon
from consilo.horizontal.scaling import scaled_rows
from consilo.horizontal.training import TrainState
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Answers, Ask, Step
from consilo.kernel.verbs import Disclosure, FromRows, numbers, verb
from consilo.kernel.view import Message, SiloView


class Continuation(Protocol[None]):
    """Asks everybody to reserve all rounds of the run; returns silo → what all runs cost it.

    Args:
        state: where the training stands; None on the silo's side.
    """

    asks_apart = True
    runs_job_code: ClassVar[bool] = False

    def __init__(self, state: TrainState | None = None) -> None:
        self.state = state

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return whether the job goes on with earlier runs, and is private."""
        return isinstance(job, ModelJob) and bool(job.earlier_runs) and job.privacy is not None

    def coordinate(
        self, fed: Federation, state: None
    ) -> Generator[Step, Any, dict[str, dict[str, float]]]:
        """Return ``epsilon`` and ``epsilon_bound`` of all runs together, by silo."""
        if self.state is None:
            raise ValueError("Continuation needs the state that is gone on from")
        scale = None if self.state.scale is None else self.state.scale.to_payload()
        answers: Answers = yield Ask(
            fed.cohort(), "reserve", {"scale": scale}, quorum=fed.job.cohort_quorum
        )
        return {name: dict(each.fields["cost"]) for name, each in answers.replies.items()}

    @verb("reserve", replies={"cost": numbers(Disclosure.STATISTIC, rows=FromRows.NONE)})
    def reserve(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Reserve what the run's rounds cost this silo, and tell what all runs cost together."""
        job, privacy = ModelJob.of(silo.job), silo.job.privacy
        if privacy is None or not job.earlier_runs:
            raise Refused("only a private job that goes on with another run pays so", code="order")
        sent = message.payload["scale"]
        scale = None if sent is None else Scale.from_payload(sent)
        rows = scaled_rows(silo, Encoding.plan(silo.contract, silo.job), scale)
        silo.require_floor(Disclosure.UPDATE, rows.num_train)
        _, _, history = prepaid(silo, units=rows.num_train, fingerprint=rows.fingerprint)
        epsilon, bound = run_epsilon(history, privacy, silo.kept_number)
        return {"cost": {"epsilon": epsilon, "epsilon_bound": bound}}
