"""Between guard and worker: an honest worker answers as before, a lying one gets nothing."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import clinic
import numpy as np
import pytest
import warm_silo

from consilo.errors import BudgetExhausted, ConsiloError, Refused, ReplyInvalid, SchemaDrift
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.letters import relay_statement
from consilo.kernel.verbs import Disclosure
from consilo.privacy.account import Charge
from consilo.protocols.dispatch import Question
from consilo.transports.flower.bundle import build_bundle, keep_bundle
from consilo.wire.payload import pack
from silos.gate.policy import TEMPLATE
from silos.node.channel import Channel, believed, heard, said
from silos.node.wall import Wall
from silos.node.worker import RemoteSilo
from silos.silo import Silo

CLASSES = frozenset({Disclosure.METRIC, Disclosure.STATISTIC, Disclosure.UPDATE})
NET = b"""
import torch
from torch import nn

from consilo.protocol import Disclosure, Protocol, arrays, number, verb


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, features):
        return self.layer(features)


def metrics(outputs, targets):
    return {"mine": 7.0}


class Count(Protocol):
    @verb("count", replies={"n": number(Disclosure.STATISTIC)})
    def count(self, silo, message):
        rows = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
        silo.keep("seen", b"1")
        assert silo.kept("seen") == b"1"
        return {"n": float(len(rows))}

    @verb("words", replies={"n": number(Disclosure.STATISTIC)})
    def words(self, silo, message):
        rows = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
        raise ValueError(f"patient {rows['age'].max()} is the oldest")

    @verb("drift", replies={"n": number(Disclosure.STATISTIC)})
    def drift(self, silo, message):
        from consilo.errors import SchemaDrift

        raise SchemaDrift("the oldest is 89.7")

    @verb("labels", replies={"n": number(Disclosure.LABEL)})
    def labels(self, silo, message):
        return {"n": 1.0}
