"""The list of members: one SQLite file at the coordinator, ``HOME/members.db``.

States: ``invited`` (a token is out), ``pending`` (keys have arrived, a person must admit them),
``admitted``, ``suspended`` (may come back), ``removed`` (its keys never again). Every change is
written to the audit chain in the same transaction, before it takes effect. Several processes may
change the list; `Members.changed` tells a reader that somebody else has.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from consilo.errors import ConfigInvalid
from consilo.machine.database import open_database, transaction
from consilo.machine.files import make_directory
from consilo.membership.keys import key_fingerprint
from consilo.membership.software import Software
from consilo.record.chain import Chain
from consilo.silo_name import fault_of

State = Literal["invited", "pending", "admitted", "suspended", "removed"]

SIGNING_DAYS = 2 * 365
OVERLAP_DAYS = 7
MAX_CERTIFICATES_PER_DAY = 10

_SCHEMA = """
CREATE TABLE IF NOT EXISTS members (
  name TEXT PRIMARY KEY, state TEXT NOT NULL,
  signing_key TEXT NOT NULL DEFAULT '', signing_until TEXT NOT NULL DEFAULT '',
  software TEXT NOT NULL DEFAULT '', invited TEXT NOT NULL DEFAULT '',
  first_seen TEXT NOT NULL DEFAULT '', last_seen TEXT NOT NULL DEFAULT '',
  refreshed TEXT NOT NULL DEFAULT '', token TEXT NOT NULL DEFAULT '',
  token_expires TEXT NOT NULL DEFAULT '', token_used INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS node_keys (
  fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL, generation INTEGER NOT NULL,
  public BLOB NOT NULL, added TEXT NOT NULL, valid_until TEXT NOT NULL,
  UNIQUE (name, generation)
);
CREATE TABLE IF NOT EXISTS certificates (
  serial TEXT PRIMARY KEY, name TEXT NOT NULL, fingerprint TEXT NOT NULL, pem TEXT NOT NULL,
  issued TEXT NOT NULL, valid_until TEXT NOT NULL, revoked TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS used_signing_keys (signing_key TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY, expires TEXT NOT NULL);
"""


@dataclass(frozen=True)
class NodeKey:
    """One of a silo's keys at the SuperLink; two while one replaces the other.

    Args:
        generation: 1, 2, … in the order of their arrival.
        public: in the OpenSSH format.
        fingerprint: SHA-256 of its DER form, in hexadecimal.
        added: when it came.
        valid_until: not accepted from then on.
        certificate: its newest certificate in PEM; empty before admission.
    """

    generation: int
    public: bytes
    fingerprint: str
    added: str
    valid_until: str
    certificate: str


@dataclass(frozen=True)
class Member:
    """A silo as the coordinator knows it. Times are ISO 8601 in UTC; empty where never.

    Args:
        name: the silo's.
        state: see the module.
        keys: of its node, oldest first.
        signing_key: Ed25519, raw, in hexadecimal: signs its replies and its calls here.
        signing_until: when that key should have been replaced.
        software: what runs there, by its newest hello.
        invited: when it was invited.
        first_seen: when its keys arrived.
        last_seen: when its node called last, to within half a minute.
        refreshed: when it fetched the list of members last.
    """

    name: str
    state: State
    keys: tuple[NodeKey, ...]
    signing_key: str
    signing_until: str
    software: Software
    invited: str
    first_seen: str
    last_seen: str
    refreshed: str

    @property
    def node_key(self) -> bytes:
        """Its newest node key in the OpenSSH format; empty where none has arrived."""
        return self.keys[-1].public if self.keys else b""

    @property
    def wire(self) -> tuple[int, ...]:
        """The wire versions that it speaks."""
        return self.software.wire

    @property
    def certificate(self) -> str:
        """The newest certificate in PEM; empty before admission."""
        return self.keys[-1].certificate if self.keys else ""

    @property
    def valid_until(self) -> str:
        """When its newest certificate ends; empty before admission."""
        if not self.certificate:
            return ""
        found = x509.load_pem_x509_certificate(self.certificate.encode())
        return iso(found.not_valid_after_utc)

    def standing(self, now: datetime) -> str:
        """Return why it is not asked at ``now``; empty where it is."""
        if self.state != "admitted":
            return self.state
        return "certificate expired" if self.valid_until <= iso(now) else ""


@dataclass(frozen=True)
class Presented:
    """What the list says of a certificate that somebody shows.

    Args:
        name: whose it is.
        state: of the member.
        fingerprint: of the key that it certifies.
        revoked: whether the coordinator has withdrawn it.
        key_until: when its key is no longer accepted.
    """

    name: str
    state: State
    fingerprint: str
    revoked: bool
    key_until: str


def iso(time: datetime) -> str:
    """Return a time in UTC, ISO 8601, to the second; such texts compare as their times do."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


class Members:
    """The list of members; usable from several threads.

    Args:
        path: the database; made where it is missing, mode 0600.
        audit: gets an entry for every change.
        now: the clock.
    """

    def __init__(
        self, path: Path, audit: Chain, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        make_directory(path.parent, mode=0o700)
        self.audit = audit
        self.now = now
        self._lock = threading.RLock()
        self._db = open_database(  # written ahead: the gate reads while others write
            path, lasting=True, begin=None, wal=True, schema=_SCHEMA
        )
        self._version = self._data_version()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._db.close()

    # Reading.

    def changed(self) -> bool:
        """Return whether another process has changed the list since this was last asked."""
        with self._lock:
            before, self._version = self._version, self._data_version()
            return before != self._version

    def get(self, name: str) -> Member | None:
        """Return a member of any state."""
        with self._lock:
            row = self._row(name)
            return None if row is None else self._member(row)

    def known(self, name: str) -> Member:
        """Return a member of any state.

        Raises:
            ConfigInvalid: where there is none of this name.
        """
        member = self.get(name)
        if member is None:
            unknown = "no silo of this name; 'consilo silos list' shows them, 'invite' adds one"
            raise ConfigInvalid(name, [fault_of(name) or unknown])
        return member

    def all(self) -> dict[str, Member]:
        """Return every member by name, removed ones too."""
        with self._lock:
            rows = self._db.execute(f"{_SELECT} ORDER BY name").fetchall()
            return {row[0]: self._member(row) for row in rows}

    def admitted(self) -> dict[str, Member]:
        """Return the admitted members by name."""
        return {name: each for name, each in self.all().items() if each.state == "admitted"}

    def presented(self, serial: int) -> Presented | None:
        """Return what is known of the certificate with this serial number."""
        with self._lock:
            row = self._db.execute(
                "SELECT m.name, m.state, c.fingerprint, c.revoked, k.valid_until FROM certificates"
                " c JOIN members m ON m.name = c.name JOIN node_keys k ON k.fingerprint ="
                " c.fingerprint AND k.name = c.name WHERE c.serial = ?",
                (str(serial),),
            ).fetchone()
        if row is None:
            return None
        return Presented(row[0], cast(State, row[1]), row[2], bool(row[3]), row[4])

    def certificates(self, name: str) -> list[x509.Certificate]:
        """Return a member's certificates that are neither revoked nor over, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT pem FROM certificates WHERE name = ? AND revoked = '' AND valid_until > ?"
                " ORDER BY issued, rowid",
                (name, iso(self.now())),
            ).fetchall()
        return [x509.load_pem_x509_certificate(row[0].encode()) for row in rows]

    def issued_today(self, name: str) -> int:
        """Return how many certificates a member got within the last 24 hours."""
        since = iso(self.now() - timedelta(days=1))
        with self._lock:
            row = self._db.execute(
                "SELECT COUNT(*) FROM certificates WHERE name = ? AND issued > ?", (name, since)
            ).fetchone()
        return int(row[0])

    def invited_by(self, token_sha256: str) -> tuple[Member, str, bool] | None:
        """Return who was invited with a token, when it ends, and whether it was used."""
        with self._lock:
            row = self._db.execute(
                f"{_SELECT} WHERE token = ? AND token != ''", (token_sha256,)
            ).fetchone()
            if row is None:
                return None
            expires, used = self._db.execute(
                "SELECT token_expires, token_used FROM members WHERE name = ?", (row[0],)
            ).fetchone()
            return self._member(row), str(expires), bool(used)

    # Changing.

    def invite(self, name: str, token_sha256: str, expires: str) -> None:
        """Note an invitation; a former one of this name no longer holds.

        Raises:
            ConfigInvalid: where the name is taken.
        """
        with self._change("silo_invited", silo=name, expires=expires) as db:
            row = self._row(name)
            if row is not None and row[1] not in ("invited", "removed"):
                raise ConfigInvalid(
                    name, [f"this silo is {row[1]} already; remove it before you invite it anew"]
                )
            db.execute(
                "INSERT INTO members (name, state, invited, token, token_expires)"
                " VALUES (?, 'invited', ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
                " state = 'invited', invited = excluded.invited, token = excluded.token,"
                " token_expires = excluded.token_expires, token_used = 0, signing_key = '',"
                " signing_until = '', software = '', first_seen = '', last_seen = ''",
                (name, iso(self.now()), token_sha256, expires),
            )

    def enrol(self, name: str, node_key: bytes, signing_key: str, software: Software) -> None:
        """Note the keys of an invited silo, which waits for admission then.

        Raises:
            ConfigInvalid: where it is not invited, or a key is known already.
        """
        mark = key_fingerprint(node_key)
        with self._change(
            "silo_pending", silo=name, node_key=mark, signing_key=signing_key, wire=software.wire
        ) as db:
            row = self._row(name)
            if row is None or row[1] != "invited":
                raise ConfigInvalid(name, ["this silo is not invited"])
            now = self.now()
            self._add_key(name, node_key, iso(now + timedelta(days=SIGNING_DAYS)))
            self._add_signing_key(name, signing_key)
            db.execute(
                "UPDATE members SET state = 'pending', signing_key = ?, signing_until = ?,"
                " software = ?, first_seen = ?, last_seen = ?, token_used = 1 WHERE name = ?",
                (
                    signing_key,
                    iso(now + timedelta(days=SIGNING_DAYS)),
                    json.dumps(software.to_json()),
                    iso(now),
                    iso(now),
                    name,
                ),
            )

    def set_state(self, name: str, state: State, *, by: str) -> None:
        """Admit, suspend or remove; removing revokes its certificates and forgets its token.

        Args:
            name: the silo's.
            state: the new one.
            by: who wanted it: ``operator`` or ``silo``.

        Raises:
            ConfigInvalid: where that cannot be.
        """
        with self._change(f"silo_{state}", silo=name, by=by) as db:
            old = self.known(name).state
            if old not in _FROM[state]:
                raise ConfigInvalid(name, [f"this silo is {old}; it cannot become {state}"])
            db.execute("UPDATE members SET state = ? WHERE name = ?", (state, name))
            if state == "removed":
                now = iso(self.now())
                db.execute("UPDATE members SET token = '' WHERE name = ?", (name,))
                db.execute(
                    "UPDATE certificates SET revoked = ? WHERE name = ? AND revoked = ''",
                    (now, name),
                )
                db.execute(
                    "UPDATE node_keys SET valid_until = ? WHERE name = ? AND valid_until > ?",
                    (now, name, now),
                )

    def certify(self, name: str, certificate: x509.Certificate, public_key: bytes) -> None:
        """Note a certificate that was issued to a member."""
        mark, until = key_fingerprint(public_key), iso(certificate.not_valid_after_utc)
        serial = certificate.serial_number
        with self._change(
            "certificate_issued", silo=name, serial=str(serial), key=mark, until=until
        ) as db:
            db.execute(
                "INSERT INTO certificates (serial, name, fingerprint, pem, issued, valid_until)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    str(serial),
                    name,
                    mark,
                    certificate.public_bytes(Encoding.PEM).decode(),
                    iso(self.now()),
                    until,
                ),
            )

    def add_node_key(self, name: str, public: bytes, *, overlap_days: float) -> None:
        """Take up a further key of a member; its older ones end after the overlap.

        Raises:
            ConfigInvalid: where the key is known already.
        """
        now = self.now()
        ends = iso(now + timedelta(days=overlap_days))
        with self._change(
            "node_key_added", silo=name, node_key=key_fingerprint(public), older_until=ends
        ) as db:
            db.execute(
                "UPDATE node_keys SET valid_until = MIN(valid_until, ?) WHERE name = ?",
                (ends, name),
            )
            self._add_key(name, public, iso(now + timedelta(days=SIGNING_DAYS)))

    def set_signing_key(self, name: str, signing_key: str) -> None:
        """Put a new signing key in the place of the old one.

        Raises:
            ConfigInvalid: where the key is known already.
        """
        with self._change("signing_key_changed", silo=name, signing_key=signing_key) as db:
            self._add_signing_key(name, signing_key)
            until = iso(self.now() + timedelta(days=SIGNING_DAYS))
            db.execute(
                "UPDATE members SET signing_key = ?, signing_until = ? WHERE name = ?",
                (signing_key, until, name),
            )

    def note_software(self, name: str, software: Software) -> None:
        """Note what runs at a member."""
        with self._change("silo_hello", silo=name, **software.to_json()) as db:
            db.execute(
                "UPDATE members SET software = ?, last_seen = ? WHERE name = ?",
                (json.dumps(software.to_json()), iso(self.now()), name),
            )

    def saw(self, names: Iterable[str]) -> None:
        """Note that members have called; no change of membership."""
        now = iso(self.now())
        with self._transaction() as db:
            db.executemany(
                "UPDATE members SET last_seen = ? WHERE name = ?", [(now, name) for name in names]
            )

    def note_refresh(self, name: str) -> None:
        """Note that a member has fetched the list of members."""
        with self._transaction() as db:
            db.execute("UPDATE members SET refreshed = ? WHERE name = ?", (iso(self.now()), name))

    def note(self, kind: str, **body: Any) -> None:
        """Write something of the coordinator's own to the audit chain, and let readers look."""
        with self._change(kind, **body) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            db.execute(f"PRAGMA user_version = {int(version) + 1}")

    def use_nonce(self, nonce: str, *, keep_s: int) -> bool:
        """Note a nonce for ``keep_s`` seconds; return whether it is new."""
        now = self.now()
        with self._transaction() as db:
            db.execute("DELETE FROM nonces WHERE expires < ?", (iso(now),))
            expires = iso(now + timedelta(seconds=keep_s))
            done = db.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?)", (nonce, expires))
            return done.rowcount == 1

    # Inside.

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _row(self, name: str) -> Any:
        return self._db.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()

    def _member(self, row: Any) -> Member:
        name, state, signing_key, signing_until, software, *times = row
        keys = self._db.execute(
            "SELECT k.generation, k.public, k.fingerprint, k.added, k.valid_until, COALESCE("
            "(SELECT pem FROM certificates c WHERE c.fingerprint = k.fingerprint AND c.name ="
            " k.name AND c.revoked = '' ORDER BY c.issued DESC, c.rowid DESC LIMIT 1), '')"
            " FROM node_keys k WHERE k.name = ? AND k.valid_until > ? ORDER BY k.generation",
            (name, iso(self.now())),
        ).fetchall()
        return Member(
            name,
            cast(State, state),
            tuple(NodeKey(*key) for key in keys),
            signing_key,
            signing_until,
            Software.parse(json.loads(software)) if software else Software(),
            *times,
        )

    def _add_key(self, name: str, public: bytes, until: str) -> None:
        mark = key_fingerprint(public)
        taken = self._db.execute(
            "SELECT name FROM node_keys WHERE fingerprint = ?", (mark,)
        ).fetchone()
        if taken is not None:
            raise ConfigInvalid(
                name, [f"this node key was used before, by {taken[0]}; every silo makes its own"]
            )
        (last,) = self._db.execute(
            "SELECT COALESCE(MAX(generation), 0) FROM node_keys WHERE name = ?", (name,)
        ).fetchone()
        self._db.execute(
            "INSERT INTO node_keys VALUES (?, ?, ?, ?, ?, ?)",
            (mark, name, last + 1, public, iso(self.now()), until),
        )

    def _add_signing_key(self, name: str, signing_key: str) -> None:
        try:
            self._db.execute("INSERT INTO used_signing_keys VALUES (?, ?)", (signing_key, name))
        except sqlite3.IntegrityError:
            raise ConfigInvalid(
                name, ["this signing key was used before; every silo makes its own"]
            ) from None

    @contextlib.contextmanager
    def _change(self, kind: str, **body: Any) -> Iterator[sqlite3.Connection]:
        """Hold a transaction; its audit entry is on disk before it is committed."""
        with self._transaction() as db:
            yield db
            self.audit.append(kind, **body)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, transaction(self._db):
            yield self._db


_SELECT = (
    "SELECT name, state, signing_key, signing_until, software, invited, first_seen, last_seen,"
    " refreshed FROM members"
)
_FROM: dict[State, tuple[State, ...]] = {
    "invited": (),
    "pending": (),
    "admitted": ("pending", "suspended", "admitted"),
    "suspended": ("admitted", "suspended"),
    "removed": ("invited", "pending", "admitted", "suspended"),
}
