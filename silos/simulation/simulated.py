"""Silos that exist in a simulation only: parts of one table, in one directory, hundreds at a time.

```
DIRECTORY/
  table.arrow   the canonical rows, those of a silo beside each other; every silo maps its part
  cut.json      names, where each part begins, the one contract report
  state.db      what all silos remember: newest answer, privacy spent, secret
  encoded/      a file of encoded rows per silo
```

Real, for every silo, as in `silos.silo.Silo`: its policy is asked, its rows are its own, its
held-out rows, batches, noise and sampling are its own, its answers are idempotent, and its privacy
is booked, calibrated and limited for its own number of rows. The bytes that travel are the same.

Not real: there is no mapping per silo, and the contract is checked once, on the whole table. What
holds for each row of the table holds in each part (a silo's report is that verdict, without the
table's list of findings); what is judged over rows (shares of missing values, the least number of
rows, uniqueness across silos) is judged for the table and not again for each part. Nothing is
synced to disk, and the silos share processes, a user and a directory: a crash of the machine loses
them, and one silo's code could read another's rows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import mmap
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.errors import Refused, SourceUnreadable
from consilo.horizontal.partition import Rows
from consilo.jobs.job import Job, Unit
from consilo.jobs.match import Match, MatchQuestion
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.roles import Arrays, Built
from consilo.kernel.verbs import Asked, Permitted
from consilo.machine.database import open_database
from consilo.matching.columns.cards import Card
from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from consilo.protocols.dispatch import answerer
from consilo.wire.parcel import Answer, Parcel
from consilo.wire.signing import is_signed, public_hex, sign
from silos.gate.guard import addressed
from silos.gate.policy import Policy
from silos.kept.matches import read_match, write_match
from silos.kept.model_parts import read_part, write_part, write_scores
from silos.kept.spreads import KeptSpreads
from silos.kept.store import lasting_secret
from silos.simulation.all_roles import AllRoles
from silos.simulation.in_memory import made_up_root

if TYPE_CHECKING:
    import pandas as pd

_KEPT_BYTES = 1 << 30
"""Answers of all silos together; one that is larger than a silo's share is computed again."""
_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    silo TEXT PRIMARY KEY, step_id TEXT, header BLOB, body BLOB);
CREATE TABLE IF NOT EXISTS spends (
    place INTEGER PRIMARY KEY, silo TEXT, run_id TEXT, step_id TEXT, mark TEXT, mechanism TEXT,
    sigma REAL, sample_rate REAL, steps INTEGER, UNIQUE (silo, step_id, mark));
CREATE INDEX IF NOT EXISTS by_silo ON spends (silo, run_id);
CREATE TABLE IF NOT EXISTS numbers (key TEXT PRIMARY KEY, value REAL);
CREATE TABLE IF NOT EXISTS kept (
    silo TEXT, run_id TEXT, name TEXT, content BLOB, PRIMARY KEY (silo, run_id, name));
