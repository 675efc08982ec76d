"""One silo, opened from its directory: what its organisation keeps, and what answers for it.

```
SILO_DIR/
  silo.yaml      its name and its data sets: where the rows are (`SiloConfig`)
  mapping.yaml   its columns, units and codes → the contract's; without it, they are alike;
                 several contracts: mappings/NAME@VERSION.yaml; several data sets: which one
  policy.yaml    what may leave; without it, nothing
  cache/         canonical tables and encoded rows
  gx/            the contract check's full report, for people here
  state.db       answers by step
  ledger.db      privacy ledger: every use of every data set
  secrets/       a secret per run: what keys the noise
  runs/          what messages of one run keep for the next; goes when the run ends
  matches/       which rows are the same people as which rows of other silos
  models/        its parts of vertical models
  scores/        what those say of rows, in the silo with the labels
```
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.check_report import CheckReport
from consilo.config import parse, read_yaml
from consilo.contract import Contract
from consilo.correspondence.cards import Card
from consilo.dispatch import answerer as dispatch_answerer
from consilo.errors import MappingInvalid, Refused, SchemaDrift, SourceUnreadable
from consilo.files import write_atomic
from consilo.headers import Header, ReplyHeader
from consilo.job import Job
from consilo.matching import Match, MatchQuestion
from consilo.parcel import Answer, Parcel
from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from consilo.protocol import Verb
from consilo.signing import public_hex
from consilo.silo import Arrays, Built
from consilo.vertical.blocks import holders_of, part_of
from silos.budget import Budget, budget_of
from silos.cache import CanonicalCache
from silos.consent import ConsentBook, ConsentFilter
from silos.guard import Guard
from silos.ledger import Ledger
from silos.mapping import Mapping, mapping_file
from silos.matching import drop_match, every_match, read_match, write_match
from silos.matching_log import MatchLog
from silos.models import read_part, write_part, write_scores
from silos.partners import Partner
from silos.policy import Policy
from silos.runstate import RunState
from silos.shelf import Shelf
from silos.silo_config import SiloConfig
from silos.sources import Source
from silos.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from silos.explain import Explanation

log = logging.getLogger(__name__)

_KEPT_ENCODINGS = 16
_RELEASED = "feature_match"
"""The protocol, one of Consilo's own, that answers with what people here have released by hand."""
_OF_ALL_ROWS = frozenset({"contract_check", "psi", "match_held"})
"""Protocols that ask a silo of all its rows, also in a job over matched ones."""
UNSTATED = "unstated"
"""The purpose of a job that names none."""


