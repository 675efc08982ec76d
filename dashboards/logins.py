"""Who may look at a page that others reach: users with passwords, or a proxy that knows them."""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from consilo.config import Config, parse, read_yaml
from consilo.errors import ConfigInvalid
from consilo.machine.files import write_atomic
from consilo.machine.locks import file_lock
from consilo.pages.sessions import Session, Sessions

Role = Literal["viewer", "reviewer"]
ROLES: tuple[Role, ...] = ("viewer", "reviewer")
"""A viewer sees every page; a reviewer is shown the commands that decide, too."""
USERS_FILE = "page-users.json"
CONFIG_FILE = "page.yaml"
SHORTEST_PASSWORD = 12
MOST_TRIES = 5
TRIES_IN_S = 300.0
_MOST_AT_ONCE = 2
_MOST_WHO = 10_000
_LONGEST = 1024


class Proxy(Config):
    """A proxy that has asked who somebody is."""

    address: str = Field(min_length=2, description="from which it connects; others are refused")
    header: str = Field(default="X-Forwarded-User", description="that says who somebody is")
    reviewers: list[str] = Field(default=[], description="whose role that is; others view")


class PageConfig(Config):
    """``HOME/page.yaml``: how the page is reached from elsewhere."""

    origins: list[str] = Field(default=[], description="by which browsers name it, https://HOST")
    proxy: Proxy | None = Field(default=None, description="instead of a login of the page's own")

    @classmethod
    def load(cls, home: Path) -> PageConfig:
        """Return what is written in ``home``; all that is by itself where nothing is."""
        path = home / CONFIG_FILE
        return parse(cls, read_yaml(path), where=str(path)) if path.exists() else cls()


class Users:
    """The users of one coordinator's page: names, roles, and argon2 hashes of passwords.

    Args:
        home: the coordinator's directory; the file in it is its user's alone.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / USERS_FILE
        self._at_once = threading.Semaphore(_MOST_AT_ONCE)  # a check takes 64 MiB

    def names(self) -> dict[str, Role]:
        """Return every user's role."""
        return {name: each["role"] for name, each in self._read().items()}  # type: ignore[misc]

    def add(self, name: str, password: str, role: Role) -> None:
        """Add a user, or give one another password and role.

        Raises:
            ConfigInvalid: where the name is none, or the password is too short.
        """
        from argon2 import PasswordHasher

        if not name.isprintable() or not 0 < len(name) <= 64 or name != name.strip():
            raise ConfigInvalid(name or "(empty)", ["expected a name of 1 to 64 letters"])
        if not SHORTEST_PASSWORD <= len(password) <= _LONGEST:
            raise ConfigInvalid(name, [f"a password has {SHORTEST_PASSWORD} characters or more"])
        hashed = PasswordHasher().hash(password)
        with file_lock(self.path.with_suffix(".lock")):
            known = {**self._read(), name: {"role": role, "hash": hashed}}
            write_atomic(self.path, json.dumps(known, indent=1, sort_keys=True).encode())

    def remove(self, name: str) -> None:
        """Take a user out; a page that runs knows them no more from then on.

        Raises:
            ConfigInvalid: where there is none of this name.
        """
        with file_lock(self.path.with_suffix(".lock")):
            known = self._read()
            if name not in known:
                raise ConfigInvalid(name, ["no user of this name"])
            del known[name]
            write_atomic(self.path, json.dumps(known, indent=1, sort_keys=True).encode())

    def role_of(self, name: str, password: str) -> Role | None:
        """Return the role of who gives the right password; None otherwise, in the same time."""
        from argon2 import PasswordHasher
        from argon2.exceptions import InvalidHashError, VerificationError

        known = self._read().get(name)
        with self._at_once:
            hasher = PasswordHasher()
            hashed = known["hash"] if known else hasher.hash(secrets.token_hex(8))
            try:
                hasher.verify(hashed, password[:_LONGEST])
            except (VerificationError, InvalidHashError):
                return None
        if known is None or known["role"] not in ROLES:
            return None
        return known["role"]

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found: dict[str, dict[str, str]] = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            said = "not what 'consilo page user add' writes; take it away and add the users again"
            raise ConfigInvalid(str(self.path), [said]) from None
        return found


class Tries:
    """Counts failed logins, by who tries and by whose name; too many are refused for a while.

    Args:
        now: seconds that only grow.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failed: dict[str, deque[float]] = {}

    def require(self, *who: str) -> None:
        """Raise where one of these has failed too often of late.

        Raises:
            HTTPException: 429, with when to try again.
        """
        with self._lock:
            waits = [wait for each in who if (wait := self._wait_s(each)) > 0]
        if waits:
            seconds = int(max(waits)) + 1
            raise HTTPException(
                429,
                f"too many logins have failed; try again in {seconds} s",
                {"Retry-After": str(seconds)},
            )

    def failed(self, *who: str) -> None:
        """Count a failure."""
        with self._lock:
            while len(self._failed) > _MOST_WHO:
                del self._failed[next(iter(self._failed))]
            for each in who:
                self._failed.setdefault(each, deque(maxlen=MOST_TRIES)).append(self._now())

    def _wait_s(self, who: str) -> float:
        times = self._failed.get(who)
        if times is None or len(times) < MOST_TRIES:
            return 0.0
        return times[0] + TRIES_IN_S - self._now()


class UserSessions(Sessions):
    """Sessions of users who are still there, with the role that they have now.

    Args:
        cookie: its name.
        users: who may look.
    """

    def __init__(self, cookie: str, users: Users) -> None:
        super().__init__(cookie, secure=True)
        self._users = users

    def of(self, request: Request) -> Session | None:
        """Return whose request it is; None where nobody's, or where the user was taken out."""
        session = super().of(request)
        role = None if session is None else self._users.names().get(session.who)
        if session is None or role is None:
            return None
        return replace(session, roles=roles_of(role))


class ProxySessions(Sessions):
    """Whose request it is, as a declared proxy says in a header; nobody's where it does not.

    A form's token is made from the name, so that nothing is kept.
    """

    def __init__(self, proxy: Proxy) -> None:
        super().__init__("consilo_unused", secure=True)
        self._proxy = proxy
        self._secret = secrets.token_bytes(32)

    def of(self, request: Request) -> Session | None:
        """Return whose request it is; None where it does not come from the proxy, or names none."""
        said = request.headers.getlist(self._proxy.header)
        if request.client is None or request.client.host != self._proxy.address or len(said) != 1:
            return None
        who = said[0].strip()
        if not who or not who.isprintable():
            return None
        csrf = hmac.new(self._secret, who.encode(), "sha256").hexdigest()
        roles: set[str] = {"viewer"}
        if who in self._proxy.reviewers:
            roles.add("reviewer")
        return Session(who, frozenset(roles), csrf, self.now() + self.lasts_s)


def roles_of(role: Role) -> frozenset[str]:
    """Return what a user of a role may do: a reviewer views, too."""
    return frozenset(ROLES if role == "reviewer" else ("viewer",))


def said_by(form: Mapping[str, str]) -> tuple[str, str]:
    """Return name and password of a login's form."""
    return form.get("name", "").strip(), form.get("password", "")
