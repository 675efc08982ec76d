"""``coordinator.yaml: notify: …``: who is told when people are needed; secrets are named, not told.

```yaml
notify:
  email: {to: [ops@example.org], sender: consilo@example.org, host: mail.example.org, user: consilo,
          password_env: CONSILO_SMTP_PASSWORD}
  webhook: {url_file: secrets/webhook.url}
```
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from consilo.config import Config
from consilo.errors import ConfigInvalid
from consilo.finding_words import Form

Kind = Literal["run", "waiting", "candidate", "champion", "alias", "expiring", "unowned"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_Address = Annotated[str, Form(r"[^@\s,;<>]+@[^@\s,;<>]+", "an e-mail address")]
_Variable = Annotated[str, Form("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]


class _Secret(Config):
    """What is told by an environment variable, or by a file that its owner alone may read."""

    @staticmethod
    def read(home: Path, variable: str | None, file: Path | None, *, key: str) -> str:
        """Return a secret; empty where neither is named.

        Raises:
            ConfigInvalid: where it is not there, or others may read it. It is never quoted.
        """
        if variable is not None:
            value = os.environ.get(variable, "")
            if not value:
                raise ConfigInvalid(
                    "coordinator.yaml", [f"notify.{key}_env: {variable} is not set in 'consilo up'"]
                )
            return value
        if file is None:
            return ""
        path = file if file.is_absolute() else home / file
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            value = path.read_text(encoding="utf-8").strip()
        except OSError as cause:
            why = cause.strerror or type(cause).__name__
            raise ConfigInvalid("coordinator.yaml", [f"notify.{key}_file: {path}: {why}"]) from None
        if mode & 0o077:
            raise ConfigInvalid(
                "coordinator.yaml",
                [f"notify.{key}_file: others may read {path} ({mode:04o}); chmod 600 {path}"],
            )
        return value


class Email(_Secret):
    """A mail server that takes messages from here."""

    to: tuple[_Address, ...] = Field(min_length=1, description="who is told")
    sender: _Address = Field(description="whom it comes from")
    host: str = Field(description="of the mail server")
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="none: on this machine only"
    )
    user: str | None = None
    password_env: _Variable | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _no_password_in_the_open(self) -> Self:
        if self.security == "none" and self.host not in _LOOPBACK:
            raise ValueError("security: 'none' is for a mail server on this machine; use starttls")
        if self.user and not (self.password_env or self.password_file):
            raise ValueError("user: needs password_env or password_file")
        return self

    def password(self, home: Path) -> str:
        """Return what ``user`` logs in with; see `_Secret.read`."""
        return self.read(home, self.password_env, self.password_file, key="email.password")


class Webhook(_Secret):
    """A place that takes JSON by POST; its address often is a secret itself."""

    url: str | None = Field(default=None, description="where nothing in it is secret")
    url_env: _Variable | None = None
    url_file: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(each is not None for each in (self.url, self.url_env, self.url_file)) != 1:
            raise ValueError("give one of url, url_env, url_file")
        return self

    def address(self, home: Path) -> str:
        """Return the URL.

        Raises:
            ConfigInvalid: where it is not there, or neither https nor on this machine.
        """
        told = self.url or self.read(home, self.url_env, self.url_file, key="webhook.url")
        local = tuple(f"http://{each}" for each in _LOOPBACK)
        if not told.startswith(("https://", *local)):
            raise ConfigInvalid("coordinator.yaml", ["notify.webhook: the URL must be https://…"])
        return told


class Notify(Config):
    """Who is told, by which way, of what."""

    email: Email | None = None
    webhook: Webhook | None = None
    kinds: tuple[Kind, ...] = Field(default=KINDS, description="of what; all, unless said")
    ahead_days: int = Field(default=30, ge=1, le=365, description="so early before an expiry")

    @property
    def ways(self) -> Mapping[str, Email | Webhook]:
        """The ways that are configured, by name."""
        both = {"email": self.email, "webhook": self.webhook}
        return {name: way for name, way in both.items() if way is not None}
