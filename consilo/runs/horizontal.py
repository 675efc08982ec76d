"""One run of a job, stage by stage: check, standardise, train round by round, evaluate, close.

It knows no orchestrator: a Prefect flow calls the stages as tasks, a notebook in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, IncompatibleJob, RunFailed
from consilo.horizontal.evaluation import Evaluated, Evaluation
from consilo.horizontal.features import Scale, class_names
from consilo.horizontal.learning import learner_of
from consilo.horizontal.scaling import scale_of_target
from consilo.horizontal.statistics import Summary
from consilo.horizontal.training import TrainState, draw_of
from consilo.jobs.causes import FOR_GOOD
from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.jobs.quorum import Awaited
from consilo.kernel.loop import Exchange
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Checkpoint, Publish
from consilo.learners.torch_learner import TorchLearner
from consilo.metrics.figures import called
from consilo.models.folder import Scored
from consilo.protocols.continuation import Continuation
from consilo.protocols.names import name_of
from consilo.reduce.draw import begin
from consilo.runs.analytics import AnalyticsRun
from consilo.runs.bench import benched
from consilo.runs.continued import Stood, require_continuable, stood
from consilo.runs.forecast import Forecast, forecast, link_rates, probe, traffic
from consilo.runs.outcome import RunResult, RunStatus, SiloOutcome
from consilo.runs.planning.plan import first_state, passes_of, plan
from consilo.runs.stages import Say, silent
from consilo.wire import params as tree
from consilo.wire.params import Params
from consilo.wire.parcel import Fault, Transport, not_connected

PROBED_FROM_BYTES = 10_000_000
"""A smaller model costs its links less than the probe would."""


class Run(AnalyticsRun):
    """One run of a horizontal job over a transport: silos that hold the same columns.

    Args:
        job: what is run.
        contract: what every silo's data must obey.
        transport: how the silos are reached.
        silos: everybody who is registered, connected or not.
        search_path: where the job's own modules lie.
        settings: directory, run_id, key, parties, absent, bundle, resume, standing, clock: those of
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
        **settings: Any,
    ) -> None:
        made = plan(job, contract, job.asked(silos), search_path)
        before = self._before(job, contract, made.protocol, **settings)
        super().__init__(
            job,
            contract,
            transport,
            silos=silos,
            search_path=search_path,
            encoding=made.encoding,
            **settings,
        )
        self._protocol = made.protocol
        self._target_mode = made.target
        self._scales_target = made.target == "global"
        self._untrained: TorchLearner | None = made.learner
        self._fixed: Params = {}
        self._search_path = tuple(search_path)
        self.evaluated: Evaluated | None = None
        self.state: TrainState | None = None
        self._training: Generator[Checkpoint, None, TrainState] | None = None
        self._benched: Mapping[str, str] = {}
        found = self._read_checkpoint() if settings.get("resume") else None
        if before is not None:
            self._talk.fed.num_examples.update(before.num_examples)
            if found is None:
                found = before.state.to_payload()
        if found is not None:
            first = self._first_state(None)  # for the parts of the model that are not trained
            self.state = TrainState.from_payload(found)
            if self.state.buffers.keys() != first.buffers.keys():
                raise IncompatibleJob(
                    "the run to go on with was begun by a release that let the model's buffers "
                    f"({', '.join(first.buffers)}) pass through the server's optimiser; start anew"
                )
            if before is not None and _shapes(self.state) != _shapes(first):
                raise IncompatibleJob(
                    f"{self.job.earlier_runs[-1]}: its model has other parameters than the job has"
                )

    @staticmethod
    def _before(
        job: Job,
        contract: Contract,
        protocol: Protocol[Any],
        *,
        directory: Path,
        key: Ed25519PrivateKey,
        **_: Any,
    ) -> Stood | None:
        """Return where the run stood that this one goes on with; None where it begins anew."""
        if not isinstance(job, Horizontal) or job.continues is None:
            return None
        require_continuable(job.protocol.name, protocol)
        public = key.public_key().public_bytes_raw()
        return stood(job, contract.digest, directory.parent, public)

    def admit(self) -> tuple[str, ...]:
        """Admit silos as `Stages.admit` does; a private run that goes on pays for all its rounds.

        Raises:
            RunFailed: where too few are left that keep the contract and can pay.
        """
        admitted = super().admit()
        if not Continuation.serves(self.job):
            return admitted
        costs = self.patience.hold(self._reserved)
        self.record.add("reserved", runs=list(self.job.earlier_runs), silos=costs)
        self._talk.note_replies()
        self._plan_without()
        return self._talk.fed.silos

    def _reserved(self) -> dict[str, dict[str, float]]:
        self._require_here()
        costs: dict[str, dict[str, float]] = self._talk.ask(
            name_of(Continuation), Continuation(self.state)
        )
        return costs

    @property
    def job(self) -> ModelJob:
        """What is trained."""
        return ModelJob.of(self._talk.job)

    def forecast(self) -> Forecast:
        """Return what a round will move, and how long that takes over the silos' links.

        The rates are those of this run so far; before a large model's first round each link is
        probed, one after the other.
        """
        if self.state is None:
            raise ConsiloError("forecast comes after standardize")
        moved = traffic(self._protocol, self.state, passes=passes_of(self._protocol))
        rates = link_rates(self.exchanges)
        unknown = [name for name in self._talk.fed.cohort() if name not in rates]
        if moved is not None and moved.bytes_down >= PROBED_FROM_BYTES and unknown:
            rates |= probe(self._transport, unknown)
        return forecast(moved, self._talk.fed.silos, rates)

    @property
    def weighs_by_rows(self) -> bool:
        """Whether the mean by rows combines the updates; a rule of one's own weighs by itself."""
        return self.job.reduce.rule == "mean"

    @property
    def rounds_left(self) -> int:
        """How many rounds are still to do."""
        done = 0 if self.state is None else self.state.round
        return self.job.protocol.rounds - done

    def train_round(self) -> Mapping[str, Any]:
        """Do the next round and return its report; a repeat after a fault starts it anew.

        Raises:
            RunFailed: where too few silos answer; the last checkpoint stands.
            ModelDiverged: where the new global model is not finite.
        """
        return self.patience.hold(self._round)

    def _round(self) -> Mapping[str, Any]:
        if self.state is None:
            raise ConsiloError("train_round comes after standardize")
        with self.stage("train"):
            self._plan_without()
            self._require_here()
            if self._training is None:
                name = self.job.protocol.name
                self._training = self._talk.drive(name, self._protocol, self.state)
            try:
                checkpoint = next(self._training)
            except BaseException:
                self._training = None
                raise
            state: TrainState = checkpoint.state
            self.state = state
            report = self._report_of(state.round)
            self._end_round(
                state.to_payload(),
                round=state.round,
                silos={
                    name: {"num_examples": each["num_examples"], "epsilon": each["epsilon"]}
                    for name, each in report["silos"].items()
                },
                faults={
                    each.silo: each.fault.code
                    for each in self.exchanges
                    if each.round == state.round
                    and each.fault is not None
                    and each.silo not in report["silos"]
                },
                params=tree.digest({**state.params, **state.buffers}),
                **({"benched": dict(self._benched)} if self._benched else {}),
                **{key: report[key] for key in _TOLD if key in report},
            )
        return report

    def _published(self, step: Publish) -> None:
        """Keep a round's figures under the names that the finished model's have."""
        if step.name == "round":
            names = class_names(self.encoding.classes)
            told = called(step.value.get("metrics") or {}, names)
            step = replace(step, value={**step.value, "metrics": told})
        super()._published(step)

    def _report_of(self, number: int) -> Mapping[str, Any]:
        """Return what the protocol published of a round before it set the checkpoint."""
        if not self.rounds or self.rounds[-1]["round"] != number:
            raise IncompatibleJob(
                f"protocol.name: '{self.job.protocol.name}' set the checkpoint of round {number} "
                "without its report; yield Publish('round', report(state, replies)) before it"
            )
        return self.rounds[-1]

    def evaluate(self) -> Evaluated:
        """Evaluate the final model on every silo's held-out rows.

        Raises:
            RunFailed: where too few silos answer.
        """
        return self.patience.hold(self._evaluated)

    def _evaluated(self) -> Evaluated:
        with self.stage("evaluate"):
            self._plan_without()
            self._require_here()
            evaluated: Evaluated = self._talk.ask("evaluation", Evaluation(self.state))
            self.evaluated = evaluated
            if evaluated.noise:
                self.notes.append(_noisy(evaluated))
                if "accuracy" in evaluated.metrics and not evaluated.constant:
                    self.notes.append(_NOT_COMPARED)
            elif not evaluated.metrics:
                self.notes.append(_NO_FIGURES if self._pays_for_none else _KEPT_BACK)
            for name, metrics in evaluated.silos.items():
                rows = evaluated.rows[name]
                self.outcomes[name] = replace(
                    self.outcomes[name], metrics=metrics, num_held_out=rows
                )
            self.record.add(
                "evaluated",
                metrics=dict(evaluated.metrics),
                rows=dict(evaluated.rows),
                intervals={name: list(ends) for name, ends in evaluated.intervals.items()},
                constant=dict(evaluated.constant),
                noise=_finite(evaluated.noise),
                silos={name: _finite(each) for name, each in evaluated.silos.items() if each},
                silo_intervals={
                    name: {
                        figure: list(ends)
                        for figure, ends in each.items()
                        if all(map(math.isfinite, ends))
                    }
                    for name, each in evaluated.silo_intervals.items()
                    if each
                },
            )
            self._talk.note_replies()
        return evaluated

    @property
    def _pays_for_none(self) -> bool:
        privacy = self.job.privacy
        return privacy is not None and privacy.metrics_epsilon is None

    @property
    def params(self) -> Params:
        """The global model as it stands, all entries."""
        if self.state is None:
            raise ConsiloError("there is no model before standardize")
        return {**self._fixed, **self.state.params, **self.state.buffers}

    def learner(self) -> TorchLearner:
        """Return the job's model with the global parameters, made anew."""
        target = None if self.state is None else self.state.target
        learner = learner_of(self.job, self.encoding, self._search_path, target)
        learner.load(self.params)
        return learner

    def scored(self) -> Scored:
        """Return the model as it stands, with all it takes to use it on canonical columns."""
        scale = None if self.state is None else self.state.scale
        return Scored(self.job, self.contract, self.encoding, scale, self.learner())

    def builder(self) -> Callable[[], Scored] | None:
        """Return what makes the trained model; None before a round was done."""
        return self.scored if self.state is not None and self.state.round else None

    @property
    def metrics(self) -> dict[str, float]:
        """The final model's figures over all held-out rows; empty before it is evaluated."""
        return {} if self.evaluated is None else dict(self.evaluated.metrics)

    @property
    def model_digest(self) -> str:
        """SHA-256 of the global model; empty before there is one."""
        return "" if self.state is None else tree.digest(self.params)

    def _trained(self) -> Params:
        return {} if self.state is None else self.params

    def _take(self, summary: Summary) -> None:
        """Fix the scales of inputs and target, and the first model."""
        of = summary.target
        moments = None if of is None else Scale.of_moments(of.mean, of.variance)
        target = scale_of_target(self.contract, self._target_mode, moments)
        self.state = self._first_state(self._scale(summary), target)
        if self.job.draws is not None:  # from now on, whoever comes and goes
            fed = self._talk.fed
            told = {name: summary.rows[name] for name in fed.silos if name in summary.rows}
            self.state = replace(self.state, cohort=begin(told))
        if target is not None:
            self.notes.append(_learnt(self.encoding.targets, target))

    def _standardized(self) -> dict[str, Any]:
        target = None if self.state is None else self.state.target
        if target is None:
            return {}
        ends = {"mean": target.mean.tolist(), "deviation": target.deviation.tolist()}
        return {"target": {"mode": self._target_mode, **ends}}

    def _first_state(self, scale: Scale | None, target: Scale | None = None) -> TrainState:
        learner, self._untrained = self._untrained, None  # a model less to hold during the rounds
        if learner is None:
            raise ConsiloError("a run is standardised once")
        first = first_state(self.job, self._protocol, learner, scale, target)
        moving = {*first.params, *first.buffers}
        self._fixed = {k: v for k, v in learner.parameters().items() if k not in moving}
        return first

    def _scale(self, summary: Summary) -> Scale | None:
        mode = self.job.features.standardize
        if mode == "silo":
            return None
        if mode == "contract":
            return Scale.of_ranges(self.encoding)
        if mode == "none":
            return Scale.unit(len(summary.columns))
        return Scale.of_moments(summary.moments.mean, summary.moments.variance)

    def _plan_without(self) -> None:
        """Ask no more who has said no: its policy, its privacy budget or its data will not change.

        A silo that was merely out of reach is asked again; one that comes and goes, after a while.
        """
        fed = self._talk.fed
        for each in self.exchanges[self._admitted_at :]:
            fault = each.fault
            if fault is not None and fault.code in FOR_GOOD and each.silo in fed.silos:
                fed.left[each.silo] = fault
        for name in self._benched:
            fed.left.pop(name, None)
        fed.silos = tuple(sorted({*fed.silos, *self._benched} - fed.left.keys()))
        done = 0 if self.state is None else self.state.round
        self._benched = {}
        fed.drawn = None
        if done < self.job.protocol.rounds:  # the model at the end is judged by all
            drawn = None if self.state is None else draw_of(self.job, self.state, fed)
            if drawn is not None:
                fed.drawn = frozenset(drawn.names)
            self._benched = benched(
                self.exchanges,
                done + 1,
                silos=[each for each in fed.silos if fed.drawn is None or each in fed.drawn],
                here=fed.cohort(),
                holds=Awaited(self.job.cohort_quorum, fed.rows),
            )
        fed.left |= {name: not_connected(why) for name, why in self._benched.items()}
        fed.silos = tuple(name for name in fed.silos if name not in fed.left)

    def _judgement(self) -> dict[str, Any]:
        found = self.evaluated
        if found is None:
            return {}
        matrix = {"classes": list(found.classes), "rows": [list(row) for row in found.confusion]}
        return {
            "intervals": dict(found.intervals),
            "constant": dict(found.constant),
            "confusion": matrix if found.confusion else {},
        }

    def _verdict(self, error: BaseException | None) -> tuple[RunStatus, str]:
        status, reason = super()._verdict(error)
        if status == "failed" or self.evaluated is None:
            return status, reason
        judged = self.evaluated
        worse = worse_than_constant(judged.metrics, judged.constant, sum(judged.rows.values()))
        return (
            ("degraded", "; ".join(each for each in (worse, reason) if each))
            if worse
            else (
                status,
                reason,
            )
        )

    def _settle(self) -> None:
        """Work out each silo's status from the rounds whose reports count it."""
        begun = self.job.first_round - 1
        last = begun + len(self.rounds)
        only_asked = not any(each.round for each in self.exchanges)
        faulty: dict[str, list[Exchange]] = {}
        for each in self.exchanges:
            if each.fault is not None:
                faulty.setdefault(each.silo, []).append(each)
        for name in self.silos:
            outcome = self.outcomes[name]
            mine = [r for r in self.rounds if name in r["silos"]]
            took = tuple(int(r["round"]) for r in mine)
            faults = faulty.get(name, [])
            # Who was not chosen has missed nothing.
            spared = {r["round"] for r in self.rounds if _is_spared(name, r)}
            drawn = self.job.draws is None or not self.rounds or len(spared) < len(self.rounds)
            if not mine and not drawn and outcome.contract == "passed":
                self.outcomes[name] = self._never_drawn(name, outcome, faults)
                continue
            if not mine:
                if self.summary is not None and only_asked and name in self.summary.rows:
                    count = self.summary.rows[name]
                    self.outcomes[name] = replace(
                        outcome, status="answered", reason="", num_examples=count
                    )
                elif outcome.status == "dropped" and outcome.contract == "passed":
                    ended = (
                        "not connected" if self.rounds else "the run ended before its first round"
                    )
                    if any(name in r.get("not_asked", ()) for r in self.rounds):
                        ended = "the protocol never chose it"
                    out = self._standing(name)
                    why = next((e.fault for e in reversed(faults)), None)
                    fault = Fault("unreachable", out or ended) if out or why is None else why
                    self.outcomes[name] = outcome.absent(fault)
                continue
            newest, first = mine[-1]["silos"][name], mine[0]["silos"][name]
            spent = [
                each[name]
                for r in self.rounds
                for each in (r["silos"], r.get("stale", {}))
                if name in each
            ][-1]
            missed = [n for n in range(begun + 1, last + 1) if n not in took and n not in spared]
            absences = [f"round {_ranges(missed)}"] if missed else []
            if self.summary is not None and name not in self.summary.rows:
                absences.insert(0, "the statistics")
            if self.evaluated is not None and name not in self.evaluated.rows:
                absences.append("the evaluation")
            why = next((e.fault for e in reversed(faults) if e.round not in took), None)
            reason = self._standing(name) or ("not connected" if why is None else why.reason)
            self.outcomes[name] = replace(
                outcome,
                status="dropped" if last in missed else "trained",
                reason=f"missed {' and '.join(absences)}: {reason}" if absences else "",
                rounds=took,
                num_examples=newest["num_examples"],
                epsilon=spent["epsilon"],
                epsilon_bound=spent["epsilon_bound"],
                metrics_before=first["metrics"] if took[0] == begun + 1 else {},
            )

    def _never_drawn(
        self, name: str, outcome: SiloOutcome, faults: Sequence[Exchange]
    ) -> SiloOutcome:
        """Return the outcome of a silo whose turn never came, and what it missed besides."""
        rows = 0 if self.summary is None else self.summary.rows.get(name, 0)
        missed = []
        if self.summary is not None and name not in self.summary.rows:
            missed.append("the statistics, without which it is not drawn")
        if self.evaluated is not None and name not in self.evaluated.rows:
            missed.append("the evaluation")
        if not missed:
            return replace(outcome, status="not_drawn", reason="", num_examples=rows)
        why = next((each.fault for each in reversed(faults) if each.fault is not None), None)
        reason = self._standing(name) or ("not connected" if why is None else why.reason)
        told = f"missed {' and '.join(missed)}: {reason}"
        return replace(outcome, status="dropped", reason=told, num_examples=rows)


