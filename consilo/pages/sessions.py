"""Who looks at a page: a cookie that begins with a one-time token or a login, kept in memory."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from starlette.requests import Request
from starlette.responses import Response

LASTS_S = 12 * 3600.0
_MOST_SESSIONS = 1_000


@dataclass(frozen=True)
class Session:
    """One person at one browser.

    Args:
        who: a name, for what they decide; empty where a page knows no names.
        roles: what they may do.
        csrf: what each of their forms says, so that no other site can send one.
        ends: when, in seconds of `Sessions.now`.
    """

    who: str
    roles: frozenset[str]
    csrf: str
    ends: float

    def wrote(self, csrf: str) -> bool:
        """Return whether a form with this token was drawn for this person."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


@dataclass
class Sessions:
    """All sessions of one page; a restart ends them.

    Args:
        cookie: its name; cookies of one machine do not know ports, so that it names ours.
        secure: whether the page is reached by TLS only.
        lasts_s: how long a session lasts.
        now: seconds of a clock that does not go back.
    """

    cookie: str
    secure: bool = False
    lasts_s: float = LASTS_S
    now: Callable[[], float] = time.monotonic
    _open: dict[str, Session] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def begin(self, response: Response, *, who: str = "", roles: frozenset[str]) -> Session:
        """Begin a session; the response carries its cookie."""
        secret = secrets.token_urlsafe(32)
        session = Session(who, roles, secrets.token_urlsafe(32), self.now() + self.lasts_s)
        with self._lock:
            for key in [key for key, each in self._open.items() if each.ends <= self.now()]:
                del self._open[key]
            while len(self._open) >= _MOST_SESSIONS:  # the one that was begun first
                del self._open[next(iter(self._open))]
            self._open[_digest(secret)] = session
        response.set_cookie(
            self.cookie,
            secret,
            max_age=int(self.lasts_s),
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="strict",
        )
        return session

    def of(self, request: Request) -> Session | None:
        """Return whose request it is; None where it has no cookie of ours that lasts yet."""
        session = self._open.get(_digest(request.cookies.get(self.cookie, "")))
        return session if session is not None and session.ends > self.now() else None

    def end(self, request: Request) -> None:
        """Forget whose request it is."""
        with self._lock:
            self._open.pop(_digest(request.cookies.get(self.cookie, "")), None)


@dataclass
class OneTimeToken:
    """What the printed address ends with: whoever opens it first is the operator.

    Args:
        sessions: where theirs begins.
        roles: what they may do.
    """

    sessions: Sessions
    roles: frozenset[str] = frozenset()
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _lock: Lock = field(default_factory=Lock)
    _used: bool = False

    def take(self, offered: str, response: Response) -> bool:
        """Return whether it was the token, for the first time; then the response has the cookie."""
        with self._lock:
            right = hmac.compare_digest(self.token.encode(), offered.encode()) and not self._used
            self._used = self._used or right
        if right:
            self.sessions.begin(response, roles=self.roles)
        return right


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
