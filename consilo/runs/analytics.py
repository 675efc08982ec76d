"""One run that asks of the silos' rows, and trains nothing: how columns are spread, or questions.

A run that trains begins with the same question, so that it knows how to scale the model's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, RunFailed
from consilo.horizontal.asked.answers import Answers, answers
from consilo.horizontal.asked.axes import Axes
from consilo.horizontal.asked.pooled import Pooled
from consilo.horizontal.asked.protocol import DeclaredTables, tables_of
from consilo.horizontal.between.drift import Drift, Moved
from consilo.horizontal.features import Encoding
from consilo.horizontal.statistics import Statistics, Summary
from consilo.jobs.analytics import Analytics
from consilo.jobs.job import Job
from consilo.jobs.sections.questions import Questions
from consilo.jobs.table_job import TableJob
from consilo.runs.outcome import RunResult
from consilo.runs.planning.plan import plan_analytics
from consilo.runs.stages import Say, Stages, silent
from consilo.wire.parcel import Fault, Transport


class AnalyticsRun(Stages):
    """One run of a question about columns over a transport: silos that hold the same ones.

    Args:
        job: over a table; of one that trains, only what its inputs are made of is asked.
        contract: what every silo's data must obey.
        transport: how the silos are reached.
        silos: everybody who is registered, connected or not.
        search_path: where the job's own modules lie.
        encoding: how columns become numbers; None plans it.
        settings: directory, run_id, key, parties, absent, bundle, standing, clock: those of
            `Stages`.

    Raises:
        IncompatibleJob: where the job's parts cannot work together; nothing was sent.
    """

    def __init__(
        self,
        job: Job,
        contract: Contract,
        transport: Transport,
        *,
        silos: Sequence[str],
        search_path: Sequence[Path] = (),
        encoding: Encoding | None = None,
        **settings: Any,
    ) -> None:
        self.encoding = encoding or plan_analytics(job, contract, job.asked(silos), search_path)
        super().__init__(job, contract, transport, silos=silos, **settings)
        self.summary: Summary | None = None
        self.answers: Answers | None = None
        self._asked_rows: Mapping[str, int] = {}
        self.moved: dict[str, Moved] = {}
        self._scales_target = False

    @property
    def job(self) -> TableJob:
        """What is asked."""
        return TableJob.of(self._talk.job)

    @property
    def questions(self) -> Questions:
        """What people ask; empty where the job is about how its columns are spread."""
        return self.job.questions if isinstance(self.job, Analytics) else ()

    def ask(self) -> Answers:
        """Ask the silos for the tables that the job's questions need, and make answers of them.

        Raises:
            RunFailed: where too few silos answer.
        """
        return self.patience.hold(self._ask)

    def _ask(self) -> Answers:
        with self.stage("ask"):
            self._require_here()
            job = Analytics.of(self.job)
            names = tables_of(job, Axes.of(self.contract))
            pooled: Pooled = self._talk.ask(job.algorithm, DeclaredTables(names))
            self._drop_absent("tables")
            self._asked_rows = pooled.rows
            self._talk.fed.num_examples.update(pooled.rows)
            found = answers(pooled, job.questions, seed=job.seed)
            self.answers = replace(found, about=self._about(pooled))
            self.record.add("asked", **self.answers.to_json())
            self._talk.note_replies()
        return self.answers

    def _about(self, pooled: Pooled) -> dict[str, Any]:
        privacy = self.job.privacy
        return {
            "job": self.job.name,
            "purpose": self.job.purpose,
            "contract": self.contract.ref,
            "run": self.run_id,
            "rows": pooled.rows,
            "noisy": pooled.is_noisy,
            "unit": "subjects" if self.job.hides_subjects else "rows",
            "epsilon": None if privacy is None else privacy.statistics_epsilon,
            "delta": None if privacy is None else privacy.delta,
            "absent": {
                name: each.reason for name, each in self.outcomes.items() if name not in pooled.rows
            },
        }

    def close(self, error: BaseException | None = None, **extra: Any) -> RunResult:
        """End the run; its summary has the answers, where there are some."""
        told = {} if self.answers is None else {"answers": self.answers.to_json()}
        return super().close(error, **told, **extra)

    def standardize(self, *, bins: int = 0) -> Summary:
        """Learn the columns' moments over all silos.

        Args:
            bins: bins of a histogram per column; 0 asks for none.

        Raises:
            RunFailed: where too few silos answer.
        """
        return self.patience.hold(lambda: self._standardize(bins))

    def _standardize(self, bins: int) -> Summary:
        with self.stage("standardize"):
            self._require_here()
            by_moments = self.job.features.standardize == "global"
            asked = Statistics(bins, moments=by_moments, target=self._scales_target)
            summary: Summary = self._talk.ask("statistics", asked)
            self._drop_absent("moments")
            self.summary = summary
            self._talk.fed.num_examples.update(summary.rows)
            self._take(summary)
            if summary.left_out:
                self.notes.append(_neither(summary.left_out))
            moments = summary.moments
            self.record.add(
                "standardized",
                rows=dict(summary.rows),
                mode=self.job.features.standardize,
                mean=[float(each) for each in moments.mean],
                variance=[float(each) for each in moments.variance],
                **self._standardized(),
                **({"left_out": dict(summary.left_out)} if summary.left_out else {}),
            )
            self._talk.note_replies()
        return summary

    def compare(self) -> dict[str, Moved]:
        """Ask every silo whether its rows have moved since the last training; return its words.

        Raises:
            RunFailed: where too few silos answer.
        """
        with self.stage("compare"):
            self._require_here()
            self.moved = self._talk.ask("drift", Drift())
            self._drop_absent("compare")
            self.record.add("drift", silos={n: each.to_json() for n, each in self.moved.items()})
            self._talk.note_replies()
        return self.moved

    def remember(self) -> str:
        """Let every silo remember how its rows are spread; return who did not, in words.

        Nothing of the run rests on it: a silo that is away compares with what it kept before.
        """
        with self.stage("remember"):
            try:
                self._talk.ask("drift", Drift(remember=True))
                lost = ""
            except RunFailed as cause:
                lost = str(cause)
            self.record.add("remembered", **({"lost": lost} if lost else {}))
            self._talk.note_replies()
        return lost

    @property
    def rounds_left(self) -> int:
        """None: nothing is trained."""
        return 0

    def train_round(self) -> Mapping[str, Any]:
        """Refuse: nothing is trained."""
        raise ConsiloError("a run that only asks has no rounds")

    @property
    def metrics(self) -> dict[str, float]:
        """Empty: there is no model."""
        return {}

    @property
    def model_digest(self) -> str:
        """Empty: there is no model."""
        return ""

    def _take(self, summary: Summary) -> None:
        """Use what was learnt of the columns; a run that only asks hands it on."""

    def _standardized(self) -> dict[str, Any]:
        """Return what the record says of the stage besides."""
        return {}

    def _drop_absent(self, verb: str) -> None:
        for each in self.exchanges:
            if each.verb == verb and each.fault is not None:
                self.outcomes[each.silo] = self.outcomes[each.silo].absent(each.fault)

    def _settle(self) -> None:
        """Work out each silo's status: it has answered, or why it has not."""
        asked = self._asked_rows or dict.fromkeys(self.moved, 0)
        rows = asked if self.summary is None else self.summary.rows
        for name in self.silos:
            outcome = self.outcomes[name]
            if name in rows:
                self.outcomes[name] = replace(
                    outcome, status="answered", reason="", num_examples=rows[name]
                )
            elif outcome.status == "dropped" and outcome.contract == "passed":
                faults = [e.fault for e in self.exchanges if e.silo == name and e.fault is not None]
                reason = self._standing(name) or "the run ended before it was asked"
                fault = faults[-1] if faults else Fault("unreachable", reason)
                self.outcomes[name] = outcome.absent(fault)


class DriftRun(AnalyticsRun):
    """One run that asks whether rows have moved since the last training, and nothing else.

    A run that trains is another one, so that its ε and its record are those of the training alone.
    """

    question: ClassVar[str] = "drift"


def _neither(left_out: Mapping[str, int]) -> str:
    told = ", ".join(f"{name} {count}" for name, count in sorted(left_out.items()))
    return (
        f"rows on neither side of evaluation.split, which are not used: {told} (their column is "
        "empty, or says what is in neither test nor train, or they would judge and their subject "
        "is learnt from)"
    )


def run_analytics(run: AnalyticsRun, *, wait_s: float = 0.0, say: Say = silent) -> RunResult:
    """Do every stage of a run in a row; one that cannot go on is a result, ``failed``."""
    run.on_wait = lambda waiting: say(waiting.told)
    try:
        run.wait_for_silos(seconds=wait_s)
        run.check_all(say)
        run.admit()
        if run.questions:
            run.ask()
        else:
            run.standardize()
    except RunFailed as error:
        return run.close(error)
    except BaseException as error:
        run.close(error)
        raise
    return run.close()