def _is_spared(silo: str, report: Mapping[str, Any]) -> bool:
    """Return whether a round was not asked of a silo, by the protocol's choice or by a draw."""
    if "cohort" in report:
        return silo not in report["cohort"]["drawn"]
    return silo in report.get("not_asked", ())


_TOLD = ("arrivals", "stale", "late", "cohort")
"""Of a round's report, what its line of the record says, too."""
_WORSE = 0.05
"""Relative; by how much a model must miss a constant prediction to be called worse."""


def worse_than_constant(
    metrics: Mapping[str, float], constant: Mapping[str, float], num_rows: int
) -> str:
    """Return what to say of a model that is worse than a constant prediction; empty if it is not.

    A classifier is where its log loss is above that of the classes' shares, however often it is
    right: its probabilities mislead. A regression is where its error is above that of the mean. Of
    n rows, `_WORSE` + 2/√n is allowed for: the constant has seen them, the model has not.

    Args:
        metrics: of the model.
        constant: of the best constant on the same rows (`consilo.metrics.constant_of`).
        num_rows: how many rows these are.
    """
    if not constant or not set(constant) <= set(metrics):
        return ""
    losses = [name for name in ("log_loss", "rmse") if name in constant]
    chance = 2 / math.sqrt(max(num_rows, 1))  # two standard errors, of a spread of 1
    for name in losses:
        spread = constant[name] if name == "rmse" else 1.0
        if metrics[name] <= constant[name] * (1 + _WORSE) + chance * spread:
            return ""
    told = ", ".join(f"{name} {metrics[name]:.4g} against {constant[name]:.4g}" for name in losses)
    return (
        f"the model is worse than a constant prediction ({told}): lower the learning rate, train "
        "longer, or look at the features"
    )


