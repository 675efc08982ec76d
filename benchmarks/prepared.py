"""A silo in memory whose rows come prepared: for benchmarks whose data have their own split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import SchemaDrift
from consilo.jobs.job import Job
from consilo.kernel.headers import Header
from consilo.kernel.verbs import Verb
from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from consilo.wire.parcel import Parcel
from silos.gate.policy import Policy

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass
class PreparedSilo:
    """A `consilo.kernel.view.SiloHost` whose rows are prepared and split already.

    Args:
        name: the silo's.
        arrays: ``train_features``, ``train_targets``, ``test_features``, ``test_targets``,
            ``fingerprint``: what `consilo.horizontal.dataset.rows_of` keeps.
        key: 32 bytes that make sampling and noise, the same in every run of the benchmark.
        sigma: in place of the calibrated noise multiplier.
    """

    name: str
    arrays: Arrays
    key: bytes
    sigma: float | None = None
    search_path: tuple[Path, ...] = ()
    _numbers: dict[str, float] = field(default_factory=dict)
    _spends: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    _replies: dict[str, Parcel] = field(default_factory=dict)

    def permit(self, header: Header, job: Job, verb: Verb) -> None:
        """Hold the policy of a simulated silo."""
        Policy.simulation().permit(header, job, verb)

    def check(self, contract: Contract, *, purpose: str = "") -> Any:
        """Refuse: there is no table to check."""
        raise SchemaDrift("prepared rows have no contract check")

    def frame(self, contract: Contract, *, purpose: str = "") -> Any:
        """Refuse: there is no table."""
        raise SchemaDrift("prepared rows have no table")

    def dataset(self, contract: Contract) -> str:
        """Return the name of the rows."""
        return "data"

    def encoded(
        self, contract: Contract, key: str, build: Callable[[], Arrays], *, purpose: str = ""
    ) -> Arrays:
        """Return the prepared rows."""
        return self.arrays

    def kept_number(self, key: str, build: Callable[[], float]) -> float:
        """Return the number kept under ``key``, or build and keep it."""
        if self.sigma is not None and key.startswith("sigma "):
            return self.sigma
        if key not in self._numbers:
            self._numbers[key] = build()
        return self._numbers[key]

    def secret(self, run_id: str) -> bytes:
        """Return the silo's secret."""
        return self.key

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Book a step once."""
        if charge.step_id not in self._spends:
            admit([*self._spends.values(), charge.row])
            self._spends[charge.step_id] = charge.row
        return list(self._spends.values())

    def settle(self, step_id: str) -> None:
        """Do nothing."""

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what was booked."""
        return [("dp_sgd", row) for row in self._spends.values()]

    def quote(self, account: str, rows: Sequence[HistoryRow]) -> Account:
        """Return an account without limits."""
        return Account(account, len(self._spends), 0, ())

    def remembered(self, step_id: str) -> Parcel | None:
        """Return the answer given before."""
        return self._replies.get(step_id)

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep an answer."""
        self._replies[step_id] = reply
