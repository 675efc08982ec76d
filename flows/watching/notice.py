"""One event that people should know of, in words that they can act on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from consilo.membership.notify import Kind


@dataclass(frozen=True)
class Notice:
    """One event that people should know of, in words that they can act on.

    Args:
        kind: of the event.
        key: names it; the same event has the same key for ever.
        what: in a sentence.
        why: in a sentence; may be empty.
        command: what to type, or where to look.
        run: which run it is about; empty where none.
        at: when it happened, ISO 8601 with a time zone.
    """

    kind: Kind
    key: str
    what: str
    why: str
    command: str
    run: str
    at: str

    @property
    def text(self) -> str:
        """The message's body."""
        lines = [self.what, f"Why: {self.why}" if self.why else "", f"Run: {self.run}"]
        lines = [*(each for each in lines[:2] if each), *(lines[2:] if self.run else [])]
        return "\n".join([*lines, f"Do: {self.command}", f"When: {self.at}"]) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the key: 64 hexadecimal digits."""
        return hashlib.sha256(f"{self.kind}/{self.key}".encode()).hexdigest()
