"""One run in which silos vote on a trained model: wait, check contracts, ask, close.

It trains nothing. Who has broken the contract, or is away, has not voted, and is told so; how many
votes a model needs is a matter of the decision that is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from consilo.contracts.contract import Contract
from consilo.decisions.vote import Ballot, Vote
from consilo.errors import (
    ConsiloError,
    IncompatibleJob,
    QuorumLost,
    RecordTampered,
    ReplyInvalid,
    RunFailed,
)
from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import learner_of
from consilo.horizontal.training import TrainState
from consilo.horizontal.votes.model import ASKED, MONITORING, Model
from consilo.horizontal.votes.protocol import Answered, Voting, vote_of
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel.headers import ReplyHeader
from consilo.learners.modules import is_offered
from consilo.record.run_record import read, verify
from consilo.runs.checkpoint import read_checkpoint
from consilo.runs.outcome import RunResult
from consilo.runs.stages import Say, Stages, silent
from consilo.wire import params as tree
from consilo.wire.parcel import Fault, Transport
from consilo.wire.payload import canonical_json, digest, pack

_VOTED = "voted"


@dataclass(frozen=True)
class Trained:
    """A model that a finished run has left, with all it takes to ask about it.

    Args:
        model: as it travels.
        opened: the first line of the run's record: job, contract's digest, bundle.
    """

    model: Model
    opened: Mapping[str, Any]


def trained_by(place: Path, contract: Contract, search_path: Sequence[Path] = ()) -> Trained:
    """Return the model that a run has left in its directory.

    Args:
        place: the run's directory.
        contract: of its job.
        search_path: where the job's own modules lie.

    Raises:
        IncompatibleJob: where the run has none that silos could vote on, or was of another
            contract.
        RecordTampered: where record or checkpoint are not as they were written.
    """
    path = place / "record.jsonl"
    if not path.is_file():
        raise IncompatibleJob(f"{place.name}: no run of this name is kept here")
    entries = read(path)
    opened = entries[0]["body"]
    job = Job.from_json(opened["job"])
    if not isinstance(job, ModelJob) or job.kind != "horizontal":
        raise IncompatibleJob(
            f"{place.name} is a run of the kind {job.kind}: silos vote on models that each of them "
            "can judge on its own rows. One over the columns of several silos lies in parts there, "
            "and no silo can say by itself how good it is; decide about it without votes"
        )
    if opened["contract_digest"] != contract.digest:
        raise IncompatibleJob(
            f"{place.name} was run under another {contract.ref} than the one that is here now; put "
            "the contract's file back as it was, or train a new candidate"
        )
    verify(path)
    kept = read_checkpoint(place)
    if kept is None:
        raise IncompatibleJob(f"{place.name}: its last state is not kept here any more")
    state = TrainState.from_payload(kept["state"])
    encoding = Encoding.plan(contract, job)
    learner = learner_of(job, encoding, search_path, state.target)
    moving = {**state.params, **state.buffers}
    fixed = {k: v for k, v in learner.parameters().items() if k not in moving}
    params = {**fixed, **moving}
    named = [e["body"]["params"] for e in entries if e["kind"] == "model" and "params" in e["body"]]
    if named and named[-1] != tree.digest(params):
        raise RecordTampered(f"{place.name}: its last state is not the model that its record names")
    return Trained(Model.of(place.name, job, params, state), opened)


def against(candidate: Trained, champion: Trained | None) -> tuple[Model | None, tuple[str, ...]]:
    """Return the champion as it can be sent, and why none can be though there is one.

    What silos run is the candidate's code: a champion that needs other code is not compared.
    """
    if champion is None:
        return None, ()
    own = [each for each in champion.model.job.code if not is_offered(each, "model")]
    if own and champion.opened.get("bundle") != candidate.opened.get("bundle"):
        return None, ("other_code",)
    if champion.opened["contract_digest"] != candidate.opened["contract_digest"]:
        return None, ("other_rows",)
    return champion.model, ()


class VoteRun(Stages):
    """One run that asks for votes over a transport.

    Args:
        candidate: what is voted on.
        contract: of its job.
        transport: how the silos are reached.
        silos: everybody who is registered, connected or not, whether or not they trained.
        champion: what is in use; None where nothing is.
        monitors: the candidate is in use, and the champion is the one before it.
        settings: directory, run_id, key, parties, absent, bundle, standing, clock: those of
            `Stages`.
    """

    def __init__(
        self,
        candidate: Trained,
        contract: Contract,
        transport: Transport,
        *,
        silos: Sequence[str],
        champion: Trained | None = None,
        monitors: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(candidate.model.job, contract, transport, silos=silos, **settings)
        self._candidate = candidate.model
        self._champion, self._lacking = against(candidate, champion)
        self._monitors = monitors
        self.answered: Answered | None = None
        self.record.add(
            "candidate",
            trained=self._candidate.run,
            params=self._candidate.digest,
            champion=None
            if champion is None
            else {"trained": champion.model.run, "params": champion.model.digest},
            lacking=list(self._lacking),
            **({ASKED: MONITORING} if monitors else {}),
        )

    def vote(self) -> Ballot:
        """Ask all who keep the contract, and write down what each has signed.

        Raises:
            RunFailed: where messages were lost.
        """
        with self.stage("vote"):
            question = Voting(
                self._candidate, self._champion, self._lacking, monitors=self._monitors
            )
            answered: Answered = self._talk.ask("silo_votes", question)
            self.answered = answered
            for vote in answered.votes:
                fields = answered.fields[vote.silo]
                self.record.add(_VOTED, silo=vote.silo, vote=vote.to_json(), fields=fields)
            self._talk.note_replies()
        return self.ballot

    @property
    def ballot(self) -> Ballot:
        """What silos have said so far, and why the others have not."""
        votes = () if self.answered is None else self.answered.votes
        missing = {} if self.answered is None else dict(self.answered.missing)
        voted = {each.silo for each in votes}
        for name in self.silos:
            if name not in voted and name not in missing:
                fault = self.faults[name]
                missing[name] = f"{fault.code}: {fault.reason}"
        return Ballot(self.run_id, votes, dict(sorted(missing.items())))

    @property
    def metrics(self) -> dict[str, float]:
        """Empty: votes are no figure of merit."""
        return {}

    @property
    def model_digest(self) -> str:
        """Empty: nothing was trained."""
        return ""

    @property
    def rounds_left(self) -> int:
        """None: nothing is trained."""
        return 0

    def train_round(self) -> Mapping[str, Any]:
        """Refuse: nothing is trained."""
        raise ConsiloError("a run that asks for votes has no rounds")

    def _require(self, admitted: Sequence[str], absent: Mapping[str, Fault]) -> None:
        """Raise `QuorumLost` where nobody is left to vote."""
        if not admitted:
            told = "; ".join(f"{name} {each.reason}" for name, each in sorted(absent.items()))
            raise QuorumLost(f"nobody is there to vote: {told}")

    def _settle(self) -> None:
        """Work out each silo's status: it has voted, or why it has not."""
        votes = {} if self.answered is None else {each.silo: each for each in self.answered.votes}
        why = self.ballot.missing
        for name in self.silos:
            if name in votes:
                self.outcomes[name] = replace(self.outcomes[name], status="answered", reason="")
            elif self.outcomes[name].status == "dropped" and name in why:
                code, _, reason = why[name].partition(": ")
                self.outcomes[name] = self.outcomes[name].absent(Fault(code, reason))


