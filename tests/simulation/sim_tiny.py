"""A protocol and a run that are small enough to be simulated thousands of times a minute."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace

import clinic
import numpy as np

from consilo.contracts.report import CheckReport
from consilo.errors import QuorumLost
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Checkpoint, Publish
from consilo.kernel.verbs import Disclosure, count, tensors, verb
from consilo.runs.stages import Stages
from consilo.wire import params as tree

SIZE = 3
CONTRACT = clinic.contract()
NAME = "sim_tiny:Tiny"
QUORUM = {"min_silos": 1, "deadline": 60.0}
JOBS = {
    rounds: clinic.job(protocol={"name": NAME, "rounds": rounds}, quorum=QUORUM)
    for rounds in (1, 2, 3)
}


@functools.cache
def waiting(rounds, silos):
    """Return the job that needs so many silos in each round, and waits for them."""
    return JOBS[rounds].changed(quorum={"min_silos": silos, "on_loss": "wait", "for": "1d"})


REPORT = CheckReport(
    contract=CONTRACT.ref, contract_digest=CONTRACT.digest, verdict="passed", findings=()
)
CHARGE = {"sigma": 1.5, "sample_rate": 0.25, "steps": 2, "rows": 100}


@dataclass(frozen=True)
class TinyState:
    """Where the training stands."""

    round: int
    params: np.ndarray

    def to_payload(self):
        return {"round": self.round, "params": self.params}


class Tiny(Protocol[TinyState]):
    """A mean of noisy vectors, in which each silo remembers what it sent last."""

    def coordinate(self, fed, state):
        while state.round < fed.job.protocol.rounds:
            payload = {"params": {"w": state.params}}
            quorum = fed.job.cohort_quorum
            answers = yield Ask(fed.cohort(), "step", payload, quorum=quorum)
            deltas = [each.fields["delta"]["w"] for each in answers.replies.values()]
            state = TinyState(state.round + 1, moved(state.params, deltas))
            silos = {name: {"num_examples": 100, "epsilon": None} for name in answers.replies}
            yield Publish("round", {"round": state.round, "silos": silos, "metrics": {}})
            yield Checkpoint(state)
        return state

    @verb(
        "step",
        replies={"delta": tensors(Disclosure.UPDATE, like="params"), "num_examples": count()},
    )
    def step(self, silo, message):
        state = silo.state("memory")
        before = state.before()
        last = np.zeros(SIZE) if before is None else before["delta"]
        silo.reserve("gaussian", **CHARGE, fingerprint="rows")
        params = message.payload["params"]["w"]
        delta = answer(silo.secrets.lasting("noise"), silo.name, params, last, message.round)
        silo.host.told(silo.header, params, delta)
        state.keep({"delta": delta})
        return {"delta": {"w": delta}, "num_examples": 100}


def answer(key, silo, params, last, round):
    """Return what a silo answers: towards its own point, its last answer, and noise."""
    mark = hashlib.sha256(key + params.tobytes() + bytes([round])).digest()
    noise = np.frombuffer(mark[: 8 * SIZE], np.int64) / 2**66
    return 0.25 * (params - len(silo)) + 0.125 * last + noise


def moved(params, deltas):
    """Return the next parameters."""
    return params - sum(deltas) / len(deltas)


class TinyRun(Stages):
    """A run of `Tiny`, from its first question to its last line."""

    def __init__(self, *settings, is_checked, told, **named):
        self.is_checked = is_checked
        super().__init__(*settings, **named)
        stood = self._read_checkpoint() if named.get("resume") else None
        self.state = TinyState(0, np.zeros(SIZE))
        if stood is not None:
            self.state = TinyState(int(stood["round"]), stood["params"])
        self._training = None
        self.on_wait = lambda waiting: told(waiting.told)

    def go(self):
        """Do what is left of the run; silos are asked for their rows' verdict, or it is known."""
        for name in self.silos:
            if self.is_checked:
                self.check(name)
            else:
                self.outcomes[name] = replace(self.outcomes[name], contract="passed", reason="")
        self.admit()
        tries = 3
        while self.rounds_left:
            try:
                self.train_round()
            except QuorumLost:
                tries -= 1
                if not tries or self.patience.for_s is not None:
                    raise
        return self.close()

    @property
    def rounds_left(self):
        return self.job.protocol.rounds - self.state.round

    def train_round(self):
        return self.patience.hold(self._round)

    def _round(self):
        if self._training is None:
            self._training = self._talk.drive(NAME, Tiny(), self.state)
        try:
            self.state = next(self._training).state
        except BaseException:
            self._training = None
            raise
        report = self.rounds[-1]
        faults = {
            each.silo: each.fault.code
            for each in self.exchanges
            if each.round == self.state.round and each.fault is not None
        }
        self._end_round(
            self.state.to_payload(),
            round=self.state.round,
            silos=dict(report["silos"]),
            faults={name: code for name, code in faults.items() if name not in report["silos"]},
            params=self.model_digest,
        )
        return report

    @property
    def metrics(self):
        return {}

    @property
    def model_digest(self):
        return tree.digest({"w": self.state.params})

    def _settle(self):
        for name in self.silos:
            took = tuple(each["round"] for each in self.rounds if name in each["silos"])
            missed = [n for n in range(1, len(self.rounds) + 1) if n not in took]
            status = "trained" if took else "dropped"
            reason = f"missed {missed}" if missed else ""
            self.outcomes[name] = replace(
                self.outcomes[name], status=status, reason=reason, rounds=took
            )
