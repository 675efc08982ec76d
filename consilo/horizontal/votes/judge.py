"""What one silo says of a candidate: models are heard on the rows held out, by its own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from consilo.decisions.evidence import Heard, weigh
from consilo.decisions.noisy import can_be_noisy, weigh_noisily
from consilo.decisions.roles import Votes
from consilo.decisions.rules import CHAMPION, LOCAL, Evidence, broken_beforehand, verdict
from consilo.decisions.vote import Verdict, Vote
from consilo.errors import BudgetExhausted, JobInvalid, ModelDiverged
from consilo.horizontal.dataset import Rows, held_out_columns
from consilo.horizontal.features import Encoding, target_ends
from consilo.horizontal.learning import learner_apart, learner_of, plan_of, run_epsilon
from consilo.horizontal.private_figures import mark_of, outputs_of, paid_noise
from consilo.horizontal.scaling import scaled_rows
from consilo.horizontal.votes.model import ASKED, MONITORING, Model, metric_of
from consilo.jobs.job import OWN_PACKAGES, Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel import seeds
from consilo.kernel.verbs import Disclosure
from consilo.kernel.view import SiloView
from consilo.learners.torch_learner import TorchLearner
from consilo.privacy.noise import SecretStream
from consilo.wire.params import Params
from consilo.wire.payload import digest

_PURPOSE = "votes"


class Judge:
    """One silo about one candidate.

    Args:
        silo: who judges.
        votes: its rules, and what it has answered.
        candidate: is judged.
        champion: what is in use; None where nothing is.
        lacking: codes of what cannot be compared, whatever the rows.
        monitors: the candidate is in use, and this asks whether it still is good.
    """

    def __init__(
        self,
        silo: SiloView,
        votes: Votes,
        candidate: Model,
        champion: Model | None,
        lacking: Sequence[str],
        *,
        monitors: bool = False,
    ) -> None:
        self._silo = silo
        self._votes = votes
        self._monitors = monitors
        rules = votes.vote_rules()
        self._rules = rules.model_copy(update={"max_epsilon": None}) if monitors else rules
        self._job = ModelJob.of(silo.job)
        self._candidate = candidate
        self._champion = champion
        self._lacking = list(lacking)
        self._about = {
            "run": candidate.run,
            "candidate": candidate.digest,
            "champion": "" if champion is None else champion.digest,
            **({ASKED: MONITORING} if monitors else {}),
        }

    def answer(self) -> dict[str, Any]:
        """Return the reply's fields."""
        told = None if self._monitors else self._votes.people_say(self._candidate.run)
        if told is not None:
            return self._say(told[0], ["people"], told[1])
        if self._rules.decided_by == "people":
            return self._say("abstain", ["people_first"])
        if broken := broken_beforehand(self._rules, self._epsilon()):
            return self._say("no", broken)
        if reason := self._prevented():
            return self._say("abstain", [reason])
        return self._judge()

    def _prevented(self) -> str:
        """Return why no row may be looked at; empty where they may."""
        privacy, permitted = self._job.privacy, self._silo.permitted
        pays = privacy is not None and privacy.metrics_epsilon is not None
        if (privacy is not None or permitted.wants_privacy) and not pays:
            return "unpaid"
        if not self._silo.admits("judged"):
            return "policy"
        if privacy is None:
            return ""
        ends = target_ends(self._silo.contract) if self._job.task == "regression" else None
        if self._job.task == "custom":
            return "metric_private"
        return "" if can_be_noisy(metric_of(self._job), self._job.task, ends) else "metric_private"

    def _judge(self) -> dict[str, Any]:
        silo = self._silo
        learner, rows = _loaded(silo, self._candidate)
        few = rows.num_test < self._rules.min_rows
        if few or not silo.has_floor(Disclosure.METRIC, rows.num_test):
            return self._say("abstain", ["few_rows"])
        question = self._question(rows)
        known = self._votes.begin_vote(question)
        if isinstance(known, Mapping):
            return self._judged(Vote.from_json(known), question)
        if not known:
            return self._say("abstain", ["per_day"])
        try:
            seen = self._noisy(learner, rows) if self._job.privacy else self._exact(learner, rows)
        except BudgetExhausted:
            return self._say("abstain", ["budget"])
        said, reasons = verdict(self._rules, seen)
        return self._judged(self._vote(said, reasons, seen.figures()), question)

    def _exact(self, learner: TorchLearner, rows: Rows) -> Evidence:
        silo, contract = self._silo, self._silo.contract
        encoding = Encoding.plan(contract, silo.job)
        key = silo.secrets.lasting(_PURPOSE)
        others = self._others(learner, rows, SecretStream(key, "places"))
        fair = contract.groups if self._rules.fairness is not None else ()
        columns = [each for each in (contract.subject, *fair) if each is not None]
        people, groups = None, {}
        if columns:
            frame = held_out_columns(silo, encoding, list(dict.fromkeys(columns)))
            if contract.subject is not None:
                people = _codes(frame[contract.subject])
            groups = {name: _rows_of_each(_codes(frame[name])) for name in fair}
        heard = replace(others, people=people, groups=groups)
        secret = int.from_bytes(seeds.derive("votes", key.hex(), self._question(rows))[:8], "big")
        return weigh(
            heard,
            metric_of(self._job),
            self._rules,
            np.random.default_rng(secret),
            epsilon=self._epsilon(),
            lacking=self._lacking,
        )

    def _noisy(self, learner: TorchLearner, rows: Rows) -> Evidence:
        if self._lacking:  # nothing is paid for what would be an abstention anyway
            return Evidence(rows.num_test, epsilon=self._epsilon(), lacking=tuple(self._lacking))
        sigma, stream = paid_noise(self._silo, rows.num_test, mark_of(rows))
        heard = self._others(learner, rows, stream.child("places"))
        ends = target_ends(self._silo.contract) if self._job.task == "regression" else None
        found = weigh_noisily(
            replace(heard, others={k: v for k, v in heard.others.items() if k == CHAMPION}),
            metric_of(self._job),
            self._rules,
            sigma=sigma,
            stream=stream,
            units=rows.num_test,
            weights=None if rows.test_subjects is None else rows.test_subjects.weights,
            ends=ends,
            epsilon=self._epsilon(),
        )
        return replace(found, lacking=tuple(self._lacking))

    def _others(self, learner: TorchLearner, rows: Rows, places: SecretStream) -> Heard:
        """Return what the candidate, and those that it is compared with, say of the rows."""
        targets = np.asarray(rows.test.targets)

        def says(model: TorchLearner, of: Rows, name: str) -> np.ndarray[Any, Any]:
            found = outputs_of(model, of.test.features, places.child(name))
            return found.reshape(targets.shape) if model.task.kind == "regression" else found

        others = {}
        if self._champion is not None and (fault := self._unlike(self._champion)):
            self._lacking.append(fault)
        elif self._champion is not None:
            view = replace(self._silo, job=_as_private_as(self._silo.job, self._champion.job))
            model, its_rows = _loaded(view, self._champion)
            others[CHAMPION] = says(model, its_rows, CHAMPION)
        alone = self._alone(rows)
        if alone is not None:
            others[LOCAL] = says(alone, rows, LOCAL)
        return Heard(learner.task.kind, targets, says(learner, rows, "candidate"), others)

    def _alone(self, rows: Rows) -> TorchLearner | None:
        """Return a model that learnt from this silo's rows alone; None where none is asked for.

        Nor is there one under privacy, where a vote would tell of rows that are learnt from, and
        nobody has paid for that; nor of code that may not see two rows.
        """
        silo, job = self._silo, self._job
        if LOCAL not in job.compare or job.privacy is not None or silo.apart is not None:
            return None
        encoding = Encoding.plan(silo.contract, job)
        model = self._candidate
        learner = learner_of(job, encoding, silo.search_path, model.target)
        plan = plan_of(job)
        many: dict[str, Any] = {name: None if each is None else each * job.protocol.rounds
                for name, each in (("steps", plan.steps), ("epochs", plan.epochs))}  # fmt: skip

        def build() -> Params:
            rng = seeds.generator(job.seed, "alone", silo.name, "batches")
            learner.fit(rows.train, replace(plan, **many), rng=rng)
            return learner.parameters()

        scales = [None if each is None else each.to_payload()
                  for each in (model.scale, model.target)]  # fmt: skip
        of = digest(["alone", silo.contract.digest, job.digest, _plain(scales)])
        try:
            kept = silo.rows.encoded(silo.contract, of, build, purpose=job.purpose)
        except ModelDiverged:
            return None
        learner.load({name: np.array(value) for name, value in kept.items()})
        return learner

    def _unlike(self, champion: Model) -> str:
        """Return why the champion cannot be judged on the candidate's rows; empty where it can."""
        own, its = self._job, champion.job
        rows = (own.name, own.task, own.evaluation, own.features.missing == "drop")
        if rows != (its.name, its.task, its.evaluation, its.features.missing == "drop"):
            return "other_rows"
        if not set(_foreign(its)) <= set(_foreign(own)):
            return "other_code"
        built = (own.module, own.outputs, own.loss)
        if self._silo.apart is not None and built != (its.module, its.outputs, its.loss):
            return "other_code"
        try:
            _as_private_as(own, its)
        except JobInvalid:
            return "other_rows"
        return ""

    def _epsilon(self) -> float | None:
        """Return what the candidate's training has cost here at most: as its job says, or more."""
        privacy = self._job.privacy
        if privacy is None or self._rules.max_epsilon is None:
            return None
        silo = self._silo
        spent = [row for _, row in silo.account.reserved(self._candidate.run)]
        here = run_epsilon(spent, privacy, silo.kept_number)[0] if spent else 0.0
        return max(privacy.epsilon, here)

    def _question(self, rows: Rows) -> str:
        """Return a hash of all that an answer depends on."""
        models = [
            None if each is None else [each.digest, _plain(each.to_payload(), but=("params",))]
            for each in (self._candidate, self._champion)
        ]
        rules = self._rules.model_dump(mode="json")
        return digest([self._silo.header.manifest.bundle, self._silo.contract.digest,
                       self._job.digest, rules, mark_of(rows), *models,
                       *([MONITORING] if self._monitors else [])])  # fmt: skip

    def _vote(
        self,
        said: Verdict,
        reasons: Sequence[str],
        figures: Mapping[str, float],
        overruled: str = "",
    ) -> Vote:
        about = self._about
        return Vote(
            self._silo.name,
            about["run"],
            about["candidate"],
            about["champion"] or None,
            said,
            tuple(reasons),
            figures,
            overruled,
        )

    def _say(self, said: Verdict, reasons: Sequence[str], overruled: str = "") -> dict[str, Any]:
        vote = self._vote(said, reasons, {}, overruled)
        self._keep("", vote)
        word = {"verdict": said, "reasons": list(reasons), "overruled": overruled}
        return {"about": self._about, "said": word}

    def _judged(self, vote: Vote, question: str) -> dict[str, Any]:
        self._keep(question, vote)
        word = {"verdict": vote.verdict, "reasons": list(vote.reasons), "overruled": ""}
        told: dict[str, Any] = {"about": self._about, "judged": word}
        if self._rules.figures == "numbers" and self._silo.admits("figures"):
            told["figures"] = dict(vote.figures)
        return told

    def _keep(self, question: str, vote: Vote) -> None:
        voting = self._silo.header.run_id
        self._votes.keep_vote(question, vote.to_json(), voting, monitors=self._monitors)