def run_votes(run: VoteRun, *, wait_s: float = 0.0, say: Say = silent) -> tuple[Ballot, RunResult]:
    """Do every stage in a row; a run in which nobody votes is a result, ``failed``."""
    try:
        run.wait_for_silos(seconds=wait_s)
        run.check_all(say)
        run.admit()
        for vote in run.vote().votes:
            say(f"{vote.silo}: {vote.told}")
    except RunFailed as error:
        return run.ballot, run.close(error)
    except BaseException as error:
        run.close(error)
        raise
    return run.ballot, run.close()


def read_ballot(place: Path, public_key: bytes | None = None, *, monitors: bool = False) -> Ballot:
    """Return the votes of a run, each held against the signature of the silo that gave it.

    Args:
        place: the directory of the run in which silos voted.
        public_key: the coordinator's raw Ed25519 key; see `consilo.record.run_record.verify`.
        monitors: they were asked about the champion, and have voted on no candidate.

    Raises:
        RecordTampered: where the record is not whole, or a vote is none that a silo has signed, or
            was given to the other of both questions.
    """
    path = place / "record.jsonl"
    closing = verify(path, public_key)
    entries = read(path)
    keys = entries[0]["body"]["signing_keys"]
    headers = [h for e in entries if e["kind"] == "replies" for h in e["body"]["headers"]]
    signed = {}
    for each in headers:
        header = ReplyHeader.decode(canonical_json(each))
        if header.is_signed_by(keys.get(header.silo, "")):
            signed[header.silo, header.content] = header
    votes = []
    for body in (e["body"] for e in entries if e["kind"] == _VOTED):
        name, fields = body["silo"], body["fields"]
        try:
            vote = vote_of(name, fields, monitors=monitors)
        except (ReplyInvalid, KeyError, TypeError, AttributeError) as cause:
            raise RecordTampered(f"{path.name}: what {name} said is no vote") from cause
        if name in keys and (name, digest(pack(fields))) not in signed:
            raise RecordTampered(f"{path.name}: {name} has not signed the vote that is told of it")
        if vote != Vote.from_json(body["vote"]):
            raise RecordTampered(f"{path.name}: the vote of {name} is told in two ways")
        votes.append(vote)
    voted = {each.silo for each in votes}
    missing = {
        name: str(each["reason"]) for name, each in closing["silos"].items() if name not in voted
    }
    return Ballot(place.name, tuple(votes), missing)