CREATE TABLE IF NOT EXISTS secret (place INTEGER PRIMARY KEY CHECK (place = 0), key BLOB);
"""


def write_cut(
    directory: Path,
    frame: pd.DataFrame,
    parts: Mapping[str, Rows],
    *,
    contract: Contract,
    report: CheckReport,
    search_path: tuple[Path, ...] = (),
) -> None:
    """Make the directory of a simulation.

    Args:
        directory: new.
        frame: the canonical rows of all silos.
        parts: silo → its rows in ``frame``.
        contract: what the rows obey.
        report: the verdict on the whole table.
        search_path: where a job's own modules lie.
    """
    from silos.rows.arrow import to_arrow, write_table

    directory.mkdir(parents=True, mode=0o700)
    order = np.concatenate(list(parts.values()))
    write_table(directory / "table.arrow", to_arrow(frame.iloc[order]))
    ends = np.cumsum([len(rows) for rows in parts.values()])
    cut = {
        "names": list(parts),
        "ends": [int(each) for each in ends],
        "contract": contract.digest,
        # A finding per rule and silo would be a thousand copies of the table's.
        "report": report.model_copy(update={"findings": ()}).to_json(),
        "search_path": [str(each) for each in search_path],
    }
    (directory / "cut.json").write_text(json.dumps(cut))
    state = State(directory, len(parts))
    with state.open() as database:
        database.execute("INSERT INTO secret VALUES (0, ?)", (secrets.token_bytes(32),))
    state.close()  # the file is whole, for whoever copies it


def open_cut(directory: str) -> Callable[[str], Answer]:
    """Return the function that gives the answer function of each silo in ``directory``."""
    place = Path(directory)
    cut = json.loads((place / "cut.json").read_bytes())
    starts = [0, *cut["ends"][:-1]]
    bounds = dict(zip(cut["names"], zip(starts, cut["ends"], strict=True), strict=True))
    shared = _Shared(
        place,
        State(place, len(bounds)),
        CheckReport.from_json(cut["report"]),
        cut["contract"],
        Policy.simulation(),
        tuple(Path(each) for each in cut["search_path"]),
    )

    def answer_of(name: str) -> Answer:
        start, end = bounds[name]
        return answerer(SimulatedSilo(name, start, end, shared))

    return answer_of


class State:
    """What the silos of one simulation remember: one SQLite file for all of them.

    Args:
        directory: of the simulation.
        num_silos: who share it.

    A connection is kept per process. Nothing is synced: a worker's crash loses nothing, the
    machine's does.
    """

    def __init__(self, directory: Path, num_silos: int) -> None:
        self.most_bytes = _KEPT_BYTES // max(1, num_silos)
        self._path = directory / "state.db"
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._owner = 0

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Give the connection of this process for one transaction."""
        with self._lock:
            if self._database is None or self._owner != os.getpid():
                self._database = open_database(self._path, lasting=False, wal=True, schema=_TABLES)
                self._owner = os.getpid()
            with self._database:
                yield self._database

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            if self._database is not None and self._owner == os.getpid():
                self._database.close()
            self._database = None


@dataclass(frozen=True)
class _Shared:
    directory: Path
    state: State
    report: CheckReport
    contract_digest: str
    policy: Policy
    search_path: tuple[Path, ...]


