"""One run of a vertical or a scoring job: check, admit, match, train round by round, finish.

Silos hold different columns of the same people. The coordinator carries sealed letters and learns
sizes, counts and figures of merit; the model's parts stay in the silos.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, IncompatibleJob, MatchUnusable, RunFailed, TooFewRows
from consilo.horizontal.features import Encoding
from consilo.jobs.holders import Holders
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.jobs.quorum import Quorum
from consilo.kernel.steps import Checkpoint
from consilo.protocols.names import find_protocol
from consilo.record.run_record import read
from consilo.runs.match import contract_of, match_rows
from consilo.runs.outcome import RunResult, RunStatus
from consilo.runs.planning.plan import out_of_reach, refuse
from consilo.runs.planning.unread import unread
from consilo.runs.stages import Say, Stages, silent
from consilo.vertical.blocks import require_all_rows
from consilo.vertical.control import control
from consilo.vertical.held import Held, MatchHeld
from consilo.vertical.training import LEAST_ROWS, Turn, VerticalTraining
from consilo.wire.parcel import Fault, Transport, not_connected
from consilo.wire.payload import digest


class VerticalRun(Stages):
    """One run of a vertical job over a transport.

    Args:
        job: of the kind ``vertical`` or ``scoring``.
        contract: the columns of the joint table.
        transport: how the silos are reached.
        silos: everybody who is registered; those that hold no columns of the job are not asked.
        search_path: where the job's own modules and contracts lie.
        settings: directory, run_id, key, parties, absent, bundle, resume, clock: those of `Stages`.

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
        self._protocol = plan_vertical(job, contract, silos, search_path)
        members = self._protocol.settings.members
        super().__init__(job, contract, transport, silos=members, **settings)
        self._search_path = tuple(search_path)
        self.state = Turn()
        self.matched: Mapping[str, Any] = {}
        self._is_finished = False
        self._training: Generator[Checkpoint, None, Turn] | None = None
        self._began_with: tuple[str, ...] = ()
        if settings.get("resume"):
            self._take_up()

    @property
    def job(self) -> ModelJob:
        """What is run, over the columns of those who are there."""
        return ModelJob.of(self._talk.job)

    @property
    def rounds_left(self) -> int:
        """How many rounds there may still be; a training that converges needs fewer."""
        if self.state.is_trained or not self.job.trains:
            return 0
        return max(self.job.protocol.rounds - self.state.round, 0)

    def match(self) -> Mapping[str, Any]:
        """Make sure that all silos hold halves of one match: that which they have, or a new one.

        Returns:
            ``handle``, ``rows``, ``reused``, and of a new match what `run_match` tells.

        Raises:
            IncompatibleJob: where there is none and the job does not say how to make one.
            ConsiloError: where matching failed.
        """
        return self.patience.hold(self._match)

    def _match(self) -> Mapping[str, Any]:
        with self.stage("match"):
            handle = self._protocol.settings.match
            held = self._held()
            told: dict[str, Any] = {"handle": handle, "reused": not held.reason, "rows": held.rows}
            if held.reason and self.state.round:
                raise MatchUnusable(
                    f"the match that the run began with cannot be used any more ({held.reason}); "
                    "start a new run"
                )
            if held.reason:
                told |= self._match_anew(held)
            self.matched = told
            self.record.add("matched", **told)
            self._talk.note_replies()
            self._admitted_at = len(self.exchanges)
            if self.job.trains and told["rows"] < LEAST_ROWS:
                raise TooFewRows(
                    f"{told['rows']} rows are matched, and a model needs {LEAST_ROWS} at least to "
                    "be trained and judged: do the keys of the silos fit together? 'consilo match "
                    "show' tells each silo what of it was matched"
                )
        return told

    def train_round(self) -> Mapping[str, Any]:
        """Do the next round and return its report; a repeat after a fault starts it anew.

        Raises:
            RunFailed: where a silo does not answer; the last checkpoint stands.
        """
        return self.patience.hold(self._round)

    def _round(self) -> Mapping[str, Any]:
        with self.stage("train"):
            if self._advance() is None:
                raise ConsiloError("there is nothing left to train")
            self._end_round(
                self.state.to_payload(),
                round=self.state.round,
                silos={
                    name: {
                        "num_examples": self.state.rows - self.state.unlabelled,
                        "epsilon": self.state.epsilon.get(name),
                    }
                    for name in self._members
                },
                faults={},
            )
        return self.rounds[-1]

    def evaluate(self) -> Mapping[str, float]:
        """Judge the model in the label silo, and let every silo keep its part.

        Raises:
            RunFailed: where a silo does not answer; the last checkpoint stands.
        """
        return self.patience.hold(self._evaluated)

    def _evaluated(self) -> Mapping[str, float]:
        with self.stage("evaluate"):
            if self._advance() is not None:
                raise ConsiloError("a model is judged when its training has ended")
            label = self._protocol.settings.label_silo
            self.outcomes[label] = replace(self.outcomes[label], metrics=dict(self.state.metrics))
            self.record.add(
                "evaluated",
                metrics=dict(self.state.metrics),
                facts=dict(self.state.facts),
                rows=self.state.rows,
                unlabelled=self.state.unlabelled,
                control=control(self.state.metrics, rows=self.state.rows),
                parts=dict(self.state.references),
            )
            self._talk.note_replies()
        return self.state.metrics

    def close(self, error: BaseException | None = None, **extra: Any) -> RunResult:
        """End the run as `Stages.close` does; the summary has the match and the references too."""
        told = {
            "kind": self.job.kind,
            "label_silo": self.label_silo,
            "unlabelled": self.state.unlabelled,
            "match": dict(self.matched) or None,
            "references": self.references,
        }
        return super().close(error, **told, **extra)

    @property
    def metrics(self) -> dict[str, float]:
        """What the label silo says of the model."""
        return dict(self.state.metrics)

    @property
    def references(self) -> dict[str, str]:
        """Silo → SHA-256 of the part of the model that it keeps."""
        return dict(self.state.references)

    @property
    def model_digest(self) -> str:
        """SHA-256 over the references to all parts; empty before they are kept."""
        return digest(self.references) if self.state.references else ""

    @property
    def settings(self) -> Holders:
        """Who holds what."""
        return self._protocol.settings

    @property
    def label_silo(self) -> str:
        """Who learns the result."""
        return self._protocol.settings.label_silo

    @property
    def _members(self) -> tuple[str, ...]:
        return self._protocol.settings.members

    def _require(self, admitted: Sequence[str], absent: Mapping[str, Fault]) -> None:
        """Hold the quorum; where the job bears missing blocks, go on with the columns there are."""
        super()._require(admitted, absent)
        holders = self._protocol.settings
        bearable = holders.missing_blocks == "leave_out" and len(admitted) > 1
        needed = (holders.label_silo,) if bearable else holders.members
        needed = self._began_with or needed
        Quorum(mandatory=needed).require(
            admitted, missing=absent, num_examples={}, where="before the run"
        )
        if len(admitted) < len(holders.members):
            self._narrow(admitted)

    def _take_up(self) -> None:
        """Stand where the run stood that is gone on with, and leave out whom it had left out."""
        stood = self._read_checkpoint()
        if stood is not None:
            self.state = Turn.from_payload(stood)
        members, has_begun = self._protocol.settings.members, stood is not None
        for entry in read(self.record.path):
            if entry["kind"] == "narrowed":
                members = tuple(entry["body"]["silos"])
            # From then on silos may hold keys and states of this very job.
            has_begun |= entry["kind"] in ("narrowed", "matched")
        if has_begun:
            self._began_with = members
        why = "left out when the run began"
        for name in set(self.silos) - set(members):
            self._talk.absent[name] = why
            self._talk.fed.left[name] = not_connected(why)

    def _narrow(self, admitted: Sequence[str]) -> None:
        """Go on with the job over the columns of those who are there."""
        args = dict(self.job.protocol.args)
        args["columns"] = {n: list(self._protocol.settings.columns[n]) for n in admitted}
        rates = args.get("learning_rates")
        if rates:
            args["learning_rates"] = {n: rate for n, rate in rates.items() if n in admitted}
        job = self.job.changed(protocol={"args": args})
        self._protocol = plan_vertical(job, self.contract, admitted, self._search_path)
        self._talk.take(job, admitted)
        self.record.add(
            "narrowed",
            silos=list(admitted),
            job=self.job.to_json(),
            job_digest=self.job.digest,
            manifest=self._talk.manifest,
        )

    def _held(self, run: str = "") -> Held:
        asked = MatchHeld(self._protocol.settings, run)
        held: Held = self._talk.ask("match_held", asked)
        return held

    def _match_anew(self, held: Held) -> dict[str, Any]:
        if self.job.match is None:
            raise IncompatibleJob(
                f"the silos hold no match '{self._protocol.settings.match}' that can be used "
                f"({held.reason}); run 'consilo match run', or give the job a section 'match'"
            )
        members = self._members
        job = self.job.changed(
            match={
                "hub": self.job.match.hub or self.label_silo,
                "handle": self._protocol.settings.match,
            },
            quorum={"min_silos": len(members), "mandatory": list(members)},
        )
        tried = len(list(self.directory.glob("match*")))  # silos answer a match that ended no more
        name = f"match-{tried + 1}" if tried else "match"
        told, error = match_rows(
            job,
            contract_of(job, self._search_path),
            self._transport,
            silos=members,
            directory=self.directory / name,
            run_id=f"{self.run_id}-{name}",
            key=self._key,
            parties={n: each for n, each in self._talk.parties.items() if n in members},
            bundle=self._bundle,
            patience=self.patience,
        )
        if error is not None:
            raise error
        held = self._held(told["run_id"])
        if held.reason:
            raise MatchUnusable(
                f"the silos were matched, but {held.reason}; look whether their rows or rules "
                "changed meanwhile, and run again"
            )
        kept = ("run_id", "recipe", "hub", "seconds", "silos")
        return {"rows": held.rows, **{name: told[name] for name in kept}}

    def _advance(self) -> Checkpoint | None:
        """Go on to the next checkpoint; None where the protocol has ended."""
        if self._training is None:
            name = self.job.protocol.name
            self._training = self._talk.drive(name, self._protocol, self.state)
        try:
            checkpoint = next(self._training)
        except StopIteration as stop:
            self.state, self._is_finished = stop.value, True
            return None
        except BaseException:
            self._training = None
            raise
        self.state = checkpoint.state
        return checkpoint

    def _verdict(self, error: BaseException | None) -> tuple[RunStatus, str]:
        """A run whose shuffled join gains too is no plain success."""
        status, reason = super()._verdict(error)
        wrong = [
            reason,
            control(self.state.metrics, rows=self.state.rows),
            left_out_of(self.matched, self.job),
        ]
        if status == "failed" or not any(wrong[1:]):
            return status, reason
        return "degraded", "; ".join(each for each in wrong if each)

    def _settle(self) -> None:
        """Work out each silo's status: all of them trained, or nobody did."""
        rounds = tuple(int(each["round"]) for each in self.rounds)
        since = self.exchanges[self._admitted_at :]
        faults = {each.silo: each.fault for each in since if each.fault is not None}
        for name in self.silos:
            outcome = self.outcomes[name]
            if outcome.contract != "passed":
                continue
            if name not in self._members:
                left = Fault("unreachable", "left out: the run began without it")
                self.outcomes[name] = outcome.absent(left)
            elif rounds or self._is_finished:
                fault = None if self._is_finished else faults.get(name)
                self.outcomes[name] = replace(
                    outcome,
                    status="trained" if self.job.trains else "answered",
                    reason="" if fault is None else fault.reason,
                    rounds=rounds,
                    num_examples=self.state.rows - self.state.unlabelled,
                    epsilon=self.state.epsilon.get(name),
                )
            else:
                self.outcomes[name] = outcome.absent(
                    faults.get(name) or Fault("unreachable", "the run ended before its first round")
                )


