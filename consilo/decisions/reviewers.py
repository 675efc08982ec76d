"""Who may decide about models: people whose Ed25519 keys the coordinator has enrolled.

``reviewers.jsonl`` in the coordinator's directory says who was added and removed, and when. A
decision names the line of it that was last then (`Reviewers.head`), so what counted when it was
made goes on to count: order is that of chains, not of clocks. A name or a key that was removed may
be added again; a key belongs to one person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.decisions.signed_lines import SignedLines
from consilo.errors import ConfigInvalid, RecordTampered
from consilo.machine.locks import file_lock
from consilo.record.chain import START, now_utc
from consilo.silo_name import require_name

FILE = "reviewers.jsonl"


@dataclass(frozen=True)
class Reviewer:
    """One who may decide.

    Args:
        name: unique among those that are enrolled.
        key: raw Ed25519 public key, in hexadecimal.
        user: the login by which this person starts runs, for ``four_eyes``.
        since: UTC, ISO 8601.
    """

    name: str
    key: str
    user: str
    since: str

    def to_json(self) -> dict[str, str]:
        """Return it for programs."""
        return {"name": self.name, "key": self.key, "user": self.user, "since": self.since}


@dataclass(frozen=True)
class Reviewers:
    """All who were ever enrolled.

    Args:
        states: hash of each line → who was enrolled from it on, by name; the oldest line first.
    """

    states: Mapping[str, Mapping[str, Reviewer]]

    @classmethod
    def open(cls, home: Path) -> Self:
        """Return those of the coordinator in ``home``.

        Raises:
            RecordTampered: where their log does not verify.
        """
        states: dict[str, Mapping[str, Reviewer]] = {START: {}}
        now: dict[str, Reviewer] = {}
        for entry in SignedLines(home, FILE).read():
            body = entry["body"]
            name = str(body["name"])
            if entry["kind"] == "added":
                now[name] = Reviewer(name, str(body["key"]), str(body["user"]), str(entry["time"]))
            elif entry["kind"] == "removed":
                now.pop(name, None)
            states[str(entry["hash"])] = dict(now)
        return cls(states)

    @property
    def head(self) -> str:
        """Hash of the last line; `START` where there is none."""
        return [*self.states][-1]

    @property
    def enrolled(self) -> Mapping[str, Reviewer]:
        """Those who may decide now, by name."""
        return self.states[self.head]

    def at(self, head: str) -> Mapping[str, Reviewer]:
        """Return who was enrolled when a line was the last one, by name.

        Raises:
            RecordTampered: where there is no such line.
        """
        if head not in self.states:
            raise RecordTampered(f"{FILE}: a decision names a line that is not in it")
        return self.states[head]

    def position(self, head: str) -> int:
        """Return how many lines there were when this one was the last."""
        self.at(head)
        return [*self.states].index(head)


class Enrolment:
    """Adds and removes reviewers of the coordinator in ``home``.

    Args:
        home: the coordinator's directory.
        key: the coordinator's.
        now: the clock.
    """

    def __init__(
        self, home: Path, key: Ed25519PrivateKey, *, now: Callable[[], str] = now_utc
    ) -> None:
        self._home = home
        self._key = key
        self._lines = SignedLines(home, FILE, now=now)

    def add(self, name: str, public_key: str, *, user: str = "") -> Reviewer:
        """Enrol a person.

        Args:
            name: of the form of a silo's name.
            public_key: raw Ed25519, in hexadecimal.
            user: the login by which this person starts runs; the name unless said.

        Raises:
            ConfigInvalid: where name or key are taken, or are none.
        """
        require_name(name, where="reviewer add", what="reviewer")
        with file_lock(self._home / "reviewers.lock"):
            enrolled = Reviewers.open(self._home).enrolled
            faults = [f"there is a reviewer '{name}'; remove that one first"] * (name in enrolled)
            faults += [
                f"this is the key of reviewer '{each.name}'; a key belongs to one person"
                for each in enrolled.values()
                if each.key == public_key and each.name != name
            ]
            if faults:
                raise ConfigInvalid("reviewer add", faults)
            self._append("added", name=name, key=public_key, user=user or name)
        return Reviewers.open(self._home).enrolled[name]

    def remove(self, name: str, *, reason: str) -> Reviewer:
        """Strike a person off; what they decided before stays decided.

        Raises:
            ConfigInvalid: where nobody of this name is enrolled.
        """
        with file_lock(self._home / "reviewers.lock"):
            enrolled = Reviewers.open(self._home).enrolled
            if name not in enrolled:
                told = ", ".join(enrolled) or "nobody"
                raise ConfigInvalid(
                    "reviewer remove", [f"'{name}' is not enrolled; enrolled: {told}"]
                )
            self._append("removed", name=name, key=enrolled[name].key, reason=reason)
        return enrolled[name]

    def _append(self, kind: str, **body: Any) -> None:
        self._lines.append(self._key, kind, **body)