def _loaded(silo: SiloView, model: Model) -> tuple[TorchLearner, Rows]:
    """Return a learner with a model's parameters, and the rows as that model sees them."""
    encoding = Encoding.plan(silo.contract, silo.job)
    learner: TorchLearner
    if silo.apart is not None:
        learner = learner_apart(
            silo.job, encoding, silo.apart, model.params, model.target, trains=False
        )
    else:
        learner = learner_of(silo.job, encoding, silo.search_path, model.target)
        learner.load(model.params)
    return learner, scaled_rows(silo, encoding, model.scale)


def _as_private_as(job: Job, other: ModelJob) -> ModelJob:
    """Return another job whose rows are chosen, and hidden, as those of the first are.

    Raises:
        JobInvalid: where it cannot be.
    """
    privacy = job.to_json().get("privacy")
    return ModelJob.of(Job.from_json({**other.to_json(), "privacy": privacy}))


def _foreign(job: ModelJob) -> tuple[str, ...]:
    """Return the dotted paths of a job that are not Consilo's own."""
    return tuple(each for each in job.code if each.split(":")[0].split(".")[0] not in OWN_PACKAGES)


def _codes(values: Any) -> np.ndarray[Any, Any]:
    """Return a whole number for each row, the same for the same value; -1 without one."""
    import pandas as pd

    return np.asarray(pd.factorize(values, use_na_sentinel=True)[0])


def _rows_of_each(codes: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    return tuple(np.flatnonzero(codes == each) for each in np.unique(codes[codes >= 0]))


def _plain(value: Any, but: Sequence[str] = ()) -> Any:
    """Return values as JSON takes them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items() if key not in but}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