_NO_FIGURES = (
    "no figures of merit: the job is private and pays for none; privacy.metrics_epsilon says what "
    "they may cost"
)
_NOT_COMPARED = (
    "no comparison with a constant prediction: how many rows each class has is not paid for "
    "under privacy; compare accuracy with the largest share that is known from elsewhere"
)
_KEPT_BACK = "no figures of merit: the silos' policies keep them back, or they have too few rows"


def _learnt(names: Sequence[str], target: Scale) -> str:
    ends = zip(names, target.mean, target.deviation, strict=True)
    told = ", ".join(f"{name} less {mean:.6g}, over {width:.6g}" for name, mean, width in ends)
    return (
        f"the target is learnt standardised ({told}); the rounds' loss is of those numbers, "
        "figures of merit and predictions are in its own units"
    )


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the figures that are numbers: under noise one over a sum near zero may be none."""
    return {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def _noisy(evaluated: Evaluated) -> str:
    told = ", ".join(f"{name} ± {evaluated.noise[name]:.2g}" for name in evaluated.metrics)
    left_out = sorted(set(evaluated.noise) - set(evaluated.metrics))
    note = f"figures are noisy (one standard error of the noise: {told})" if told else ""
    if left_out:
        more = f"left out as mostly noise: {', '.join(left_out)}; more held-out rows tell more"
        note = f"{note}; {more}" if note else f"figures {more}"
    return note


def _shapes(state: TrainState) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in {**state.params, **state.buffers}.items()}


def run_all(run: Run, *, wait_s: float = 0.0, say: Say = silent) -> RunResult:
    """Do every stage of a run in a row; one that cannot go on is a result, ``failed``."""
    run.on_wait = lambda waiting: say(waiting.told)
    try:
        run.wait_for_silos(seconds=wait_s)
        run.check_all(say)
        run.admit()
        if run.state is None:
            run.standardize()
        run.train_all(say)
        run.evaluate()
    except RunFailed as error:
        return run.close(error)
    except BaseException as error:
        run.close(error)
        raise
    return run.close()


def _ranges(rounds: Sequence[int]) -> str:
    return ", ".join(str(each) for each in rounds)
