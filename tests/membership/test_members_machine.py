"""Members under any order of commands, clocks and restarts, beside a model that a person can read.

After each step the list says what the model says, the gate lets exactly those certificates pass
that the model lets pass, and the audit chain has one line for each change and none for a refusal.
"""

from __future__ import annotations

import shutil
import tempfile
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from starlette.datastructures import Headers

from consilo.errors import ConfigInvalid
from consilo.membership import keys
from consilo.membership.calls import CERTIFICATE_HEADER
from consilo.membership.coordinator import CERTIFICATE_DAYS, Coordinator
from consilo.membership.gate import Judge
from consilo.membership.members import MAX_CERTIFICATES_PER_DAY, OVERLAP_DAYS
from consilo.membership.software import installed
from consilo.record import chain

NAMES = ("anna", "bert")
_KEY_HEADER = "flwr-public-key"


@pytest.fixture(autouse=True, scope="module")
def _keys(tmp_path_factory):
    """The keys of a coordinator and of nodes, made once; each example gets a copy."""
    Membership.home = tmp_path_factory.mktemp("members")
    keys.load_or_create_authority(Membership.home / "keys", now=datetime(2026, 1, 1, tzinfo=UTC))
    keys.load_or_create_signing_key(Membership.home / "keys" / "record.key")


def _node_key(number: int) -> bytes:
    return keys.load_or_create_silo_key(Membership.home / f"node-{number}.key")


@dataclass
class Key:
    number: int
    until: datetime


@dataclass
class Certificate:
    pem: bytes
    name: str
    key: Key
    since: datetime
    until: datetime
    revoked: bool = False


@dataclass
class Silo:
    state: str = "unknown"
    keys: list[Key] = field(default_factory=list)
    issued: list[datetime] = field(default_factory=list)