class Silo:
    """The software of one organisation, over its directory; a `consilo.silo.SiloHost`.

    Args:
        directory: the silo's own.
        config: name and data sets.
        policy: what may leave.
        search_path: where a job's own modules lie.
        docs: write the full report of a contract check for people in the silo.
        now: the clock that consents and rules about dates go by.
    """

    def __init__(
        self,
        directory: Path,
        config: SiloConfig,
        policy: Policy,
        *,
        search_path: tuple[Path, ...] = (),
        docs: bool = True,
        signing_keys: Sequence[str] | None = None,
        partners: MappingOf[str, Partner] | None = None,
        bundle: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = config.name
        self.now = now
        self.directory = directory
        self.policy = policy
        self.search_path = search_path
        self._sources = {name: each.resolve(directory) for name, each in config.data.items()}
        self._docs = docs
        self._store = Store(directory)
        self._runs = RunState(directory / "runs")
        self._matching = MatchLog(directory)
        self._ledger = Ledger(directory / "ledger.db")
        cache = directory / "cache"
        self._cache = CanonicalCache(cache)
        self._encoded = Shelf(cache / "encoded", kept=_KEPT_ENCODINGS)
        self._consents = {
            name: ConsentBook(name, spec.resolve(directory), self._sources[name], cache)
            for name, spec in config.consent.items()
        }
        self._guard = Guard(
            config.name,
            directory,
            policy,
            self._store,
            signing_keys=signing_keys,
            partners=partners,
            bundle=bundle,
        )

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        search_path: tuple[Path, ...] = (),
        signing_keys: Sequence[str] | None = None,
        partners: MappingOf[str, Partner] | None = None,
        bundle: Path | None = None,
    ) -> Silo:
        """Return the silo in ``directory``.

        Args:
            directory: the silo's.
            search_path: where a job's own modules lie.
            signing_keys: whose requests are taken, in place of the coordinator that it joined.
            partners: other silos' keys, in place of those that it has pinned.
            bundle: the unpacked bundle that this process may run; None in process.

        Raises:
            InvalidInput: where its configuration or policy is not valid.
        """
        path = directory / "silo.yaml"
        config = parse(SiloConfig, read_yaml(path), where=str(path))
        policy = Policy.load(directory / "policy.yaml")
        return cls(
            directory,
            config,
            policy,
            search_path=search_path,
            signing_keys=signing_keys,
            partners=partners,
            bundle=bundle,
        )

    @property
    def signing_key(self) -> str:
        """The public half of what the silo signs with, in hexadecimal."""
        return public_hex(self._guard.key)

    def verify(self, header: Header) -> None:
        """Raise `Refused` unless the coordinator signed this request, for this silo, for now."""
        self._guard.verify(header)

    def permit(self, header: Header, job: Job, contract: Contract, verb: Verb) -> None:
        """Raise `Refused` unless the silo's policy allows this verb."""
        # What discloses nothing uses no row, nor does what was released before.
        uses_rows = bool(verb.disclosures) and header.protocol != _RELEASED

        def part() -> Contract:
            return contract if header.protocol == "psi" else part_of(job, contract, self.name)

        def rows() -> int:
            if not uses_rows:
                return sys.maxsize
            if job.kind == "horizontal" or header.protocol in _OF_ALL_ROWS:
                return self._num_rows(part(), job.purpose)
            return len(self.match(holders_of(job).match, purpose=job.purpose).rows)

        self._guard.permit(
            header,
            job,
            contract,
            verb,
            rows=rows,
            counts=lambda: self.consent_counts(part(), job.purpose) if uses_rows else None,
        )

    def repeated(self, header: Header) -> None:
        """Note in the audit log that a step got the answer that it got before."""
        self._guard.repeated(header)

    def seal(
        self, header: Header | None, reply: ReplyHeader, fields: MappingOf[str, Any]
    ) -> ReplyHeader:
        """Note in the audit log what leaves, and sign it."""
        return self._guard.seal(header, reply, fields)

    def conclude(self, run_id: str) -> None:
        """Answer nothing more for a run, and erase what was kept for it.

        The ledger's newest hash goes into the audit log, whose own goes to the coordinator: so the
        end of the ledger cannot be cut off unnoticed either.
        """
        self._guard.log.append("ledger", run=run_id, head=self._ledger.head)
        self._store.conclude(run_id)
        self._runs.end(run_id)

    def check(self, contract: Contract, *, purpose: str = UNSTATED) -> CheckReport:
        """Return the verdict on the rows that ``purpose`` may use.

        It is made once per (rows, contract, mapping, consents).

        Raises:
            SourceUnreadable: where the rows cannot be read.
            MappingInvalid: where the mapping does not fit.
            Refused: where the silo has no mapping for this contract, or cannot read its consents.
        """
        mapping = self.mapping(contract)
        now = self.now()
        source, keep = self._source(mapping), self._consent(mapping, purpose)
        known = self._known(self._cache.key(source, mapping, contract, now=now, keep=keep))
        if known is not None:
            return known
        key = self._cache.ensure(source, mapping, contract, now=now, keep=keep)
        report = self._cache.report(key)
        log.info("contract check of %s: %s", contract.ref, report.verdict)
        if self._docs and not report.passed:
            log.info("see %s", self._write_page(key, contract, report, now))
        return report

    def page(self, contract: Contract, *, purpose: str = UNSTATED) -> Path:
        """Return the full report of `check` for the people in the silo, written where it is not.

        A message's check writes it only for rows that break the contract: a page takes seconds.
        """
        mapping, now = self.mapping(contract), self.now()
        source, keep = self._source(mapping), self._consent(mapping, purpose)
        key = self._cache.ensure(source, mapping, contract, now=now, keep=keep)
        return self._write_page(key, contract, self._cache.report(key), now)

    def explain(
        self,
        contract: Contract,
        report: CheckReport,
        *,
        purpose: str = UNSTATED,
        key: str | None = None,
    ) -> list[Explanation]:
        """Return, for the people in the silo, what broke each rule that failed, and what to do.

        Args:
            contract: the contract.
            report: of `check`.
            purpose: as it was checked for.
            key: a local column to name rows by, in place of their numbers.
        """
        from silos.explain import explain

        mapping = self.mapping(contract)
        return explain(
            report,
            self._source(mapping),
            mapping,
            contract,
            now=self.now(),
            keep=self._consent(mapping, purpose),
            key=key,
        )

    def frame(self, contract: Contract, *, purpose: str = UNSTATED) -> pd.DataFrame:
        """Return the canonical rows that ``purpose`` may use, memory-mapped.

        Raises:
            SchemaDrift: where they break the contract.
            Refused: where the silo cannot read its consents.
        """
        mapping = self.mapping(contract)
        now = self.now()
        source, keep = self._source(mapping), self._consent(mapping, purpose)
        key = self._cache.key(source, mapping, contract, now=now, keep=keep)
        try:
            return self._cache.frame(key)
        except SourceUnreadable:  # not there, or damaged: build it
            return self._cache.frame(
                self._cache.ensure(source, mapping, contract, now=now, keep=keep)
            )

    def mapping(self, contract: Contract) -> Mapping:
        """Return the silo's mapping to ``contract``; without a file, names and units are alike."""
        path = mapping_file(self.directory, contract.ref)
        if path is None:
            return Mapping(contract=contract.ref)
        value = read_yaml(path, error=MappingInvalid)
        if isinstance(value, dict) and value.get("contract") not in (None, contract.ref):
            raise Refused(
                f"this silo has no mapping to the contract {contract.ref}", code="mapping"
            )
        return Mapping.load(path, contract)

    def dataset(self, contract: Contract) -> str:
        """Return the name of the data set that holds the rows for ``contract``.

        Raises:
            MappingInvalid: where the mapping names none of several, or one that is not there.
            Refused: where the silo has no mapping for this contract.
        """
        return self._dataset(self.mapping(contract))

    def encoded(
        self,
        contract: Contract,
        key: str,
        build: Callable[[], Built],
        *,
        purpose: str = UNSTATED,
    ) -> Arrays:
        """Return arrays kept under ``key`` for the present rows, memory-mapped and read-only.

        Raises:
            Refused: where the consents change while they are built; nothing is kept then.
        """
        mapping = self.mapping(contract)
        source, keep = self._source(mapping), self._consent(mapping, purpose)
        rows = self._cache.key(source, mapping, contract, now=self.now(), keep=keep)
        name = hashlib.sha256(f"{rows} {key}".encode()).hexdigest()
        if name not in self._encoded:
            arrays = build()
            again = self._consent(mapping, purpose)
            if keep is not None and (again is None or again.digest != keep.digest):
                raise Refused("the silo's consents changed meanwhile; ask again", code="consent")
            self._encoded.put(name, arrays)
        return self._encoded.load(name)

    def kept_number(self, key: str, build: Callable[[], float]) -> float:
        """Return the number kept under ``key``, or build and keep it."""
        return self._store.kept_number(key, build)

    def secret(self, run_id: str) -> bytes:
        """Return the run's 32 secret bytes; they never leave the silo."""
        return self._store.secret(run_id)

    @property
    def ledger(self) -> Ledger:
        """The silo's privacy ledger."""
        return self._ledger

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Reserve a use of a data set within its budget; return the run's history up to it."""
        return self._ledger.reserve(account, charge, self._budget(account), admit)

    def settle(self, step_id: str) -> None:
        """Note that a step's answer is kept."""
        self._ledger.settle(step_id)

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what a run has reserved so far: mechanism and (σ, q, steps)."""
        return self._ledger.run_charges(run_id)

    def quote(self, account: str, rows: Sequence[HistoryRow]) -> Account:
        """Return how a data set's account would stand with ``rows`` besides."""
        return self._ledger.quote(account, rows, self._budget(account))

    def _budget(self, account: str) -> Budget | None:
        return budget_of(self.policy.privacy.budgets, account)

    def kept(self, run_id: str, name: str) -> bytes | None:
        """Return what a message of this run kept under ``name``."""
        return self._runs.kept(run_id, name)

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep ``content`` for the run's later messages; it goes when the run ends."""
        self._runs.keep(run_id, name, content)

    def forget(self, run_id: str, name: str) -> None:
        """Erase what is kept under ``name``."""
        self._runs.forget(run_id, name)

    def sign_relay(self, value: Any) -> str:
        """Return the silo's signature of a statement for other silos."""
        return self._guard.sign_relay(value)

    def is_partner_relay(self, silo: str, value: Any, signature: str) -> bool:
        """Return whether the silo called so signed ``value``, by the key that is pinned here."""
        return self._guard.is_partner_relay(silo, value, signature)

    def cards(self) -> Sequence[Card]:
        """Return what people here have released about columns."""
        from silos.metadata import shared_cards

        return shared_cards(self.directory)

    def histograms(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the noisy histograms of released columns, paid for when they were made."""
        from silos.histograms import kept_histograms, may_leave

        return dict(kept_histograms(self.directory)) if may_leave(self.policy) else {}

    def begin_match(self, question: MatchQuestion) -> None:
        """Raise `Refused` unless the policy lets the silo be matched so; note it either way."""
        self._matching.begin(question, self.policy.matching, now=self.now())

    def judge_match(
        self, run_id: str, partner: str, *, num_theirs: int, num_common: int | None = None
    ) -> None:
        """Raise `Refused` unless the policy bears a partner's size and what is common."""
        self._matching.judge(
            run_id,
            partner,
            self.policy.matching,
            num_theirs=num_theirs,
            num_common=num_common,
            now=self.now(),
        )

    def match(self, handle: str, *, purpose: str = UNSTATED) -> Match:
        """Return this silo's half of a match.

        Raises:
            Refused: where there is none, it expired, was made for another purpose, or the rows
                changed since.
        """
        found = read_match(self.directory, handle)
        fingerprint = self._fingerprint(found.dataset, found.purpose)
        found.require_usable(purpose=purpose, fingerprint=fingerprint, now=self.now())
        return found

    def keep_match(self, match: Match) -> None:
        """Keep this silo's half of a match for the present rows; what has expired is deleted."""
        for each in every_match(self.directory):
            if each.expires <= self.now():
                drop_match(self.directory, each.handle)
        fingerprint = self._fingerprint(match.dataset, match.purpose)
        write_match(self.directory, replace(match, fingerprint=fingerprint))
        self._matching.kept(match)

    def _fingerprint(self, dataset: str, purpose: str) -> str:
        """Return a digest of which rows a data set has for a purpose now, and in which order."""
        source = self._sources.get(dataset)
        if source is None:
            raise Refused("this silo has no such data set any more; match again", code="match")
        book = self._consents.get(dataset)
        keep = None if book is None else book.filter(purpose, now=self.now())
        return self._cache.raw_rows(source, keep).digest

    def keep_part(self, model: str, content: bytes, about: MappingOf[str, Any]) -> None:
        """Keep this silo's part of a vertical model; it never leaves."""
        self._guard.log.append("part", run=model, reference=hashlib.sha256(content).hexdigest())
        write_part(self.directory, model, content, about)

    def part(self, model: str) -> bytes:
        """Return this silo's part of a model; raise `Refused` where there is none."""
        return read_part(self.directory, model)

    def keep_scores(self, run_id: str, rows: pd.DataFrame) -> None:
        """Write what a model says of rows to ``scores/``, for people here; it never leaves."""
        self._guard.log.append("scored", run=run_id, rows=len(rows))
        place = write_scores(self.directory, run_id, rows)
        log.info("%d rows scored: %s", len(rows), place)

    def remembered(self, step_id: str) -> Parcel | None:
        """Return what was answered to ``step_id`` before."""
        return self._store.remembered(step_id)

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep the answer to ``step_id`` before it is sent."""
        self._store.remember(step_id, reply)

    def _dataset(self, mapping: Mapping) -> str:
        names = list(self._sources)
        name = mapping.data or (names[0] if len(names) == 1 else None)
        if name in self._sources:
            return name
        said = f"no data set is called '{name}'" if name else "name the data set with 'data: NAME'"
        place = mapping_file(self.directory, mapping.contract) or self.directory / "mapping.yaml"
        raise MappingInvalid(str(place), [f"data: {said}; silo.yaml has {', '.join(names)}"])

    def _source(self, mapping: Mapping) -> Source:
        return self._sources[self._dataset(mapping)]

    def _consent(self, mapping: Mapping, purpose: str) -> ConsentFilter | None:
        """Return which rows may be used for a purpose now; None where all may."""
        book = self._consents.get(self._dataset(mapping))
        return None if book is None else book.filter(purpose, now=self.now())

    def consent_counts(self, contract: Contract, purpose: str) -> dict[str, int] | None:
        """Return how many rows may be used for a purpose, and why not; None where all may.

        Raises:
            Refused: where the silo cannot read its consents.
        """
        if not self._consents:
            return None
        keep = self._consent(self.mapping(contract), purpose)
        return None if keep is None else keep.counts

    def _num_rows(self, contract: Contract, purpose: str) -> int:
        try:
            return len(self.frame(contract, purpose=purpose))
        except SchemaDrift:  # no row is used, and only the verdict may leave
            return sys.maxsize

    def _write_page(self, key: str, contract: Contract, report: CheckReport, now: datetime) -> Path:
        from silos.check import page_of

        written = self.directory / "gx" / f"{contract.ref}.key"
        if written.exists() and written.read_text() == key:
            return page_of(self.directory, contract)
        told = self._cache.evaluated(key)
        if told is not None:
            from silos.check_blocks import write_page

            page = write_page(told, report, self.directory)
        else:
            from silos.check import write_docs

            page = write_docs(self._cache.whole(key), contract, self.directory, now=now)
        write_atomic(written, key.encode(), mode=0o600)
        return page

    def _known(self, key: str) -> CheckReport | None:
        with contextlib.suppress(SourceUnreadable):
            return self._cache.report(key)
        return None


def answerer(silo_dir: Path, bundle_dir: Path | None = None) -> Answer:
    """Return what answers requests for the silo in ``silo_dir``; the node calls it in a child.

    Args:
        silo_dir: the silo's directory.
        bundle_dir: where the approved bundle is unpacked; its modules can be a job's own.
    """
    bundle = None if bundle_dir is None else Path(bundle_dir)
    path = () if bundle is None else (bundle,)
    return dispatch_answerer(Silo.open(Path(silo_dir), search_path=path, bundle=bundle))
