"""The canonical table of a silo, standardised and checked once and memory-mapped ever after.

An entry is a directory of its own, named by the state of the rows (`silos.rows.rows_key`), so that
it is never out of date. It holds ``table.arrow`` (Arrow IPC, one batch, not compressed),
``report.json`` and ``entry.json`` with the table's SHA-256. It is built beside its place, synced,
then renamed into it. It holds patient data: directories are 0700, files 0600.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.errors import SchemaDrift, SourceUnreadable
from consilo.machine.files import move, write_atomic
from consilo.machine.locks import file_lock
from silos.rows.arrow import to_pandas, write_table
from silos.rows.checks.verdicts import Verdicts
from silos.rows.mapping import UNREADABLE, Mapping
from silos.rows.memory import available_bytes
from silos.rows.rows_key import RawRows, RowsKey
from silos.rows.sources import BLOCK_ROWS, RowFilter, Source
from silos.rows.standardise import Unreadable, standardise

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from silos.rows.check_blocks import Evaluated

MAX_ENTRIES = 8
_CHECK_TABLES = 3
"""What Great Expectations may take to check a table, in tables, beside the mapped one."""


class CanonicalCache:
    """Keeps canonical tables below one directory of a silo.

    Reading, mapping and writing take the memory of a few blocks, whatever the table's size. Where
    the table fits, Great Expectations checks it; else `silos.rows.check_blocks` does.

    Args:
        directory: made where it is not there, readable by its owner only.
        memory_bytes: what a build may take; None for what this process can still take.
        verdicts: of this process, for rows that were judged in another directory before.
    """

    def __init__(
        self,
        directory: Path,
        *,
        memory_bytes: int | None = None,
        verdicts: Verdicts | None = None,
    ) -> None:
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._verdicts = verdicts
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def key(
        self,
        source: Source,
        mapping: Mapping,
        contract: Contract,
        *,
        now: datetime,
        keep: RowFilter | None = None,
    ) -> str:
        """Return the name of the entry for the source as it is now: the digest of its `RowsKey`.

        Raises:
            SourceUnreadable: where a file or table is not there.
        """
        return RowsKey.of(self.raw_rows(source, keep), mapping, contract, now=now).digest

    def raw_rows(self, source: Source, keep: RowFilter | None = None) -> RawRows:
        """Return which rows there are now; costs a few file stats where none has changed.

        Raises:
            SourceUnreadable: where a file or table is not there.
        """
        return RawRows.of(source, keep, memo=self._directory / "fingerprints.json")

    def get_or_build(
        self,
        source: Source,
        mapping: Mapping,
        contract: Contract,
        *,
        now: datetime | None = None,
        keep: RowFilter | None = None,
    ) -> tuple[pd.DataFrame, CheckReport]:
        """Return the canonical table, whatever its verdict, and the report of its check.

        For a table that does not fit into memory use `ensure`, `report` and `blocks`.

        Raises:
            SourceUnreadable: where the source cannot be read.
        """
        key = self.ensure(source, mapping, contract, now=now, keep=keep)
        return self._load(key), self.report(key)

    def ensure(
        self,
        source: Source,
        mapping: Mapping,
        contract: Contract,
        *,
        now: datetime | None = None,
        keep: RowFilter | None = None,
    ) -> str:
        """Return the name of a sound entry, built where there is none.

        The source is read, and the check made, only where there is no sound entry. An entry whose
        table does not have its SHA-256 is built anew.

        Args:
            source: the silo's rows.
            mapping: the silo's mapping to ``contract``.
            contract: the contract.
            now: for the rules about dates; None for the present.
            keep: which raw rows may be used, asked block by block before they are mapped; its
                ``digest`` is part of the entry's name. None for all rows.

        Raises:
            SourceUnreadable: where the source cannot be read.
        """
        moment = now or datetime.now(UTC)
        with file_lock(self._directory / "lock"):  # a second one would read the source for nothing
            key = self.key(source, mapping, contract, now=moment, keep=keep)
            if not self._is_sound(key):
                self._build(key, source, mapping, contract, moment, keep)
                self._prune(key)
                if self.key(source, mapping, contract, now=moment, keep=keep) != key:
                    # Which rows were read is not known; the entry could hold any mixture.
                    shutil.rmtree(self._directory / key)
                    raise SourceUnreadable("the source changed while it was read; try again")
                if self._verdicts is not None:
                    self._verdicts.add(key, (self.report(key), self._entry(key).get("evaluated")))
            os.utime(self._directory / key)
            return key

    def frame(self, key: str) -> pd.DataFrame:
        """Return the memory-mapped table of an entry, read-only; rounds ask for this.

        Raises:
            SchemaDrift: where the table failed its check.
            SourceUnreadable: where there is no such entry, or it changed since it was written.
        """
        self._require(key)
        return self._load(key)

    def blocks(self, key: str) -> Iterator[pd.DataFrame]:
        """Yield the rows of an entry in order, a block at a time; for tables of any size.

        Raises:
            SchemaDrift: where the table failed its check.
            SourceUnreadable: where there is no such entry, or it changed since it was written.
        """
        self._require(key)
        yield from self.rows(key)

    def rows(self, key: str) -> Iterator[pd.DataFrame]:
        """Yield the rows as `blocks` does, with the verdict unasked, for the people in the silo."""
        table = self._mapped(key)
        for start in range(0, max(table.num_rows, 1), BLOCK_ROWS):
            yield to_pandas(table.slice(start, BLOCK_ROWS))

    def evaluated(self, key: str) -> list[Evaluated] | None:
        """Return how each rule was judged, for a table that was checked in blocks; else None."""
        from silos.rows.check_blocks import Evaluated

        told = self._entry(key).get("evaluated")
        return None if told is None else [Evaluated(**each) for each in told]

    def whole(self, key: str) -> pd.DataFrame:
        """Return the table of an entry with its verdict unasked, for the people in the silo.

        Its ``attrs`` say what could not be read, as `silos.rows.mapping` puts it there.
        """
        frame = self._load(key)
        if unreadable := self._entry(key).get("unreadable"):
            frame.attrs[UNREADABLE] = unreadable
        return frame

    def _require(self, key: str) -> None:
        report = self.report(key)
        if not report.passed:
            raise SchemaDrift(report.reason())
        if self._entry(key).get("stamp") != _stamp(self._table(key)) and not self._is_sound(key):
            raise SourceUnreadable("the cached table is damaged; standardise the silo again")

    def report(self, key: str) -> CheckReport:
        """Return the report of an entry.

        Raises:
            SourceUnreadable: where there is no such entry.
        """
        try:
            return _parsed((self._directory / key / "report.json").read_bytes())
        except (OSError, ValueError):
            hint = "standardise the silo again"
            raise SourceUnreadable(f"the cache has no such table; {hint}") from None

    def _table(self, key: str) -> Path:
        return self._directory / key / "table.arrow"

    def _entry(self, key: str) -> dict[str, Any]:
        try:
            value = json.loads((self._directory / key / "entry.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _is_sound(self, key: str) -> bool:
        entry = self._entry(key)
        try:
            self.report(key)
            return bool(entry) and entry.get("sha256") == _sha256(self._table(key))
        except (OSError, SourceUnreadable):
            return False

    def _build(
        self,
        key: str,
        source: Source,
        mapping: Mapping,
        contract: Contract,
        now: datetime,
        keep: RowFilter | None,
    ) -> None:
        building = Path(tempfile.mkdtemp(prefix="building-", dir=self._directory))
        try:
            columns = building / "columns"
            columns.mkdir(mode=0o700)
            table, unreadable = standardise(source, mapping, contract, columns, keep=keep)
            # Writing, hashing and syncing leave the interpreter to the check.
            with ThreadPoolExecutor(1) as beside:
                written = beside.submit(write_table, building / "table.arrow", table)
                given = None if self._verdicts is None else self._verdicts.of(key)
                report, told = given or self._checked(table, unreadable, contract, building, now)
                write_atomic(building / "report.json", report.to_json().encode(), mode=0o600)
                shutil.rmtree(columns)  # the table that was mapped from there stays readable
                digest = written.result()
            entry = {
                "sha256": digest,
                "stamp": _stamp(building / "table.arrow"),
                "slot": _slot(source, contract),
                "unreadable": unreadable,
                "evaluated": told,
            }
            write_atomic(building / "entry.json", json.dumps(entry).encode(), mode=0o600)
            place = self._directory / key
            if place.exists():
                shutil.rmtree(place)
            move(building, place)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise

    def _checked(
        self,
        table: pa.Table,
        unreadable: Unreadable,
        contract: Contract,
        building: Path,
        now: datetime,
    ) -> tuple[CheckReport, list[dict[str, Any]] | None]:
        """Return the report and, for a table that does not fit, how each rule was judged."""
        memory_bytes = available_bytes() if self._memory_bytes is None else self._memory_bytes
        if table.nbytes * _CHECK_TABLES > memory_bytes:
            from silos.rows.check_blocks import check_blocks

            report, told = check_blocks(
                table, contract, unreadable, building, now=now, memory_bytes=memory_bytes
            )
            return report, [asdict(each) for each in told]
        from silos.rows.check import check

        frame = to_pandas(table)
        if unreadable:
            frame.attrs[UNREADABLE] = unreadable
        return check(frame, contract, now=now), None

    def _mapped(self, key: str) -> pa.Table:
        import pyarrow as pa

        with pa.memory_map(str(self._table(key))) as file:
            return pa.ipc.open_file(file).read_all()

    def _load(self, key: str) -> pd.DataFrame:
        return to_pandas(self._mapped(key))

    def _prune(self, kept: str) -> None:
        """Remove what the new entry replaces, what was left half built, and the oldest entries."""
        slot = self._entry(kept).get("slot")
        entries = []
        for place in self._directory.iterdir():
            if not place.is_dir() or place.name == kept:
                continue
            if place.name.startswith("building-") or self._entry(place.name).get("slot") == slot:
                shutil.rmtree(place, ignore_errors=True)
            else:
                entries.append(place)
        entries.sort(key=lambda place: place.stat().st_mtime_ns, reverse=True)
        for place in entries[MAX_ENTRIES - 1 :]:
            shutil.rmtree(place, ignore_errors=True)


@lru_cache(maxsize=16)
def _parsed(text: bytes) -> CheckReport:
    """Return a report that nobody can change; that of a wide table is asked for in every round."""
    return CheckReport.from_json(text)


def _slot(source: Source, contract: Contract) -> str:
    text = json.dumps([contract.ref, source.description], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _stamp(path: Path) -> list[int] | None:
    with suppress(OSError):
        stat = path.stat()
        return [stat.st_size, stat.st_ino, stat.st_mtime_ns]
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
