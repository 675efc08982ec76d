"""An organisation's rows as protocols see them: read, mapped, checked, cached, encoded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingOf
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from consilo.config import read_yaml
from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.errors import MappingInvalid, Refused, SchemaDrift, SourceUnreadable
from consilo.jobs.job import UNSTATED
from consilo.kernel.roles import Arrays, Built
from consilo.machine.files import write_atomic
from silos.rows.cache import CanonicalCache
from silos.rows.checks.verdicts import Verdicts
from silos.rows.consent import Consent, ConsentBook, ConsentFilter
from silos.rows.mapping import Mapping, mapping_file
from silos.rows.shelf import Shelf
from silos.rows.sources import Source
from silos.rows.sources.files import FilesSource

if TYPE_CHECKING:
    import pandas as pd

    from silos.rows.explain import Explanation
    from silos.rows.likeness import Likeness

log = logging.getLogger(__name__)

_KEPT_ENCODINGS = 16


class Tables:
    """The canonical tables of one silo: the role `consilo.kernel.roles.Rows`, and more for people.

    Args:
        directory: the silo's; ``cache/`` and ``gx/`` are made in it.
        data: name of a data set → where its rows are.
        consent: name of a data set → who has consented to what; without an entry, all is allowed.
        docs: write the full report of a contract check for people in the silo.
        verdicts: of this process, for a silo that is made for one run.
        now: the clock that consents and rules about dates go by.
    """

    def __init__(
        self,
        directory: Path,
        data: MappingOf[str, Source],
        consent: MappingOf[str, Consent],
        *,
        docs: bool,
        verdicts: Verdicts | None = None,
        now: Callable[[], datetime],
    ) -> None:
        self.directory = directory
        self.now = now
        self._sources = {name: each.resolve(directory) for name, each in data.items()}
        self._docs = docs
        cache = directory / "cache"
        self._cache = CanonicalCache(cache, verdicts=verdicts)
        self._encoded = Shelf(cache / "encoded", kept=_KEPT_ENCODINGS)
        self._consents = {
            name: ConsentBook(name, spec.resolve(directory), self._sources[name], cache)
            for name, spec in consent.items()
        }

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
        from silos.rows.explain import explain

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

    def likeness(self, contract: Contract, *, purpose: str = UNSTATED) -> Likeness:
        """Return how many rows are alike or have no label, for the people in the silo."""
        from silos.rows.likeness import likeness

        mapping, now = self.mapping(contract), self.now()
        source, keep = self._source(mapping), self._consent(mapping, purpose)
        key = self._cache.ensure(source, mapping, contract, now=now, keep=keep)
        return likeness(self._cache.rows(key), contract)

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

    def consent_counts(self, contract: Contract, purpose: str) -> dict[str, int] | None:
        """Return how many rows may be used for a purpose, and why not; None where all may.

        Raises:
            Refused: where the silo cannot read its consents.
        """
        if not self._consents:
            return None
        keep = self._consent(self.mapping(contract), purpose)
        return None if keep is None else keep.counts

    def consent_state(self, contract: Contract, purpose: str) -> str:
        """Return a digest of which rows a purpose may use; empty where all may.

        Raises:
            Refused: where the silo cannot read its consents.
        """
        keep = self._consent(self.mapping(contract), purpose) if self._consents else None
        return "" if keep is None else keep.digest

    def num_rows(self, contract: Contract, purpose: str, *, subjects: bool = False) -> int:
        """Return how many rows a purpose may use; no end of them where they break the contract.

        Args:
            contract: what the rows obey.
            purpose: what they are used for.
            subjects: count subjects instead; 0 where the contract names none.
        """
        try:
            frame = self.frame(contract, purpose=purpose)
            if subjects:
                return 0 if contract.subject is None else int(frame[contract.subject].nunique())
            return len(frame)
        except SchemaDrift:  # no row is used, and only the verdict may leave
            return sys.maxsize

    def fingerprint(self, dataset: str, purpose: str) -> str:
        """Return a digest of which rows a data set has for a purpose now, and in which order."""
        source = self._sources.get(dataset)
        if source is None:
            raise Refused("this silo has no such data set any more; match again", code="match")
        book = self._consents.get(dataset)
        keep = None if book is None else book.filter(purpose, now=self.now())
        return self._cache.raw_rows(source, keep).digest

    def consents(self, purposes: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
        """Return data set → purpose → how many of its rows may be used now, and why not the others.

        For the people in the silo: the consents are read anew, nothing is remembered or forgotten.

        Raises:
            SourceUnreadable: where the rows or the consents cannot be read.
        """
        now = self.now().timestamp()
        return {
            name: {each: dict(book.decide(each, now).answer.counts) for each in sorted(purposes)}
            for name, book in self._consents.items()
        }

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of the silo's data sets."""
        return tuple(self._sources)

    def source(self, dataset: str) -> Source:
        """Return where a data set's rows are; it must be one of `datasets`."""
        return self._sources[dataset]

    def state(self, dataset: str) -> str:
        """Return a digest that changes whenever a row of a data set does, consents aside."""
        return self._cache.raw_rows(self._sources[dataset]).digest

    def sharing(self, dataset: str) -> set[str]:
        """Return the other data sets that read a file or table that this one reads."""
        mine = _places(self._sources[dataset])
        return {
            name for name, each in self._sources.items() if name != dataset and mine & _places(each)
        }

    def _dataset(self, mapping: Mapping) -> str:
        names = list(self._sources)
        name = mapping.data or (names[0] if len(names) == 1 else None)
        if name in self._sources:
            return name
        fault = f"no data set is called '{name}'" if name else "name the data set with 'data: NAME'"
        place = mapping_file(self.directory, mapping.contract) or self.directory / "mapping.yaml"
        raise MappingInvalid(str(place), [f"data: {fault}; silo.yaml has {', '.join(names)}"])

    def _source(self, mapping: Mapping) -> Source:
        return self._sources[self._dataset(mapping)]

    def _consent(self, mapping: Mapping, purpose: str) -> ConsentFilter | None:
        """Return which rows may be used for a purpose now; None where all may."""
        book = self._consents.get(self._dataset(mapping))
        return None if book is None else book.filter(purpose, now=self.now())

    def _write_page(self, key: str, contract: Contract, report: CheckReport, now: datetime) -> Path:
        from silos.rows.check import page_of

        written = self.directory / "gx" / f"{contract.ref}.key"
        if written.exists() and written.read_text() == key:
            return page_of(self.directory, contract)
        told = self._cache.evaluated(key)
        if told is not None:
            from silos.rows.check_blocks import write_page

            page = write_page(told, report, self.directory)
        else:
            from silos.rows.check import write_docs

            page = write_docs(self._cache.whole(key), contract, self.directory, now=now)
        write_atomic(written, key.encode(), mode=0o600)
        return page

    def _known(self, key: str) -> CheckReport | None:
        with contextlib.suppress(SourceUnreadable):
            return self._cache.report(key)
        return None


def _places(source: Source) -> set[str]:
    """Return what a source reads: its files, or a database's table; nothing where a query says."""
    if isinstance(source, FilesSource):
        try:
            return {str(each.resolve()) for each in source.files()}
        except SourceUnreadable:
            return set()
    said = source.description
    if not said.get("table"):
        return set()
    return {json.dumps([said.get(each) for each in ("type", "url", "path", "table")])}
