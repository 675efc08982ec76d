"""A small made-up contract with rows, jobs and silos; a seam for many tests, not a test itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.errors import Refused
from consilo.jobs.job import Job
from consilo.jobs.match import Match, MatchQuestion
from consilo.privacy.account import Account
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import Run
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Answer, Parcel
from consilo.wire.signing import is_signed, public_hex, sign
from silos.gate.guard import addressed

CONTRACT = """
name: clinic
version: 1
columns:
  age: {type: float, range: {min: 0, max: 120}, nullable_share: 0.9}
  smoker: {type: boolean}
  ward: {type: category, allowed: [a, b, c], nullable_share: 0.9}
  ill: {type: integer, role: target, allowed: [0, 1]}
"""
JOB = {
    "name": "clinic",
    "contract": "clinic@1",
    "model": "consilo.learners.tabular:LogisticRegression",
    "protocol": {"name": "fedavg", "rounds": 3},
    "local": {"batch_size": 8, "epochs": 1, "lr": 0.3},
    "quorum": {"min_silos": 1},
}


def contract(text: str = CONTRACT) -> Contract:
    return Contract.parse(yaml.safe_load(text), where="clinic.yaml")


def job(**changes: Any) -> Job:
    return Job.from_json(JOB).changed(**changes)


def frame(rows: int, seed: int = 0, *, missing: float = 0.2) -> pd.DataFrame:
    """Rows that keep the contract, with gaps."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, rows)
    ill = (age + rng.normal(0, 10, rows) > 55).astype(int)
    ward = rng.choice(np.array(["a", "b", "c"], dtype=object), rows)
    ward[rng.random(rows) < missing] = None
    age[rng.random(rows) < missing] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "smoker": rng.random(rows) < 0.3,
            "ward": pd.Series(ward, dtype="string"),
            "ill": ill,
        }
    )


def frames(*sizes: int) -> dict[str, pd.DataFrame]:
    names = ("east", "north", "south", "west", "zenith")
    return {
        name: frame(size, seed) for seed, (name, size) in enumerate(zip(names, sizes, strict=False))
    }