"""
BUNDLE = build_bundle({"net.py": NET}, disclosures=sorted(CLASSES))
JOB = clinic.job(model="net:Net", metrics="net:metrics")
OWN = clinic.job(protocol={"name": "net:Count"})
PRIVATE = {"epsilon": 5.0, "delta": 1e-3, "accountant": "rdp", "reproducible": True}
PRIVATE |= {"statistics_epsilon": 1.0}


def payload() -> dict[str, object]:
    shape = warm_silo.parameters()["linear.weight"].shape
    zero = {"layer.weight": np.zeros(shape, "f4"), "layer.bias": np.zeros(shape[0], "f4")}
    return {"params": zero, "scale": None}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple]]:
    """What two silos answer, one with the wall and one without, to the same questions."""
    policy = TEMPLATE.replace("allow_reproducible: no", "allow_reproducible: yes")
    found: dict[str, dict[str, tuple]] = {}
    for sandbox in ("required", "off"):
        silo = warm_silo.make(
            tmp_path_factory.mktemp(sandbox) / "north",
            policy=policy.replace("sandbox: required", f"sandbox: {sandbox}"),
        )
        (silo / "secrets").mkdir(mode=0o700)
        (silo / "secrets" / "silo.key").write_bytes(bytes(32))  # the same rows are held out
        bundle = warm_silo.approved(silo, BUNDLE)
        private = JOB.changed(privacy=PRIVATE)
        asked = {
            "plain": {"job": JOB, "payload": payload()},
            "private": {"job": private, "payload": payload()},
            "count": {"job": OWN, "protocol": "net:Count", "verb": "count", "payload": {}},
            "words": {"job": OWN, "protocol": "net:Count", "verb": "words", "payload": {}},
            "drift": {"job": OWN, "protocol": "net:Count", "verb": "drift", "payload": {}},
            "labels": {"job": OWN, "protocol": "net:Count", "verb": "labels", "payload": {}},
            "check": {"job": JOB, "protocol": "contract_check", "verb": "check", "payload": {}},
        }
        with warm_silo.warm(silo) as process:
            process.start()
            found[sandbox] = {
                name: warm_silo.ask(process, bundle, run=f"r-{name}", **each)
                for name, each in asked.items()
            }
    return found


def same(one: object, two: object) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return bool(np.array_equal(one, two))


@pytest.mark.parametrize("name", ["plain", "private", "count", "check"])
def test_an_answer_is_the_same_with_and_without_the_wall(answers, name) -> None:
    (one, fields), (two, others) = (answers[each][name] for each in ("required", "off"))
    assert (one.status, two.status) == ("ok", "ok"), (one.reason, two.reason)
    if name == "private":  # one gradient at a time: another order of the same sum
        for part, value in others.pop("delta").items():
            np.testing.assert_allclose(fields["delta"][part], value, rtol=1e-5, atol=1e-6)
        fields.pop("delta")
    assert same(fields, others)
    if name == "plain":
        assert fields["metrics"]["mine"] == 7.0


def test_words_of_a_jobs_code_do_not_leave(answers) -> None:
    """`SchemaDrift` may say what it is made of, where our own code made it."""
    for name in ("words", "drift"):
        reply, _ = answers["required"][name]
        assert reply.status == "fault"
        assert not any(each.isdigit() for each in reply.reason), reply.reason
    assert "89.7" in answers["off"]["drift"][0].reason


def test_what_is_not_on_the_label_does_not_leave(answers) -> None:
    assert "label" in answers["required"]["labels"][0].reason


@pytest.fixture
def silo(tmp_path: Path) -> Silo:
    place = keep_bundle(BUNDLE, tmp_path / "bundles")
    return Silo.open(warm_silo.make(tmp_path / "north"), bundle=place)


def question(job=JOB) -> Question:
    contract = clinic.contract()
    manifest = Manifest.of("run", job, contract, "")
    header = Header("run", "1/0/train", "", 1, "north", "fedavg", "train", ("north",), manifest)
    return Question(header, job, contract, {})


@contextmanager
def worker(acts: Callable[[Channel], None]) -> Iterator[Channel]:
    """The guard's end of the way to a worker that does what it likes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def act() -> None:
        with theirs:
            channel = Channel(theirs.fileno())
            channel.send(b"R")
            channel.receive()
            acts(channel)

    thread = threading.Thread(target=act)
    thread.start()
    with ours:
        yield Channel(ours.fileno())
    thread.join()


def tell(silo: Silo, acts: Callable[[RemoteSilo], object], asked: Question | None = None):
    """What a worker gets from the silo's roles by ``acts``."""
    found: list[object] = []

    def act(channel: Channel) -> None:
        host = RemoteSilo(channel, "north", silo.gate.bundle, CLASSES)
        try:
            found.append(acts(host))
        except ConsiloError as cause:
            found.append(cause)
        channel.send(b"D", said({"fields": {}, "declared": {}}, []))

    with worker(act) as channel:
        Wall(channel, silo.gate.bundle).compute(asked or question(), silo)
    return found[0]


