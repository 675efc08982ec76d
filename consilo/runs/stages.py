"""The stages that every run has, whatever it trains: open, wait, check, admit, close.

They keep the run record, the participation of every silo and the time of each stage.
`consilo.runs.horizontal` trains over silos that hold the same columns, `consilo.runs.vertical` over
silos that hold the same people.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.errors import (
    ConsiloError,
    RecordTampered,
    RunCancelled,
    RunNotResumable,
    RunSuperseded,
    ServiceAway,
    TransportError,
)
from consilo.jobs.causes import AWAY
from consilo.jobs.job import Job
from consilo.kernel.loop import Exchange, Party
from consilo.kernel.steps import Publish
from consilo.machine.files import is_full, tidy
from consilo.membership.software import changes, hardware, installed
from consilo.metrics.words import in_short
from consilo.protocols.conclude import CONCLUDE_S
from consilo.protocols.contract_check import ContractCheck
from consilo.protocols.names import leaves
from consilo.record.chain import in_utc
from consilo.record.participation import Part, parts_of
from consilo.record.run_record import RunRecord
from consilo.reduce.draw import in_words
from consilo.runs.checkpoint import keep_checkpoint, read_checkpoint
from consilo.runs.conversation import Conversation
from consilo.runs.outcome import RunResult, RunStatus, SiloOutcome, Silos
from consilo.runs.patience import WAITING, WENT_ON, Patience, Waiting
from consilo.wire.params import Params
from consilo.wire.parcel import Fault, Transport, not_connected

if TYPE_CHECKING:
    from consilo.models.folder import Scored

Say: TypeAlias = Callable[[str], None]
"""Tells whoever waits how far a run is."""


def silent(text: str) -> None:
    """Tell nobody."""


_NOT_OVER = (TransportError, ServiceAway)
"""What cuts a run off that others can go on with, rather than ends it; so does a full disk."""
_CANCELLED_S = 2.0  # silos hear of a cancellation too, but nobody waits for one that is at work


class Stages:
    """One run, opened: what it is asked, who may take part, and the record of it.

    Args:
        job: what is run.
        contract: what every silo's data must obey.
        transport: how the silos are reached.
        silos: everybody who may be asked, connected or not; those that the job excludes are not.
        directory: where the run keeps record, checkpoint and model; made here.
        run_id: unique.
        key: signs the requests and the run record.
        parties: silo → how it signs and what it speaks; a silo that is not in it is simulated, and
            neither side signs.
        absent: silo → why it is not asked at all, such as ``suspended``.
        bundle: SHA-256 of the code that silos execute; empty in process.
        resume: go on with the run of this id, whose process died; `directory` is that run's.
        standing: silo → why the coordinator does not let it take part now, such as ``suspended``;
            empty where it does.
        clock: seconds, by which stages are timed.
        now: seconds since 1970, by which requests and the record are dated.
        sleep: waits some seconds.

    Raises:
        RunNotResumable: where it has ended, or job, contract or code are others than they were.
    """

    question: ClassVar[str] = ""
    """Of a run that only asks, and is asked again as a whole where its process dies: what."""

    def __init__(
        self,
        job: Job,
        contract: Contract,
        transport: Transport,
        *,
        silos: Sequence[str],
        directory: Path,
        run_id: str,
        key: Ed25519PrivateKey,
        parties: Mapping[str, Party] | None = None,
        absent: Mapping[str, str] | None = None,
        bundle: str = "",
        resume: bool = False,
        standing: Callable[[str], str] = lambda silo: "",
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.contract = contract
        self.run_id = run_id
        self.directory = directory
        self.reports: dict[str, CheckReport] = {}
        self.marks: dict[str, str] = {}
        self.rounds: list[Mapping[str, Any]] = []
        self.parts: list[Part] = []
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._now = now
        self._standing = standing
        self._transport = transport
        self._key = key
        self._bundle = bundle
        self._talk = Conversation(
            job,
            contract,
            transport,
            silos=sorted(set(silos) - set(job.exclude)),
            run_id=run_id,
            key=key,
            parties=parties,
            absent=absent,
            bundle=bundle,
            publish=self._published,
            now=now,
            standing=standing,
            # What is tried on this machine alone says nothing of how long a federation takes.
            runs=directory.parent if directory.parent.name == "runs" else None,
        )
        self.outcomes = {name: SiloOutcome() for name in self.silos}
        self.faults: dict[str, Fault] = {name: not_connected() for name in self.silos}
        self._admitted_at = 0
        self.notes: list[str] = []
        self.at_stage = ""
        self._ending: dict[str, Any] | None = None
        self.on_wait: Callable[[Waiting], None] = lambda waiting: None
        self._are_marked = False
        self.patience = Patience(
            job.quorum.patience_s,
            online=self._talk.online,
            tell=self._waits,
            clock=clock,
            sleep=sleep,
            now=now,
        )
        if resume:
            tidy(directory.parent)
            self.record, entries = RunRecord.reopen(
                directory / "record.jsonl", key, now=lambda: in_utc(now())
            )
            self._talk.record = self.record
            self._require_same(entries[0]["body"])
            self._require_going_on(entries)
            self._note_resumed(entries)
            self.patience.go_on(entries)
            self._take_parts(entries)
        else:
            self.record = self._talk.keep_record(
                directory / "record.jsonl",
                excluded=sorted(set(silos) & set(job.exclude)),
                leaves=leaves(job),
                **({"card": job.stated} if job.stated else {}),
                **_here(),
                **({"question": self.question} if self.question else {}),
                threads=job.threads,
                reproducible=job.privacy is not None and job.privacy.reproducible,
            )

    @property
    def job(self) -> Job:
        """What is run; of a vertical run, over the columns of those who are there."""
        return self._talk.job

    @property
    def is_ours(self) -> bool:
        """Whether no other process has gone on with the run."""
        try:
            self.record.require_ours()
        except RunSuperseded:
            return False
        return True

    @property
    def silos(self) -> tuple[str, ...]:
        """Everybody who may be asked, connected or not."""
        return self._talk.silos

    @property
    def cohort(self) -> tuple[str, ...]:
        """Who was there, of those that may be asked, when that was last looked at."""
        return self._talk.fed.met

    @property
    def exchanges(self) -> list[Exchange]:
        """Each silo's part in each step so far."""
        return self._talk.exchanges

    def wait_for_silos(self, *, seconds: float) -> tuple[str, ...]:
        """Return who is connected: everybody, or those who came within ``seconds``."""
        with self.stage("wait"):
            return self._talk.wait(seconds=seconds, clock=self._clock)

    def check(self, silo: str, *, marked: bool = False) -> CheckReport | Fault:
        """Ask one silo for its contract verdict; different silos may be asked from threads.

        Args:
            silo: which.
            marked: ask for a mark of its rows, too: `marks` has it, where the silo tells one.
        """
        self._are_marked |= marked
        if silo in self._talk.online():
            question = ContractCheck(silo, marked=marked)
            verdict: CheckReport | Fault = self._talk.ask("contract_check", question)
            if question.mark:
                self.marks[silo] = question.mark
        else:
            verdict = self._talk.fed.why_away(silo)
        outcome = self.outcomes[silo]
        if isinstance(verdict, Fault):
            self.faults[silo] = verdict
            self.outcomes[silo] = outcome.absent(verdict)
        else:
            self.reports[silo] = verdict
            if verdict.passed:
                self.outcomes[silo] = replace(outcome, contract="passed", reason="")
            else:
                fault = self.faults[silo] = Fault("contract", verdict.reason())
                self.outcomes[silo] = outcome.absent(fault, contract="failed")
        return verdict

    def admit(self) -> tuple[str, ...]:
        """Narrow the run to the silos that keep the contract, and hold the quorum.

        Where the job waits for silos, those that are away are checked when they are back.

        Raises:
            RunFailed: where too few are left; its class is the cause.
        """
        for name in self.silos:
            self._note_contract(name)
        self._talk.note_replies()
        admitted = self.patience.hold(self._admitted, again=self._check_again)
        self._talk.fed.silos = admitted
        self._admitted_at = len(self.exchanges)
        return admitted

    def _admitted(self) -> tuple[str, ...]:
        admitted = tuple(n for n in self.silos if self.outcomes[n].contract == "passed")
        self._require(admitted, {n: self.faults[n] for n in self.silos if n not in admitted})
        return admitted

    def _check_again(self) -> None:
        """Check who was away when it was asked, and is here now."""
        here = self._talk.online()
        for name in self.silos:
            if name in here and name not in self.reports and self.faults[name].code in AWAY:
                self.check(name, marked=self._are_marked)
                self._note_contract(name)
        self._talk.note_replies()

    def _note_contract(self, silo: str) -> None:
        outcome, report = self.outcomes[silo], self.reports.get(silo)
        self.record.add(
            "contract",
            silo=silo,
            verdict=outcome.contract,
            reason=outcome.reason,
            findings=[] if report is None else [f.model_dump() for f in report.findings],
        )

    def _require_here(self) -> None:
        """Raise a `RunFailed` where the run waits for silos, or drew them, and too few are here.

        So that nobody computes, or pays, for a step that cannot reach its quorum.
        """
        fed = self._talk.fed
        if self.patience.for_s is None and fed.drawn is None:
            return
        here = fed.cohort()
        away = {n: fed.why_away(n) for n in {*fed.silos, *fed.left} if n not in here}
        if fed.drawn is not None:
            away = fed.others(here, away)
        self.job.cohort_quorum.require(
            here, missing=away, num_examples=fed.rows, where="before the next step"
        )

    def _waits(self, waiting: Waiting) -> None:
        """Write down that the run waits, or goes on, and tell whoever looks at it."""
        went_on = waiting.waited_s is not None
        self.record.add(WENT_ON if went_on else WAITING, **waiting.to_json())
        self.on_wait(waiting)

    def check_all(self, say: Say = silent) -> None:
        """Ask every silo for its contract verdict, one after the other."""
        with self.stage("check"):
            for name in self.silos:
                verdict = self.check(name)
                told = verdict.reason if isinstance(verdict, Fault) else verdict.reason()
                say(f"{name}: {told}")

    @property
    def rounds_left(self) -> int:
        """How many rounds are still to do."""
        raise NotImplementedError

    def train_all(self, say: Say = silent) -> None:
        """Do all rounds that are left, one after the other."""
        while self.rounds_left:
            report = self.train_round()
            told = in_short(report["metrics"])
            number, last = report["round"], report["round"] + self.rounds_left
            drawn = in_words(report.get("cohort", {}))
            say(f"round {number} of {last}{drawn}" + (f"; before it: {told}" if told else ""))

    def train_round(self) -> Mapping[str, Any]:
        """Do the next round and return its report; a repeat after a fault starts it anew.

        Raises:
            RunFailed: where too few silos answer; the last checkpoint stands.
        """
        raise NotImplementedError

    @property
    def metrics(self) -> dict[str, float]:
        """The final model's figures; empty before it is evaluated."""
        raise NotImplementedError

    @property
    def model_digest(self) -> str:
        """SHA-256 of what was trained; empty where nothing was."""
        raise NotImplementedError

    def ending(self) -> RunStatus:
        """Return how the run would end if it were closed now."""
        self._settle()
        return self._verdict(None)[0]

    def close(self, error: BaseException | None = None, **extra: Any) -> RunResult:
        """End the run: settle every silo's part, close the record, return the result.

        A second call, after one that failed half way, ends the run as the first one said.
        Where messages cannot travel no silo can be told of an end, and there is none: the record
        stays open, and the run can be gone on with from its last checkpoint. So it is where the
        tracker stays away, or the coordinator's disk is full.

        Args:
            error: what ended it early; None for a run that went through.
            extra: further entries of the summary: model, mlflow, prefect, …
        """
        if self._is_cut_off(error):
            self._settle()
            status, reason = self._verdict(error)
            try:
                self._talk.note_replies()
                self.record.add("interrupted", reason=reason)
            except OSError as cause:  # where no room is left for a line either, none says so
                if not is_full(cause):
                    raise
            return self._result(status, reason, extra)
        if self._ending is None:
            self._ending = self._end(error, extra)
        if not isinstance(error, TransportError):
            cancelled = isinstance(error, RunCancelled)
            wait_s = _CANCELLED_S if cancelled else CONCLUDE_S
            self._talk.conclude(self._ending["said"]["status"], wait_s=wait_s)
        self._close_record(self._ending)
        said = self._ending["said"]
        return self._result(said["status"], said["reason"], extra)

    def _is_cut_off(self, error: BaseException | None) -> bool:
        """Return whether an error is no end of the run: another process can go on with it."""
        if error is None or self._ending is not None:
            return False
        return isinstance(error, _NOT_OVER) or is_full(error)

    def _result(self, status: RunStatus, reason: str, extra: Mapping[str, Any]) -> RunResult:
        return RunResult(
            run_id=self.run_id,
            status=status,
            reason=reason,
            silos=Silos(self.outcomes),
            metrics=self.metrics,
            record=str(self.record.path),
            directory=str(self.directory),
            seconds=dict(self.seconds),
            exchanges=tuple(self.exchanges),
            rounds=tuple(self.rounds),
            participation=self._all_parts(status),
            params=self._trained(),
            extra=extra,
            notes=tuple(self.notes),
            build=self.builder() if status != "failed" else None,
            **self._judgement(),
        )

    def _end(self, error: BaseException | None, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Decide how the run ends, and write it down before a silo hears of it.

        From then on nobody answers for this run: whoever goes on with it can only close it.

        Returns:
            ``said``, what the record's last line says; ``model``, of its line about the model.
        """
        self._settle()
        status, reason = self._verdict(error)
        model = {}
        if status != "failed" and self.model_digest:
            model = {"params": self.model_digest, **_plain(extra)}
        said = {
            "status": status,
            "reason": reason,
            "metrics": self.metrics,
            "silos": {
                name: {
                    "status": each.status,
                    "reason": each.reason,
                    "rounds": list(each.rounds),
                    "num_examples": each.num_examples,
                    "epsilon": each.epsilon,
                }
                for name, each in self.outcomes.items()
            },
        }
        ending = {"said": said, "model": model}
        self.record.add("ending", **ending)
        return ending

    def _close_record(self, ending: Mapping[str, Any]) -> None:
        if ending["model"]:
            self.record.add("model", **ending["model"])
        self.record.close(**ending["said"])
        # Where the disk failed a writer, it may have failed it in taking its file away, too.
        tidy(self.directory)
        tidy(self.directory.parent, below=False)

    def builder(self) -> Callable[[], Scored] | None:
        """Return what makes the trained model, usable by itself; None where there is none here."""
        return None

    def _judgement(self) -> dict[str, Any]:
        """Return what else a result says of how good the model is."""
        return {}

    def _require_same(self, opened: Mapping[str, Any]) -> None:
        """Raise `RunNotResumable` unless the run was opened with what it shall go on with."""
        now = self._talk.opening()
        parts = {"job_digest": "the job", "contract_digest": "the contract", "bundle": "the code"}
        changed = [part for key, part in parts.items() if opened.get(key) != now[key]]
        if changed:
            raise RunNotResumable(
                f"{self.run_id}: {' and '.join(changed)} changed since the run was opened; put it "
                "back as it was, or start a new run"
            )

    def _require_going_on(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Raise `RunNotResumable` where the run died while it ended; its end is written first."""
        endings = [each["body"] for each in entries if each["kind"] == "ending"]
        if not endings:
            return
        status = endings[-1]["said"]["status"]
        self._talk.conclude(status)
        self._close_record(endings[-1])
        raise RunNotResumable(
            f"{self.run_id}: the run had ended ({status}) when its process died; what its "
            "record lacked is written now"
        )

    def _note_resumed(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write that the run goes on, and what this machine has that it did not begin with."""
        now = _here()
        last = [each["body"] for each in entries if each["kind"] in ("opened", "resumed")][-1]
        changed = [each for key in now for each in changes(last.get(key, {}), now[key])]
        self.record.take_over(at=self._now(), **now, changed=changed)
        earlier = [each["body"] for each in entries if each["kind"] == "resumed"]
        changed = [*(one for each in earlier for one in each.get("changed", ())), *changed]
        if changed:
            self.notes.append(
                f"resumed with other hardware or software ({', '.join(changed)}): the last bits "
                "may differ from those of a run that was not interrupted"
            )

    def _take_parts(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Know the silos' parts in the rounds that the run's former processes have done."""
        told = {e["body"]["round"]: e["body"] for e in entries if e["kind"] == "round"}
        for number in sorted(told):  # the record of a release before tells less
            for each in told[number].get("participation", ()):
                self.parts.append(Part.from_json({**each, "round": number}))

    def _end_round(self, payload: Mapping[str, Any], **said: Any) -> None:
        """Write a round down, and then where a process that comes later can go on.

        In that order: a round that a checkpoint has behind it is asked no more, so that what the
        record lacked then it would lack for ever. A process that dies in between does the round
        again, which the record tells a second time; the last time counts.

        Args:
            payload: where the training stands.
            said: the round's entry in the record.
        """
        parts = self._parts_of(said["round"], said["silos"])
        self.parts = [each for each in self.parts if each.round != said["round"]] + parts
        self.record.add("round", **said, participation=[each.brief() for each in parts])
        self._talk.note_replies()
        self._write_checkpoint(payload)

    def _write_checkpoint(self, payload: Mapping[str, Any]) -> None:
        kept = {
            "state": payload,
            "reports": json.dumps(self.rounds),
            "num_examples": dict(self._talk.fed.num_examples),
            "updates": json.dumps(self._talk.updates.to_payload()),
        }
        keep_checkpoint(self.directory, kept)

    def _read_checkpoint(self) -> Mapping[str, Any] | None:
        """Return the state that the training stood at, and take its reports; None without one.

        Without it, or where it is damaged, the run goes on from its beginning: silos answer what
        they have answered with the same bytes, at no further cost.
        """
        try:
            kept = read_checkpoint(self.directory)
        except RecordTampered as cause:
            kept = None
            self.notes.append(f"{cause}; the run went on from its beginning, at no further cost")
            self.record.add("checkpoint_damaged")
        if kept is None:
            return None
        self.rounds = json.loads(kept["reports"])
        self._talk.updates.take(json.loads(kept.get("updates", "{}")))
        self._talk.fed.num_examples.update(kept["num_examples"])
        state: Mapping[str, Any] = kept["state"]
        return state

    def _parts_of(self, number: int, took: Mapping[str, Mapping[str, Any]]) -> list[Part]:
        """Return each silo's part in a round, given whose update counts."""
        fed = self._talk.fed
        absent = {name: each for name, each in self.faults.items() if name not in self.reports}
        absent |= {n: self.faults[n] for n, each in self.reports.items() if not each.passed}
        absent |= fed.left
        # Nobody is asked anew whether silos are there: at an end it may be that nothing travels.
        for name in set(self.silos) - set(fed.met) - set(absent):
            absent[name] = fed.why_away(name)
        unfinished: dict[str, Any] = (
            {} if fed.drawn is None else {"cohort": {"drawn": sorted(fed.drawn)}}
        )
        return parts_of(
            number,
            took,
            self.exchanges,
            silos=self.silos,
            checked=[n for n in self.silos if self.outcomes[n].contract == "passed"],
            absent=absent,
            weighed=self.weighs_by_rows,
            told=next((each for each in self.rounds if each["round"] == number), unfinished),
        )

    @property
    def weighs_by_rows(self) -> bool:
        """Whether a silo's update counts by the number of its rows."""
        return False

    def _all_parts(self, status: RunStatus) -> tuple[Part, ...]:
        """Return each silo's part in each round; of a failed run also in the unfinished one."""
        done = {each.round for each in self.parts}
        begun = {each.round for each in self.exchanges if each.round} - done
        unfinished = sorted(begun) if status == "failed" else ()
        return (*self.parts, *(p for number in unfinished for p in self._parts_of(number, {})))

    def _require(self, admitted: Sequence[str], absent: Mapping[str, Fault]) -> None:
        """Raise a `RunFailed` unless the run can go on with those who keep the contract."""
        self.job.cohort_quorum.require(
            admitted, missing=absent, num_examples={}, where="before the run"
        )

    def _trained(self) -> Params:
        """Return the model that the coordinator holds; empty where it holds none."""
        return {}

    def _settle(self) -> None:
        """Work out each silo's status from the rounds whose reports count it."""
        raise NotImplementedError

    def _published(self, step: Publish) -> None:
        if step.name == "round":
            # A round that is done again after a fault replaces its first report.
            done = [each for each in self.rounds if each["round"] != step.value["round"]]
            self.rounds = [*done, step.value]

    def _verdict(self, error: BaseException | None) -> tuple[RunStatus, str]:
        if error is not None:
            kind = type(error).__name__
            reason = str(error) if isinstance(error, ConsiloError) else "see the coordinator's log"
            if is_full(error):
                reason = "the coordinator's disk is full; make room"
            if self._is_cut_off(error):
                reason += f"; the run is not over: --resume {self.run_id} goes on with it"
            return "failed", f"{kind}: {reason}"
        missing = [
            f"{name} {each.status.replace('_', ' ')}: {each.reason}"
            for name, each in self.outcomes.items()
            if each.status not in ("trained", "answered", "not_drawn") or each.reason
        ]
        return ("degraded", "; ".join(missing)) if missing else ("complete", "")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's wall seconds to the stage ``name``."""
        started = self._clock()
        self.at_stage = name
        try:
            yield
        finally:
            self.at_stage = ""
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started


def _here() -> dict[str, dict[str, str]]:
    """Return what the coordinator's bits depend on; each silo's own machine is its own matter."""
    return {"hardware": hardware(), "software": dict(installed().versions)}


def _plain(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extra.items() if key in ("model", "mlflow", "prefect")}
