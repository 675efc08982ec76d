"""What an organisation's software offers, role by role: whoever asks, asks for one of them by name.

A role is a few methods that belong together; a silo is an object that has one object for each
(`SiloHost`). No method of one role has the name of another's, so that a small silo may be all of
them itself. What only one kind of algorithm asks for is declared beside that algorithm, under a
`Role`. Arguments and results are plain values, but where it is said otherwise.

    gate       who asks, what may be answered, what leaves: dispatch asks it, a verb hardly ever
    memory     answers by step
    rows       the canonical rows, checked, and what is encoded from them
    account    what the rows have cost of their privacy, and may still cost
    numbers    what is dear to compute
    secrets    what keys noise and sampling
    letters    the silo's signature, and its partners'
    run_state  what one message of a run keeps for the next
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import Refused
from consilo.jobs.job import Job, Unit
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.verbs import Asked, Disclosure, Permitted
from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from consilo.wire.piecewise import Parts

if TYPE_CHECKING:
    import pandas as pd

    from consilo.contracts.report import CheckReport
    from consilo.wire.parcel import Parcel

Arrays = dict[str, np.ndarray[Any, Any]]
Built = Mapping[str, np.ndarray[Any, Any] | Parts]
"""Arrays, or what they are made from piece by piece."""
RoleT = TypeVar("RoleT")


class Gate(Protocol):
    """Decides what is let in and out, and writes down what it decided."""

    def verify(self, header: Header) -> None:
        """Raise `Refused` unless the coordinator signed this request, for this silo, for now."""
        ...

    def permit(self, header: Header, job: Job, contract: Contract, asked: Asked) -> Permitted:
        """Raise `Refused` unless the silo's policy allows a verb for this job and cohort.

        Returns:
            What of it the policy keeps back, and of how many rows it must be made.
        """
        ...

    def repeated(self, header: Header, asked: tuple[Job, Contract, Asked] | None) -> None:
        """Raise `Refused` unless a step that is asked again may still be answered as before.

        Args:
            header: the request.
            asked: what passes the policy of now, for the rows that consents allow now; None for a
                step that discloses nothing.
        """
        ...

    def sign(
        self, header: Header | None, reply: ReplyHeader, fields: Mapping[str, Any]
    ) -> ReplyHeader:
        """Note what is about to leave, and return the reply's header as it shall leave: signed.

        Args:
            header: the request; None where it could not be read.
            reply: what the reply says, unsigned.
            fields: what leaves; empty for a fault.
        """
        ...

    def conclude(self, run_id: str) -> None:
        """Answer nothing more for a run, and erase what was kept for it: it has ended."""
        ...


class Memory(Protocol):
    """Gives a step that is asked again the answer that it got."""

    def remembered(self, step_id: str) -> Parcel | None:
        """Return what was answered to ``step_id`` before, if it was."""
        ...

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep the answer to ``step_id``, durably, before it is sent."""
        ...


class Rows(Protocol):
    """The canonical rows of this organisation, as far as a purpose may use them."""

    def check(self, contract: Contract, *, purpose: str) -> CheckReport:
        """Return the verdict on the rows that ``purpose`` may use; made once while they are so."""
        ...

    def frame(self, contract: Contract, *, purpose: str) -> pd.DataFrame:
        """Return the canonical rows that ``purpose`` may use.

        Raises `SchemaDrift` where the contract check failed.
        """
        ...

    def dataset(self, contract: Contract) -> str:
        """Return the name of the data set behind ``contract``; the privacy ledger is kept by it."""
        ...

    def encoded(
        self, contract: Contract, key: str, build: Callable[[], Built], *, purpose: str
    ) -> Arrays:
        """Return the arrays kept under ``key`` for the contract's present rows, or build them.

        They are as `numpy.asarray` takes them. ``build`` is called in the process that asks.
        """
        ...