KEY = "0" * 64
CHARGE = Charge("run", question().header.step_id, "m", "dp_sgd", 1.0, 0.5, 10, 40)
BEYOND = {
    "another run's secret": lambda h: h.secrets.secret("other"),
    "a secret of no run": lambda h: h.secrets.secret("matching"),
    "another lasting key": lambda h: h.secrets.lasting("matching"),
    "another run's state": lambda h: h.run_state.kept("other", "x"),
    "state into another run": lambda h: h.run_state.keep("other", "x", b""),
    "another manifest": lambda h: h.run_state.keep("run", "manifest", b"x"),
    "no manifest": lambda h: h.run_state.forget("run", "manifest"),
    "another contract": lambda h: h.rows.frame(
        clinic.contract(clinic.CONTRACT.replace("max: 120", "max: 60")), purpose="x"
    ),
    "another step's charge": lambda h: h.account.reserve(
        "rows", replace(CHARGE, step_id="x"), lambda history: None
    ),
    "another run's charge": lambda h: h.account.reserve(
        "rows", replace(CHARGE, run_id="x"), lambda history: None
    ),
    "another data set": lambda h: h.account.reserve("other", CHARGE, lambda history: None),
    "to settle another step": lambda h: h.account.settle("x"),
    "another run's history": lambda h: h.account.reserved("other"),
    "a model that the job does not name": lambda h: h.parts.part("other"),
    "a match that the job does not name": lambda h: h.matches.match("other", purpose="x"),
    "the part of a model that is named anywhere in the job": lambda h: h.parts.part(JOB.name),
    "a match that is named anywhere in the job": lambda h: h.matches.match(
        JOB.name, purpose=JOB.purpose
    ),
    "to replace another model's part": lambda h: h.parts.keep_part(JOB.name, b"x", {}),
    "to introduce this silo in another run": lambda h: h.letters.sign_relay(
        relay_statement(replace(question().header, run_id="match"), "north", KEY)
    ),
    "to introduce it by another protocol": lambda h: h.letters.sign_relay(
        relay_statement(replace(question().header, protocol="psi"), "north", KEY)
    ),
    "to introduce another silo": lambda h: h.letters.sign_relay(
        relay_statement(question().header, "south", KEY)
    ),
    "to sign more": lambda h: h.letters.sign_relay(
        {**relay_statement(question().header, "north", KEY), "more": 1}
    ),
    "to sign words": lambda h: h.letters.sign_relay("words"),
    "to end a run": lambda h: h.gate.conclude("run"),
    "to sign": lambda h: h.gate.sign(None, None, {}),
    "to verify": lambda h: h.gate.verify(None),
    "a role's own parts": lambda h: h.letters.key(),
    "the ledger": lambda h: h.account.ledger(),
    "a role that it has not": lambda h: type(h.rows)(h.rows._channel, "memory").remembered("x"),
    "the silo's directory": lambda h: type(h.rows)(h.rows._channel, "directory").iterdir(),
    "a class": lambda h: type(h.rows)(h.rows._channel, "__class__").open("x"),
}


@pytest.mark.parametrize("way", sorted(BEYOND))
def test_a_worker_asks_for_nothing_beyond_its_question(silo: Silo, way: str) -> None:
    found = tell(silo, BEYOND[way])
    assert isinstance(found, Refused), found
    assert silo.account.ledger.run_charges("run") == []


def test_a_worker_introduces_its_silo_in_its_own_run(silo: Silo) -> None:
    statement = relay_statement(question().header, "north", KEY)
    signed = tell(silo, lambda host: host.letters.sign_relay(statement))
    assert signed == silo.letters.sign_relay(statement)


def test_a_worker_has_a_key_of_its_own_and_never_the_runs_secret(silo: Silo) -> None:
    got = tell(silo, lambda host: host.secrets.secret("run"))
    assert isinstance(got, bytes)
    assert len(got) == 32
    assert got != silo.secrets.secret("run")
    assert got == tell(silo, lambda host: host.secrets.secret("run"))


def test_what_a_worker_keeps_is_found_by_the_same_code_only(silo: Silo) -> None:
    """A noise multiplier that is kept for every later run would be another's noise."""
    tell(silo, lambda host: host.numbers.keep_number("sigma", 1e-9))
    assert silo.numbers.number("sigma") is None
    assert tell(silo, lambda host: host.numbers.number("sigma")) == 1e-9
    made = {"x": np.arange(3.0)}
    contract, purpose = clinic.contract(), JOB.purpose
    first = tell(silo, lambda host: host.rows.encoded(contract, "k", lambda: made, purpose="x"))
    assert same(first, made)
    other = {"x": np.zeros(3)}
    assert same(silo.rows.encoded(contract, "k", lambda: other, purpose=purpose), other)


def test_rows_are_those_of_the_jobs_purpose_whatever_a_worker_says(silo: Silo) -> None:
    seen = []
    real = silo.rows.frame
    silo.rows.frame = lambda contract, *, purpose: (
        seen.append(purpose)
        or real(  # type: ignore
            contract, purpose=purpose
        )
    )
    tell(silo, lambda host: host.rows.frame(clinic.contract(), purpose="anything"))
    tell(silo, lambda host: host.rows.frame(clinic.contract()))
    assert seen == [JOB.purpose] * 2