def signing_key(silo: str) -> Ed25519PrivateKey:
    """The key of a silo in memory; whoever tests knows them all."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(silo.encode()).digest())


@dataclass
class Host:
    """A `consilo.kernel.view.SiloHost` in memory: no files, no contract check; fast."""

    name: str
    rows: pd.DataFrame
    search_path: tuple[Path, ...] = ()
    refusal: str = ""
    replies: dict[str, Parcel] = field(default_factory=dict)
    spends: dict[str, list[Any]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    state: dict[tuple[str, str], bytes] = field(default_factory=dict)
    matches: dict[str, Match] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    scores: dict[str, pd.DataFrame] = field(default_factory=dict)
    questions: list[MatchQuestion] = field(default_factory=list)
    min_common: int = 0
    keep_replies: bool = True
    encodings: int = 0

    def verify(self, header) -> None:
        addressed(header, self.name)

    def permit(self, header, job, contract, verb) -> None:
        if self.refusal:
            raise Refused(self.refusal)

    def repeated(self, header) -> None:
        pass

    def seal(self, header, reply, fields):
        return reply

    def conclude(self, run_id) -> None:
        self.state = {key: value for key, value in self.state.items() if key[0] != run_id}

    def check(self, contract, *, purpose="") -> CheckReport:
        return CheckReport(
            contract=contract.ref, contract_digest=contract.digest, verdict="passed", findings=()
        )

    def frame(self, contract, *, purpose="") -> pd.DataFrame:
        return self.rows

    def dataset(self, contract: Contract) -> str:
        return "data"

    def encoded(self, contract: Contract, key: str, build, *, purpose="") -> Any:
        if key not in self.arrays:
            self.encodings += 1
            self.arrays[key] = build()
        return self.arrays[key]

    def kept_number(self, key: str, build: Callable[[], float]) -> float:
        return self.numbers.setdefault(key, build() if key not in self.numbers else 0.0)

    def secret(self, run_id: str) -> bytes:
        return self.secrets.setdefault(run_id, np.random.default_rng().bytes(32))

    def reserve(self, account, charge, admit) -> list[tuple[float, float, int]]:
        booked = self.spends.setdefault(charge.run_id, [])
        known = [step for step, _, _ in booked]
        if (charge.step_id, charge.mark) not in known:
            admit([*(row for _, _, row in booked), charge.row])
            known.append((charge.step_id, charge.mark))
            booked.append((known[-1], charge.mechanism, charge.row))
        return [row for _, _, row in booked][: known.index((charge.step_id, charge.mark)) + 1]

    def settle(self, step_id) -> None:
        pass

    def reserved(self, run_id):
        return [(mechanism, row) for _, mechanism, row in self.spends.get(run_id, [])]

    def quote(self, account, rows) -> Account:
        return Account(account, 0, 0, ())

    def kept(self, run_id: str, name: str) -> bytes | None:
        return self.state.get((run_id, name))

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        self.state[run_id, name] = bytes(content)

    def forget(self, run_id: str, name: str) -> None:
        self.state.pop((run_id, name), None)

    def sign_relay(self, value) -> str:
        return sign(signing_key(self.name), "relay", value)

    def is_partner_relay(self, silo: str, value, signature: str) -> bool:
        return is_signed(public_hex(signing_key(silo)), "relay", value, signature)

    def cards(self):
        return ()

    def histograms(self):
        return {}

    def begin_match(self, question: MatchQuestion) -> None:
        if self.refusal:
            raise Refused(self.refusal)
        self.questions.append(question)

    def judge_match(self, run_id, partner, *, num_theirs, num_common=None) -> None:
        if num_common is not None and num_common < self.min_common:
            raise Refused(f"{num_common} are too few", code="intersection")

    def match(self, handle: str, *, purpose: str) -> Match:
        if handle not in self.matches:
            raise Refused(f"no match '{handle}'", code="match")
        found = self.matches[handle]
        found.require_usable(purpose=purpose, fingerprint="", now=datetime.now(UTC))
        return found

    def keep_match(self, match: Match) -> None:
        self.matches[match.handle] = match

    def keep_part(self, model: str, content: bytes, about) -> None:
        self.parts[model] = content

    def part(self, model: str) -> bytes:
        if model not in self.parts:
            raise Refused(f"no part of '{model}'", code="model")
        return self.parts[model]

    def keep_scores(self, run_id: str, rows: pd.DataFrame) -> None:
        self.scores[run_id] = rows

    def remembered(self, step_id: str) -> Parcel | None:
        return self.replies.get(step_id)

    def remember(self, step_id: str, reply: Parcel) -> None:
        if self.keep_replies:
            self.replies[step_id] = reply


def hosts(rows: Mapping[str, pd.DataFrame], **settings: Any) -> dict[str, Host]:
    return {name: Host(name, each, **settings) for name, each in rows.items()}


def run_of(
    job: Job,
    answers: Mapping[str, Answer | Host],
    directory: Path,
    *,
    run_id: str = "r1",
    contract_: Contract | None = None,
    key: Ed25519PrivateKey | None = None,
    search_path: tuple[Path, ...] = (),
    silos: tuple[str, ...] = (),
    absent: Mapping[str, str] | None = None,
    resume: bool = False,
    standing: Callable[[str], str] = lambda silo: "",
) -> Run:
    """A run over hosts in memory, past its statistics: ready for `train_round`."""
    made = {n: answerer(each) if isinstance(each, Host) else each for n, each in answers.items()}
    run = Run(
        job,
        contract_ or contract(),
        LocalTransport(made),
        silos=silos or tuple(made),
        directory=directory,
        run_id=run_id,
        key=key or Ed25519PrivateKey.generate(),
        search_path=search_path,
        absent=absent,
        resume=resume,
        standing=standing,
    )
    for name in run.silos:
        run.check(name)
    return run


def trained(job: Job, answers: Mapping[str, Any], directory: Path, **settings: Any) -> Run:
    """A run that has done all its rounds."""
    run = run_of(job, answers, directory, **settings)
    run.admit()
    run.standardize()
    while run.rounds_left:
        run.train_round()
    return run