class SimulatedSilo(AllRoles):
    """One part of the table; a `consilo.kernel.roles.SiloHost` that costs nothing to make."""

    def __init__(self, name: str, start: int, end: int, shared: _Shared) -> None:
        self.name = name
        self.search_path = shared.search_path
        self._start = start
        self._end = end
        self._shared = shared

    def verify(self, header: Header) -> None:
        """Raise `Refused` where a request is another silo's; nobody signs in a simulation."""
        addressed(header, self.name)

    def permit(self, header: Header, job: Job, contract: Contract, asked: Asked) -> Permitted:
        """Raise `Refused` unless the policy of simulated silos allows this verb."""
        return self._shared.policy.permit(header, job, asked)

    def repeated(self, header: Header, asked: tuple[Job, Contract, Asked] | None) -> None:
        """Keep no log: nobody audits a simulation."""

    def sign(
        self, header: Header | None, reply: ReplyHeader, fields: Mapping[str, Any]
    ) -> ReplyHeader:
        """Return the reply's header as it is: nobody signs in a simulation."""
        return reply

    def conclude(self, run_id: str) -> None:
        """Do nothing: the simulation's directory ends with its run."""

    def check(self, contract: Contract, *, purpose: str = "") -> CheckReport:
        """Return the verdict on the whole table."""
        self._require(contract)
        return self._shared.report

    def frame(self, contract: Contract, *, purpose: str = "") -> pd.DataFrame:
        """Return this silo's canonical rows."""
        import pyarrow as pa

        from silos.rows.arrow import to_pandas

        self._require(contract)
        with pa.memory_map(str(self._shared.directory / "table.arrow")) as file:
            table = pa.ipc.open_file(file).read_all()
            return to_pandas(table.slice(self._start, self._end - self._start))

    def dataset(self, contract: Contract) -> str:
        """Return the one name that all simulated silos give their rows."""
        return "data"

    def encoded(
        self, contract: Contract, key: str, build: Callable[[], Built], *, purpose: str = ""
    ) -> Arrays:
        """Return this silo's arrays under ``key``, memory-mapped and read-only."""
        name = hashlib.sha256(f"{self.name} {key}".encode()).hexdigest()
        path = self._shared.directory / "encoded" / f"{name}.safetensors"
        if not path.exists():
            arrays = {each: np.ascontiguousarray(value) for each, value in build().items()}
            path.parent.mkdir(mode=0o700, exist_ok=True)
            made = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            made.write_bytes(safetensors.numpy.save(arrays))
            made.rename(path)
        return _mapped(path)

    def number(self, key: str) -> float | None:
        """Return the number under ``key``; silos share them, since a key says all that counts."""
        with self._shared.state.open() as database:
            row = database.execute("SELECT value FROM numbers WHERE key = ?", (key,)).fetchone()
        return None if row is None else float(row[0])

    def keep_number(self, key: str, value: float) -> None:
        """Keep a number, for all silos."""
        with self._shared.state.open() as database:
            database.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (key, value))

    def secret(self, run_id: str) -> bytes:
        """Return 32 bytes that depend on the simulation's random secret, the silo and the run."""
        return hmac.digest(self._root(), json.dumps([self.name, run_id]).encode(), "sha256")

    def lasting(self, purpose: str) -> bytes:
        """Return bytes that follow from the silo's name: a simulation is the same on any day."""
        return lasting_secret(made_up_root(self.name), purpose)

    def _root(self) -> bytes:
        with self._shared.state.open() as database:
            row = database.execute("SELECT key FROM secret").fetchone()
        if row is None:
            raise SourceUnreadable("the simulation has no secret; make its directory anew")
        return bytes(row[0])

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Reserve a use of the rows, once; return this silo's history of the run up to it.

        A simulated silo lives for one run and has no budget besides the run's.
        """
        run = (self.name, charge.run_id)
        with self._shared.state.open() as database:
            known = database.execute(
                "SELECT place FROM spends WHERE silo = ? AND step_id = ? AND mark = ?",
                (self.name, charge.step_id, charge.mark),
            ).fetchone()
            history = [
                (float(sigma), float(rate), int(count))
                for sigma, rate, count in database.execute(
                    "SELECT sigma, sample_rate, steps FROM spends"
                    " WHERE silo = ? AND run_id = ? AND place <= ? ORDER BY place",
                    (*run, 2**62 if known is None else known[0]),
                )
            ]
        if known is not None:
            return history
        history.append(charge.row)
        admit(history)
        with self._shared.state.open() as database:
            database.execute(
                "INSERT OR IGNORE INTO spends"
                " (silo, run_id, step_id, mark, mechanism, sigma, sample_rate, steps)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*run, charge.step_id, charge.mark, charge.mechanism, *charge.row),
            )
        return history

    def settle(self, step_id: str) -> None:
        """Do nothing: what is reserved has been spent."""

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what this silo has reserved in a run: mechanism and (σ, q, steps)."""
        with self._shared.state.open() as database:
            rows = database.execute(
                "SELECT mechanism, sigma, sample_rate, steps FROM spends"
                " WHERE silo = ? AND run_id = ? ORDER BY place",
                (self.name, run_id),
            ).fetchall()
        return [(str(mechanism), (float(s), float(q), int(n))) for mechanism, s, q, n in rows]

    def quote(self, account: str, rows: Sequence[HistoryRow], unit: Unit = "record") -> Account:
        """Return an account without limits."""
        return Account(account, 0, 0, ())

    def kept(self, run_id: str, name: str) -> bytes | None:
        """Return what a message of this run kept under ``name``."""
        with self._shared.state.open() as database:
            row = database.execute(
                "SELECT content FROM kept WHERE silo = ? AND run_id = ? AND name = ?",
                (self.name, run_id, name),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep ``content`` for the run's later messages."""
        with self._shared.state.open() as database:
            database.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)",
                (self.name, run_id, name, content),
            )

    def forget(self, run_id: str, name: str) -> None:
        """Delete what is kept under ``name``."""
        with self._shared.state.open() as database:
            database.execute(
                "DELETE FROM kept WHERE silo = ? AND run_id = ? AND name = ?",
                (self.name, run_id, name),
            )

    def sign_relay(self, value: Any) -> str:
        """Return a signature by a key that all silos of the simulation can derive."""
        return sign(self._signing_key(self.name), "relay", value)

    def is_partner_relay(self, silo: str, value: Any, signature: str) -> bool:
        """Return whether the simulated silo called so signed ``value``."""
        return is_signed(public_hex(self._signing_key(silo)), "relay", value, signature)

    def _signing_key(self, silo: str) -> Ed25519PrivateKey:
        secret = hmac.digest(self._root(), json.dumps(["sign", silo]).encode(), "sha256")
        return Ed25519PrivateKey.from_private_bytes(secret)

    def cards(self) -> Sequence[Card]:
        """Return nothing: all simulated silos have the same columns, and nobody released any."""
        return ()

    def histograms(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return nothing."""
        return {}

    @property
    def spreads(self) -> KeptSpreads:
        """How its rows were spread at the last training."""
        return KeptSpreads(self._own_directory() / "spreads")

    def begin_match(self, question: MatchQuestion) -> None:
        """Allow it: nobody is matched with anybody outside of a simulation."""

    def judge_match(
        self, run_id: str, partner: str, *, num_theirs: int, num_common: int | None = None
    ) -> None:
        """Allow it: nobody is matched with anybody outside of a simulation."""

    def match(self, handle: str, *, purpose: str = "") -> Match:
        """Return this silo's half of a match; the rows of a simulation never change."""
        kept = read_match(self._own_directory(), handle)
        kept.require_usable(purpose=purpose, fingerprint="", now=datetime.now(UTC))
        return kept

    def keep_match(self, match: Match) -> None:
        """Keep this silo's half of a match under its handle."""
        write_match(self._own_directory(), match)

    def keep_part(self, model: str, content: bytes, about: Mapping[str, Any]) -> None:
        """Keep this silo's part of a vertical model."""
        write_part(self._own_directory(), model, content, about)

    def part(self, model: str) -> bytes:
        """Return this silo's part of a model."""
        return read_part(self._own_directory(), model)

    def keep_scores(self, run_id: str, rows: pd.DataFrame) -> None:
        """Keep what a model says of rows."""
        write_scores(self._own_directory(), run_id, rows)

    def _own_directory(self) -> Path:
        place = self._shared.directory / "silos" / self.name
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place

    def remembered(self, step_id: str) -> Parcel | None:
        """Return this silo's newest answer, where it was to ``step_id``."""
        with self._shared.state.open() as database:
            row = database.execute(
                "SELECT header, body FROM replies WHERE silo = ? AND step_id = ?",
                (self.name, step_id),
            ).fetchone()
        return None if row is None else Parcel(bytes(row[0]), bytes(row[1]))

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep the newest answer, if it is not too large; the same can be computed again."""
        if reply.num_bytes > self._shared.state.most_bytes:
            return
        with self._shared.state.open() as database:
            database.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                (self.name, step_id, reply.header, reply.body),
            )

    def _require(self, contract: Contract) -> None:
        if contract.digest != self._shared.contract_digest:
            raise Refused("the table was cut for another contract", code="mapping")


def _mapped(path: Path) -> Arrays:
    """Return the arrays of a safetensors file without reading them."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    size = 8 + int.from_bytes(data[:8], "little")
    arrays: Arrays = {}
    for name, entry in json.loads(data[8:size]).items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        kind = _DTYPES[entry["dtype"]]
        count = (end - start) // kind.itemsize
        flat = np.frombuffer(data, kind, count, size + start) if count else np.empty(0, kind)
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