def test_the_ledger_is_the_guards_and_what_admits_is_asked_before(silo: Silo) -> None:
    def refuse(history):
        assert len(history) == 1
        raise BudgetExhausted("the oldest is 89")

    got = tell(silo, lambda host: host.account.reserve("rows", CHARGE, refuse))
    assert isinstance(got, BudgetExhausted)
    assert "89" not in str(got)
    assert silo.account.ledger.run_charges("run") == []
    assert tell(silo, lambda host: host.account.reserve("rows", CHARGE, lambda history: None))
    assert len(silo.account.ledger.run_charges("run")) == 1


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


FRAMES = {
    "nothing": b"",
    "a pickle": pickle.dumps(Evil()),
    "no form": pack({}),
    "a mark that is none": pack({"value": {"$code": "1"}}),
    "two marks": pack({"value": {"$bytes": "1", "$map": {}}}),
    "a function": pack({"value": {"$call": 0}}),
    "no mapping": pack({"value": [1]}),
    "nested": pack({"value": {"$map": {"fields": {"$map": {"x": {"$contract": {"value": "{"}}}}}}}),
    "fields that are none": pack({"value": {"$map": {"fields": 1.0, "declared": []}}}),
    "a class that is none": pack(
        {"value": {"$map": {"fields": {"$map": {}}, "declared": {"$map": {"x": 1.0}}}}}
    ),
}


@pytest.mark.parametrize("kind", ["D", "F", "C"])
@pytest.mark.parametrize("name", sorted(FRAMES))
def test_words_without_form_are_a_fault_of_ours(silo: Silo, name: str, kind: str) -> None:
    def act(channel: Channel) -> None:
        channel.send(kind.encode(), FRAMES[name])

    with worker(act) as channel, pytest.raises((ConsiloError, ValueError, KeyError, TypeError)):
        Wall(channel, silo.gate.bundle).compute(question(), silo)


@pytest.mark.parametrize(
    "act",
    [
        lambda channel: None,
        lambda channel: channel.send(b"Z"),
        lambda channel: channel.send(b"B", said(1, [])),
        lambda channel: os.write(channel.descriptor, b"D" + b"\xff" * 8),
    ],
    ids=["silence", "no kind", "out of turn", "without end"],
)
def test_a_worker_out_of_turn_is_a_fault(silo: Silo, act) -> None:
    with worker(act) as channel, pytest.raises((ConsiloError, ReplyInvalid)):
        Wall(channel, silo.gate.bundle).compute(question(), silo)


def test_a_fault_of_the_silos_own_passes_with_its_words(silo: Silo) -> None:
    """A contract check that failed says which rule, also where job code asked for the rows."""
    real = SchemaDrift("age: above 120")

    def fail(*args, **named):
        raise real

    silo.rows.frame = fail  # type: ignore[method-assign]

    def act(channel: Channel) -> None:
        host = RemoteSilo(channel, "north", silo.gate.bundle, CLASSES)
        try:
            host.rows.frame(clinic.contract(), purpose="x")
        except SchemaDrift as cause:
            number = cause._consilo_guard_raised  # type: ignore[attr-defined]
            told = {"kind": "failed", "number": number, "words": "patient 4711"}
            channel.send(b"F", said(told, []))

    with worker(act) as channel, pytest.raises(SchemaDrift) as caught:
        Wall(channel, silo.gate.bundle).compute(question(), silo)
    assert caught.value is real


def test_what_passes_comes_out_as_it_went_in() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": b"bytes", "n": float("nan"), "m": {"$k": 1}}
    value |= {"w": np.arange(4, dtype="f4"), "charge": CHARGE, "job": JOB, "c": clinic.contract()}
    found = heard(said(value, []), lambda number: print)
    assert np.isnan(found.pop("n"))
    assert value.pop("n")
    assert same(found.pop("w"), value.pop("w"))
    assert found == value
    assert believed(pickle.dumps(1)) == 1
