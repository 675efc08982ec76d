"""What the coordinator decides about members, on its own files; no network.

```
HOME/
  coordinator.yaml   where silos reach us: host, port, advertise
  keys/              ca.*, server.*, record.key, operator.token
  members.db         `consilo.membership.members.Members`
  audit.jsonl        every change and every refusal, hash-chained
  restored.jsonl     each restore from a backup (`consilo.membership.restored`), if there was one
```
All of it works whether or not the SuperLink is up: its door reads the same files and notices a
change within a second.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from consilo.config import Config, parse, read_yaml
from consilo.errors import ConfigInvalid
from consilo.machine.files import make_directory, move, write_atomic
from consilo.membership.calendar import expiries, trusted
from consilo.membership.invitation import Invitation, token_sha256
from consilo.membership.keys import (
    Authority,
    fingerprint,
    issue_member_certificate,
    load_or_create_authority,
    load_or_create_signing_key,
    public_key_hex,
    public_pem,
    renew_server,
    write_new_authority,
    write_private,
)
from consilo.membership.members import (
    MAX_CERTIFICATES_PER_DAY,
    OVERLAP_DAYS,
    Member,
    Members,
    iso,
)
from consilo.membership.notify import Notify
from consilo.membership.restored import restores_of
from consilo.record.chain import Chain
from consilo.record.traces import traces_of
from consilo.silo_name import require_name
from consilo.wire.signing import public_hex, sign
from consilo.yaml_text import to_yaml

CERTIFICATE_DAYS = 365
INVITATION_DAYS = 7
TOKEN_FILE = "operator.token"
LIST_PURPOSE = "membership"


class Keep(Config):
    """For how many days a coordinator keeps what no decision and no registered model rests on."""

    checkpoints_days: int = Field(default=30, ge=1, description="of runs that have ended")
    logs_days: int = Field(default=30, ge=1, description="of pipelines, in logs/")
    results_days: int = Field(default=30, ge=1, description="summaries of pipelines, in results/")
    flow_runs_days: int = Field(
        default=90, ge=1, description="that have ended: in Prefect, with their logs and artifacts"
    )


class Queue(Config):
    """How many runs that people start with ``consilo job run`` a coordinator takes."""

    at_once: int = Field(default=4, ge=1, le=100, description="a process of 0.6 GB each")
    waiting: int = Field(
        default=100, ge=0, le=10_000, description="for their turn; others are refused"
    )


class Reachable(Config):
    """``HOME/coordinator.yaml``: where this coordinator answers; kept over restarts."""

    host: str = Field(default="127.0.0.1", description="address that the SuperLink binds to")
    port: int = Field(ge=1, le=65535)
    advertise: str = Field(default="", description="host that silos use; else host")
    prefect_port: int | None = Field(default=None, ge=1, le=65535, description="on 127.0.0.1")
    mlflow_port: int | None = Field(default=None, ge=1, le=65535, description="on 127.0.0.1")
    page_port: int | None = Field(
        default=None, ge=1, le=65535, description="of the federation's page, on 127.0.0.1"
    )
    keep: Keep = Field(default=Keep(), description="how long what lapses is kept")
    queue: Queue = Field(default=Queue(), description="how many runs it takes")
    notify: Notify = Field(default=Notify(), description="who is told when people are needed")

    @property
    def address(self) -> str:
        """What silos connect to: host:port."""
        return f"{self.advertise or self.host}:{self.port}"

    @classmethod
    def load(cls, home: Path) -> Reachable | None:
        """Return what is written in ``home``; None where nothing is."""
        path = home / "coordinator.yaml"
        return parse(cls, read_yaml(path), where=str(path)) if path.exists() else None

    def save(self, home: Path) -> None:
        """Write it down."""
        text = to_yaml(self.model_dump(mode="json"))
        write_atomic(home / "coordinator.yaml", text.encode())


def operator_token(keys: Path) -> str:
    """Return the token that opens the control API, made first if there is none: 64 digits."""
    path = keys / TOKEN_FILE
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # another process was faster
            write_private(path, secrets.token_hex(32).encode())
    return path.read_text(encoding="ascii").strip()


def finish_new_authority(keys: Path) -> None:
    """Put the announced authority's certificate beside its key; safe after a crash between both."""
    if (keys / "ca.next.crt").exists() and not (keys / "ca.next.key").exists():
        move(keys / "ca.next.crt", keys / "ca.crt")