def plan_vertical(
    job: Job, contract: Contract, silos: Sequence[str], search_path: Sequence[Path] = ()
) -> VerticalTraining:
    """Return the protocol of a vertical job whose parts fit together; asks nobody.

    Args:
        job: what shall be run.
        contract: the columns of the joint table.
        silos: who is registered; empty asks no question about them.
        search_path: where the job's own modules lie.

    Raises:
        IncompatibleJob: with every reason why the parts cannot work together.
        JobInvalid: where ``protocol.args`` do not say who holds what.
    """
    job = ModelJob.of(job)
    kind = find_protocol(job.protocol.name, search_path)
    if not issubclass(kind, VerticalTraining):
        raise IncompatibleJob(f"protocol.name: '{job.protocol.name}' runs no {job.kind} job")
    protocol = kind.from_job(job)
    faults = []
    holders = protocol.settings
    try:
        protocol.require_fit(contract)
        if job.trains:
            _require_encoding(job, contract, holders)
    except IncompatibleJob as cause:
        faults.append(str(cause))
    faults += out_of_reach(job)
    unknown = sorted(set(holders.members) - set(silos)) if silos else []
    excluded = sorted(set(holders.members) & set(job.exclude))
    if unknown and holders.missing_blocks == "refuse":
        faults.append(
            f"protocol.args.columns: not registered: {', '.join(unknown)}; registered: "
            f"{', '.join(sorted(silos))}"
        )
    if excluded:
        faults.append(f"exclude: {', '.join(excluded)} hold columns of the job")
    if job.match is not None and job.match.handle not in (None, holders.match):
        faults.append(
            f"match.handle: '{job.match.handle}' is made, protocol.args.match: '{holders.match}' "
            "is used; write the same"
        )
    model = str(job.protocol.args.get("model", ""))
    if silos and not job.trains and ":" in model:
        faults.append(
            f"protocol.args.model: '{model}' must be looked up in the registry first; run the job "
            "on a federation, or give the id of the run that trained it"
        )
    if job.reduce.rule != "mean":
        faults.append("reduce.rule: nothing is reduced at the coordinator; leave it out")
    if job.reduce.secure:
        faults.append("reduce.secure: nothing is reduced at the coordinator; leave it out")
    faults += unread(job, type(protocol))
    if not faults:
        faults += protocol.rehearse(contract, search_path)
    refuse(job, faults)
    return protocol