class PrivacyAccount(Protocol):
    """Books what each use of a data set costs, before it happens."""

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Reserve a use of a data set, durably and once; return the run's history up to it.

        Args:
            account: the data set.
            charge: what is about to be done.
            admit: what the run itself allows, given its history; called before anything is written.

        Raises:
            BudgetExhausted: where the data set's budget or the run cannot pay; nothing is reserved.
        """
        ...

    def settle(self, step_id: str) -> None:
        """Note that a step's answer is kept; a step that reserved nothing is let be."""
        ...

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what a run has reserved so far: mechanism and (σ, q, steps)."""
        ...

    def quote(self, account: str, rows: Sequence[HistoryRow], unit: Unit = "record") -> Account:
        """Return how a data set's account would stand with ``rows`` besides; nothing is spent.

        Args:
            account: the data set.
            rows: (σ, q, steps) of what would be done.
            unit: what it would hide.
        """
        ...


class Numbers(Protocol):
    """Keeps numbers that are dear to compute, under keys that say all that they depend on."""

    def number(self, key: str) -> float | None:
        """Return the number kept under ``key``; None where there is none."""
        ...

    def keep_number(self, key: str, value: float) -> None:
        """Keep a number."""
        ...


class Secrets(Protocol):
    """What never leaves the silo and cannot be guessed."""

    def secret(self, run_id: str) -> bytes:
        """Return 32 secret bytes, the same for one run for ever."""
        ...

    def lasting(self, purpose: str) -> bytes:
        """Return 32 secret bytes for one purpose, the same in every run."""
        ...


class Letters(Protocol):
    """The silo's word to other silos, and theirs to it: `consilo.kernel.letters` is made of it."""

    def sign_relay(self, value: Any) -> str:
        """Return the silo's signature of a statement for other silos, in hexadecimal."""
        ...

    def is_partner_relay(self, silo: str, value: Any, signature: str) -> bool:
        """Return whether the silo called so signed ``value``, by the key that is pinned here."""
        ...


class RunState(Protocol):
    """Keeps what one message of a run hands to the next; it goes when the run ends."""

    def kept(self, run_id: str, name: str) -> bytes | None:
        """Return what a message of this run kept under ``name``; None where there is nothing."""
        ...

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep ``content`` for the run's later messages, durably."""
        ...

    def forget(self, run_id: str, name: str) -> None:
        """Erase what is kept under ``name``."""
        ...


class Apart(Protocol):
    """A job's own code in processes apart: each sees the rows of one unit of privacy, and ends.

    A unit is one row, or the rows of one person. Nothing of such a process is left when the next
    one begins, and each has the same time, whatever it does.
    """

    def load(self, params: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Set the parameters that the next processes start with; they are public."""
        ...

    def ask(self, what: str, unit: Mapping[str, Any], most_bytes: int) -> bytes | None:
        """Return what one process answers; None where it gave no answer in its time, or a larger.

        Args:
            what: one of the questions that the silo's software knows.
            unit: what this process alone sees, plain values and arrays.
            most_bytes: of an answer.
        """
        ...

    def measure(self, what: str, unit: Mapping[str, Any], most_bytes: int) -> bytes | None:
        """Return the same for rows that are made up; the next ones get a time like it took."""
        ...


class SiloHost(Protocol):
    """A silo: a name, and an object for each role; `silos.silo.Silo` is the one that ships."""

    @property
    def name(self) -> str:
        """The silo's name."""
        ...

    @property
    def search_path(self) -> tuple[Path, ...]:
        """Where a job's own modules lie: the approved bundle's directory."""
        ...

    @property
    def code_classes(self) -> frozenset[Disclosure] | None:
        """What those modules are judged to let leave, before one of them is imported.

        None where the caller's own program has brought them, and nobody is to be protected.
        """
        ...

    @property
    def gate(self) -> Gate:
        """What is let in and out."""
        ...

    @property
    def memory(self) -> Memory:
        """Answers by step."""
        ...

    @property
    def rows(self) -> Rows:
        """The canonical rows."""
        ...

    @property
    def account(self) -> PrivacyAccount:
        """What they have cost."""
        ...

    @property
    def numbers(self) -> Numbers:
        """What is dear to compute."""
        ...

    @property
    def secrets(self) -> Secrets:
        """What keys noise."""
        ...

    @property
    def letters(self) -> Letters:
        """The silo's signature, and its partners'."""
        ...

    @property
    def run_state(self) -> RunState:
        """What messages of a run keep for the next."""
        ...


@dataclass(frozen=True)
class Role(Generic[RoleT]):
    """A role that one kind of algorithm asks for; it is declared beside that algorithm.

    Args:
        name: the silo's attribute that holds the object.
    """

    name: str

    def of(self, host: SiloHost) -> RoleT:
        """Return what a silo has for this role.

        Raises:
            Refused: where its software has nothing for it.
        """
        found = getattr(host, self.name, None)
        if found is None:
            raise Refused(f"this silo's software has no '{self.name}'", code="role")
        return cast(RoleT, found)


def kept_number(numbers: Numbers, key: str, build: Callable[[], float]) -> float:
    """Return the number kept under ``key``, or build and keep it."""
    known = numbers.number(key)
    if known is None:
        known = float(build())
        numbers.keep_number(key, known)
    return known