class Coordinator:
    """The members of one federation and the authority that certifies them.

    Args:
        home: the coordinator's directory.
        keys: the folder of its keys; ``keys`` below home unless told otherwise.
        now: the clock.
    """

    def __init__(
        self,
        home: Path,
        *,
        keys: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        make_directory(home, mode=0o700)
        self.home = home
        self.keys = keys or home / "keys"
        self.now = now
        self.audit = Chain(home / "audit.jsonl")
        finish_new_authority(self.keys)
        self.authority: Authority = load_or_create_authority(self.keys)
        self.signing_key = load_or_create_signing_key(self.keys / "record.key")
        self.members = Members(home / "members.db", self.audit, now=now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the list."""
        self.members.close()

    # What silos are told.

    @property
    def signing_keys(self) -> tuple[str, ...]:
        """The public keys that may sign requests, in hexadecimal."""
        found = [public_hex(self.signing_key)]
        coming, gone = self.keys / "record.next.key", self.keys / "record.old.key.pub"
        if coming.exists():
            found.append(public_hex(load_or_create_signing_key(coming)))
        if gone.exists():
            found.append(public_key_hex(gone))
        return tuple(found)

    @property
    def ca_sha256(self) -> str:
        """SHA-256 of the CA certificate, in hexadecimal."""
        return fingerprint(
            x509.load_pem_x509_certificate(self.authority.ca_certificate.read_bytes())
        )

    def trusted(self) -> list[x509.Certificate]:
        """Return the authorities whose certificates silos should accept, the present one first."""
        return trusted(self.keys)

    def statement(self, name: str) -> dict[str, Any]:
        """Return what a silo is told of itself and of the others, signed by the coordinator."""
        member = self.members.known(name)
        others = self.members.admitted() if member.state == "admitted" else {}
        said: dict[str, Any] = {
            "name": name,
            "state": member.state,
            "time": iso(self.now()),
            "certificates": {
                key.fingerprint: key.certificate for key in member.keys if key.certificate
            },
            "ca": [each.public_bytes(Encoding.PEM).decode() for each in self.trusted()],
            "signing_keys": list(self.signing_keys),
            "members": {each.name: each.signing_key for each in others.values()},
        }
        if restores := restores_of(self.home):
            said["restored"] = restores
        if member.state == "removed":
            said["traces"] = traces_of(name, self.home / "runs").to_json()
        return {"statement": said, "signature": sign(self.signing_key, LIST_PURPOSE, said)}

    # What an operator does.

    def invite(self, name: str, address: str, *, days: float = INVITATION_DAYS) -> Invitation:
        """Return a new invitation for a silo; a former one of this name no longer holds.

        Raises:
            ConfigInvalid: where the name is taken or none.
        """
        require_name(name, where=name)
        token = secrets.token_hex(32)
        expires = iso(self.now() + timedelta(days=days))
        self.members.invite(name, token_sha256(token), expires)
        bare = Invitation(name, address, self.ca_sha256, self.signing_keys[0], token, expires)
        return bare.signed(self.signing_key)

    def admit(self, name: str, *, days: int = CERTIFICATE_DAYS) -> Member:
        """Admit a pending or suspended silo; it gets a certificate if it has none that is valid.

        Raises:
            ConfigInvalid: where it is neither, or its keys are over.
        """
        if self.members.known(name).state in ("pending", "suspended", "admitted"):
            _require_key(self.members.known(name))
        self.members.set_state(name, "admitted", by="operator")
        member = self.members.known(name)
        if member.valid_until <= iso(self.now()):
            self._certify(member, days)
        return self.members.known(name)

    def suspend(self, name: str) -> None:
        """Let a silo do nothing until it is admitted again."""
        self.members.set_state(name, "suspended", by="operator")

    def remove(self, name: str, *, by: str = "operator") -> None:
        """Strike a silo off: certificates revoked, keys never accepted again."""
        self.members.set_state(name, "removed", by=by)

    def renew(self, name: str, *, days: int = CERTIFICATE_DAYS) -> Member:
        """Give an admitted silo a new certificate for its newest key; the old one stays valid.

        Raises:
            ConfigInvalid: where it is not admitted, its keys are over, or it has had too many of
                late.
        """
        member = self._admitted(name)
        _require_key(member)
        self._certify(member, days)
        return self.members.known(name)

    def change_key(
        self,
        name: str,
        public: bytes,
        *,
        overlap_days: float = OVERLAP_DAYS,
        days: int = CERTIFICATE_DAYS,
    ) -> Member:
        """Take up a further node key of an admitted silo; both are valid for the overlap.

        Asked again with the newest key, it changes nothing.

        Raises:
            ConfigInvalid: where it is not admitted, or the key was used before.
        """
        member = self._admitted(name)
        if public.strip() != member.node_key.strip():
            self.members.add_node_key(name, public, overlap_days=overlap_days)
            self._certify(self.members.known(name), days)
        return self.members.known(name)

    def renew_server(self, *, days: int = CERTIFICATE_DAYS) -> str:
        """Give the server a new key and certificate below the same authority; return its end."""
        until = iso(renew_server(self.keys, now=self.now(), valid_days=days))
        self.members.note("server_certificate_renewed", until=until)
        return until

    def renew_authority(self, *, force: bool = False) -> str:
        """Announce a new certificate authority; called again, move to it. Return what was done.

        Silos fetch what is announced with the list of members and trust both. Certificates by the
        old one stay valid until their end.

        Args:
            force: move although some silos have not fetched it.

        Raises:
            ConfigInvalid: where somebody has not fetched it yet.
        """
        certificate, key = self.keys / "ca.next.crt", self.keys / "ca.next.key"
        if not certificate.exists():
            write_new_authority(certificate, key, now=self.now())
            mark = fingerprint(x509.load_pem_x509_certificate(certificate.read_bytes()))
            self.members.note("authority_announced", sha256=mark)
            return f"announced {mark[:16]}…; run this again once every silo has fetched it"
        self._require_fetched(certificate, "certificate authority", force=force)
        write_atomic(self.keys / "ca.old.crt", self.authority.ca_certificate.read_bytes())
        move(key, self.keys / "ca.key")
        finish_new_authority(self.keys)
        renew_server(self.keys, now=self.now(), valid_days=CERTIFICATE_DAYS)
        self.members.note("authority_changed", sha256=self.ca_sha256)
        return f"the certificate authority is {self.ca_sha256[:16]}… now"

    def renew_signing_key(self, *, force: bool = False) -> str:
        """Announce a new key that signs requests and records; called again, move to it.

        Silos take announced keys with the list of members. The old key's public half is kept: runs
        that began with it go on, and records that it signed stay verifiable.

        Args:
            force: move although some silos have not fetched it.

        Raises:
            ConfigInvalid: where somebody has not fetched it yet.
        """
        key, present = self.keys / "record.next.key", self.keys / "record.key"
        if not key.exists():
            mark = public_hex(load_or_create_signing_key(key))
            self.members.note("signing_key_announced", signing_key=mark)
            return f"announced {mark[:16]}…; run this again once every silo has fetched it"
        self._require_fetched(key, "signing key", force=force)
        write_atomic(self.keys / "record.old.key.pub", public_pem(self.signing_key))
        move(key, present)
        key.with_name(key.name + ".pub").unlink(missing_ok=True)
        self.signing_key = load_or_create_signing_key(present)
        mark = public_hex(self.signing_key)
        self.members.note("signing_key_changed_here", signing_key=mark)
        return f"requests and records are signed by {mark[:16]}… now"

    def _require_fetched(self, announced: Path, what: str, *, force: bool) -> None:
        since = iso(datetime.fromtimestamp(announced.stat().st_mtime, UTC))
        late = [n for n, each in self.members.admitted().items() if each.refreshed <= since]
        if late and not force:
            raise ConfigInvalid(
                what,
                [
                    f"not fetched yet by {', '.join(late)}; wait (nodes ask every ten minutes), or "
                    "give --yes: a silo that has not fetched it must be invited again"
                ],
            )

    def _admitted(self, name: str) -> Member:
        member = self.members.known(name)
        if member.state != "admitted":
            raise ConfigInvalid(name, [f"this silo is {member.state}, not admitted"])
        if self.members.issued_today(name) >= MAX_CERTIFICATES_PER_DAY:
            raise ConfigInvalid(
                name, [f"it had {MAX_CERTIFICATES_PER_DAY} certificates within 24 hours; wait"]
            )
        return member

    def _certify(self, member: Member, days: int) -> None:
        public = member.node_key
        made = issue_member_certificate(
            self.keys, member.name, public, now=self.now(), valid_days=days
        )
        self.members.certify(member.name, made, public)

    def expiries(self) -> list[tuple[str, str, str]]:
        """Return the calendar: (when, whose, what), the next one first."""
        return expiries(self.keys, self.members.all())


def _require_key(member: Member) -> None:
    if not member.keys:
        over = "the keys of its node are over; remove it, and invite it anew to make others"
        raise ConfigInvalid(member.name, [over])