def _require_encoding(job: ModelJob, contract: Contract, holders: Holders) -> None:
    """Raise `IncompatibleJob` where a silo could not make inputs of its columns."""
    require_all_rows(job)
    # Only the label silo has a target: what the others encode is the inputs.
    others = job.changed(task="custom", outputs=1)
    for name in holders.members:
        Encoding.plan(holders.part(contract, name), job if name == holders.label_silo else others)


def left_out_of(matched: Mapping[str, Any], job: ModelJob) -> str:
    """Return which silos' entities were left out of a match beyond what the job bears, and why.

    Args:
        matched: what `VerticalRun.match` returned; a match that was made before says nothing.
        job: its ``match.max_ambiguous`` is the share that may be.
    """
    if job.match is None:
        return ""
    told = []
    for name, sizes in matched.get("silos", {}).items():
        ambiguous, entities = int(sizes.get("ambiguous", 0)), int(sizes["entities"])
        if ambiguous > job.match.max_ambiguous * entities:
            told.append(
                f"{name}: {ambiguous} of {entities} are not matched, since each of their keys is "
                "another's too (rows of one person? say duplicates: same in the recipe)"
            )
    return "; ".join(told)


def run_vertical(run: VerticalRun, *, wait_s: float = 0.0, say: Say = silent) -> RunResult:
    """Do every stage of a vertical run in a row; one that cannot go on is a result, ``failed``."""
    run.on_wait = lambda waiting: say(waiting.told)
    try:
        run.wait_for_silos(seconds=wait_s)
        run.check_all(say)
        run.admit()
        run.match()
        run.train_all(say)
        run.evaluate()
    except RunFailed as error:
        return run.close(error)
    except BaseException as error:
        run.close(error)
        raise
    return run.close()