class Membership(RuleBasedStateMachine):
    home: Path

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=self.home))
        shutil.copytree(self.home / "keys", self.place / "keys")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.silos = {name: Silo() for name in NAMES}
        self.certificates: list[Certificate] = []
        self.used: set[int] = set()
        self.lines = 0
        self.open()

    def open(self) -> None:
        self.coordinator = Coordinator(self.place, now=lambda: self.now)
        self.other = Coordinator(self.place, now=lambda: self.now)  # the gate's own connection
        self.judge = Judge(
            self.other.members,
            self.other.trusted,
            "t" * 64,
            None,  # type: ignore[arg-type]  # refuses nothing here
            key_header=_KEY_HEADER,
            clock=self._clock,
        )

    def _clock(self) -> float:
        return self.now.timestamp()

    def teardown(self) -> None:
        self.coordinator.close()
        self.other.close()
        shutil.rmtree(self.place)

    def attempt(self, allowed: bool, lines: int, change) -> bool:
        """Make a change that must be allowed, or refused without a trace."""
        if allowed:
            change()
            self.lines += lines
        else:
            with pytest.raises(ConfigInvalid):
                change()
        return allowed

    def certified(self, name: str) -> None:
        silo = self.silos[name]
        pem = self.coordinator.members.known(name).certificate.encode()
        until = self.now + timedelta(days=CERTIFICATE_DAYS)
        self.certificates.append(Certificate(pem, name, silo.keys[-1], self.now, until))
        silo.issued.append(self.now)

    def may_have_another(self, name: str) -> bool:
        day = self.now - timedelta(days=1)
        recent = [each for each in self.silos[name].issued if each > day]
        return len(recent) < MAX_CERTIFICATES_PER_DAY

    def living(self, name: str) -> list[Key]:
        return [each for each in self.silos[name].keys if each.until > self.now]

    names = st.sampled_from(NAMES)
    numbers = st.integers(0, 5)

    @initialize(stage=st.integers(0, 3))
    def anna_is_on_her_way(self, stage: int) -> None:
        """Begin where commands have an effect; most orders of them are refused early."""
        if stage > 0:
            self.invite("anna")
        if stage > 1:
            self.enrol("anna", 0, 0)
        if stage > 2:
            self.admit("anna")

    @rule(name=names)
    def invite(self, name: str) -> None:
        silo = self.silos[name]
        allowed = silo.state in ("unknown", "invited", "removed")
        if self.attempt(allowed, 1, lambda: self.coordinator.invite(name, "h:1")):
            silo.state = "invited"

    @rule(name=names, number=numbers, signing=numbers)
    def enrol(self, name: str, number: int, signing: int) -> None:
        silo = self.silos[name]
        fresh = {number, 100 + signing}.isdisjoint(self.used)
        if self.attempt(
            silo.state == "invited" and fresh,
            1,
            lambda: self.coordinator.members.enrol(
                name, _node_key(number), f"{signing:064x}", installed()
            ),
        ):
            silo.state = "pending"
            silo.keys.append(Key(number, self.now + timedelta(days=730)))
            self.used |= {number, 100 + signing}

    @rule(name=names)
    def admit(self, name: str) -> None:
        silo = self.silos[name]
        key = self.living(name)[-1:]
        has_one = any(
            each.key in key and each.until > self.now and not each.revoked
            for each in self.certificates
            if each.name == name
        )
        allowed = silo.state in ("pending", "suspended", "admitted") and bool(key)
        lines = 1 if has_one else 2
        if self.attempt(allowed, lines, lambda: self.coordinator.admit(name)):
            silo.state = "admitted"
            if not has_one:
                self.certified(name)

    @rule(name=names)
    def suspend(self, name: str) -> None:
        silo = self.silos[name]
        allowed = silo.state in ("admitted", "suspended")
        if self.attempt(allowed, 1, lambda: self.coordinator.suspend(name)):
            silo.state = "suspended"

    @rule(name=names)
    def remove(self, name: str) -> None:
        silo = self.silos[name]
        allowed = silo.state in ("invited", "pending", "admitted", "suspended")
        if self.attempt(allowed, 1, lambda: self.coordinator.remove(name)):
            silo.state = "removed"
            for key in silo.keys:
                key.until = min(key.until, self.now)
            for each in self.certificates:
                each.revoked |= each.name == name

    @rule(name=names)
    def renew(self, name: str) -> None:
        allowed = self.silos[name].state == "admitted" and self.may_have_another(name)
        allowed = allowed and bool(self.living(name))
        if self.attempt(allowed, 1, lambda: self.coordinator.renew(name)):
            self.certified(name)

    @rule(name=names, number=numbers)
    def change_key(self, name: str, number: int) -> None:
        silo = self.silos[name]
        same = bool(self.living(name)) and self.living(name)[-1].number == number
        allowed = silo.state == "admitted" and self.may_have_another(name)
        allowed = allowed and (same or number not in self.used)
        change = lambda: self.coordinator.change_key(name, _node_key(number))  # noqa: E731
        if self.attempt(allowed, 0 if same else 2, change) and not same:
            for key in silo.keys:
                key.until = min(key.until, self.now + timedelta(days=OVERLAP_DAYS))
            silo.keys.append(Key(number, self.now + timedelta(days=730)))
            self.used.add(number)
            self.certified(name)

    @rule(days=st.sampled_from([0, 1, OVERLAP_DAYS, CERTIFICATE_DAYS, 731]), hours=numbers)
    def time_passes(self, days: int, hours: int) -> None:
        self.now += timedelta(days=days, hours=hours)

    @rule()
    def the_process_dies_and_another_opens_the_list(self) -> None:
        # Not closed: a process that dies closes nothing. Connections are let go of at the end.
        left = (self.coordinator, self.other)
        self.open()
        for each in left:
            each.close()

    @invariant()
    def the_list_is_the_models(self) -> None:
        for name, silo in self.silos.items():
            member = self.other.members.get(name)
            assert (member.state if member else "unknown") == silo.state
            shown = [each.public.strip() for each in member.keys] if member else []
            assert shown == [_node_key(each.number).strip() for each in self.living(name)]

    @invariant()
    def the_gate_lets_exactly_those_pass(self) -> None:
        self.judge.refresh(now=True)
        for each in self.certificates:
            public = keys.public_key_pem(_node_key(each.key.number))
            verdict = self.judge.node(
                Headers(
                    {
                        _KEY_HEADER: b64encode(public).decode(),
                        CERTIFICATE_HEADER: b64encode(
                            x509.load_pem_x509_certificate(each.pem).public_bytes(Encoding.DER)
                        ).decode(),
                    }
                )
            )
            passes = (
                self.silos[each.name].state == "admitted"
                and not each.revoked
                and self.now < min(each.until, each.key.until)
            )
            assert (not verdict.reason) == passes, verdict

    @invariant()
    def the_chain_has_a_line_for_each_change(self) -> None:
        path = self.place / "audit.jsonl"
        assert len(chain.verify_open(path) if path.exists() else []) == self.lines


Membership.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestMembership = Membership.TestCase
