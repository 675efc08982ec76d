"""Whether a silo still remembers what it has said: one restored from an older backup does not.

Each reply that leaves names the line of the audit log that tells of it, and is signed. Whoever
keeps replies can show the silo its newest one (`consilo.record.heads`); partners keep where its log
stood, and show it that (`silos.gate.standings`). A silo that finds its own
signature under a line that it does not have, or whose privacy ledger lacks the entry that its log
saw last, has forgotten what it spent. It answers nothing from then on, until its people have
decided: `consilo silo ledger accept`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.errors import Refused, ReplyInvalid
from consilo.kernel.headers import ReplyHeader
from consilo.kernel.standing import Standing, from_word
from consilo.machine.files import remove, write_atomic
from consilo.record.chain import START, Chain
from consilo.wire.payload import canonical_json
from silos.gate.audit import LEDGER_HEAD
from silos.gate.identity import Identity
from silos.kept.ledger import Ledger

_FILE = "forgotten.json"
_GIVEN_UP = "given-up.json"
_SAID = (
    "this silo's log or privacy ledger is older than what it has signed: it was restored from a "
    "backup, or a part of it was lost; its people decide, 'consilo silo ledger accept'"
)


@dataclass(frozen=True)
class History:
    """The role `consilo.kernel.brief.History`.

    Args:
        directory: the silo's.
        log: its audit log.
        identity: what it signs with.
        ledger: its privacy ledger.
    """

    directory: Path
    log: Chain
    identity: Identity
    ledger: Ledger

    def recognise(self, newest: Mapping[str, Any] | None) -> None:
        """Raise `Refused`, now and from now on, where the silo has forgotten what it said.

        Args:
            newest: the header of its newest reply that somebody else knows of; one that the silo
                did not sign, with the key that it has now, says nothing.
        """
        lacking = self._lacking(newest)
        if lacking is not None:
            self._write(lacking)
        self.require_whole()

    def require_spent(self) -> None:
        """Raise `Refused`, now and from now on, where the ledger lacks what the log saw spent.

        It is `recognise` for each reservation: all but the end of the log is left unread.
        """
        if self._is_forgotten(told := self._last_spent()):
            self._write(_of_ledger(told))
        self.require_whole()

    def spent(self) -> str | None:
        """Return the newest hash of the ledger, for the log; None where it lacks what the log saw.

        A hash from such a ledger would stand behind the one that it lacks, and hide that.
        """
        head = self.ledger.head
        return None if self._is_forgotten(self._last_spent()) else head

    def recognise_standing(self, held: Standing) -> None:
        """Raise `Refused`, now and from now on, where our log does not have what a partner holds.

        Args:
            held: signed by us.
        """
        if not self._has(held.head) and held.lines > self._given_up()["lines"]:
            self._write({"accepted": held.head, "step": "", "what": "log", "lines": held.lines})
        self.require_whole()

    def standing(self) -> tuple[int, str]:
        """Return how many lines our log has, and the hash of the last one.

        Lines that were lost, and given up by people, count: or partners, who keep the longest,
        would keep one that is gone.
        """
        lines, head = self.log.standing()
        return lines + self._given_up()["ahead"], head

    def require_whole(self) -> None:
        """Raise `Refused` where it was found that something is forgotten, and nobody decided."""
        if is_forgotten(self.directory):
            raise Refused(_SAID, code="forgotten")

    def accept(self) -> dict[str, Any] | None:
        """Go on with what is there; note in the log that people decided so.

        Returns:
            What is lacking; None where nothing was found to be.
        """
        path = self.directory / _FILE
        if not path.exists():
            return None
        lacking: dict[str, Any] = json.loads(path.read_bytes())
        more: dict[str, Any] | None = lacking
        while more is not None:
            self.log.append("accepted", **more)
            # From here on the ledger that there is counts.
            self.log.append("ledger", run="", head=self.ledger.head)
            more = self._lacking(None)
        self._give_up(int(lacking.get("lines", 0)))
        remove(path)
        return lacking

    def _lacking(self, newest: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if newest is not None:
            try:
                reply = ReplyHeader.decode(canonical_json(newest))
            except (ReplyInvalid, ValueError, TypeError):
                reply = None
            if (
                reply is not None
                and reply.is_signed_by(self.identity.public)
                and not self._has(reply.head)
            ):
                _, stood, _ = from_word(reply.attestation)
                lines = 0
                if stood is not None and stood.is_of(reply.silo, self.identity.public):
                    lines = stood.lines
                return {
                    "accepted": reply.head,
                    "step": reply.step_id,
                    "what": "log",
                    "lines": lines,
                }
        for told in (self._last_spent(), self._last_head("linked"), self._last_head("apart")):
            if self._is_forgotten(told):
                return _of_ledger(told)
        return None

    def _given_up(self) -> dict[str, int]:
        """Return what people went on without.

        ``lines``: how many there were known to be; a standing that is no longer was given up with
        them. ``ahead``: how many lines more than the log has are counted since.
        """
        path = self.directory / _GIVEN_UP
        if not path.exists():
            return {"lines": 0, "ahead": 0}
        found: dict[str, int] = json.loads(path.read_bytes())
        return found

    def _give_up(self, lines: int) -> None:
        """Count on from ``lines``, the longest that the log is known to have been."""
        before, (here, _) = self._given_up(), self.log.standing()
        said = {
            "lines": max(before["lines"], lines),
            "ahead": max(before["ahead"], lines - here),
        }
        write_atomic(self.directory / _GIVEN_UP, json.dumps(said).encode(), mode=0o600)

    def _has(self, head: str) -> bool:
        """Return whether a line of the log has this hash, or people have decided about it."""
        return self.log.has(f'"hash":"{head}"'.encode()) or self._is_accepted(head)

    def _write(self, lacking: Mapping[str, Any]) -> None:
        write_atomic(self.directory / _FILE, json.dumps(lacking).encode(), mode=0o600)

    def _is_forgotten(self, told: str) -> bool:
        """Return whether the ledger lacks a hash that the log saw, and nobody decided about it."""
        return told != START and not self.ledger.has(told) and not self._is_accepted(told)

    def _is_accepted(self, head: str) -> bool:
        return self.log.has(f'"accepted":"{head}"'.encode())

    def _last_spent(self) -> str:
        """Return the hash of the ledger that the log saw last, at a run's end or in an answer."""
        last = self.log.last_with(f'"{LEDGER_HEAD}":"'.encode(), b'"kind":"ledger"')
        if last is None:
            return START
        return str(last["body"]["head" if last["kind"] == "ledger" else LEDGER_HEAD])

    def _last_head(self, kind: str) -> str:
        """Return the hash of the ledger in the log's last line of a kind."""
        entry = self.log.last_with(f'"kind":"{kind}"'.encode())
        return START if entry is None else str(entry["body"]["head"])


def is_forgotten(directory: Path) -> bool:
    """Return whether a silo was found to have forgotten what it said, and nobody decided yet."""
    return (directory / _FILE).exists()


def _of_ledger(told: str) -> dict[str, Any]:
    """Return what is lacking, where it is the end of the ledger."""
    return {"accepted": told, "step": "", "what": "ledger"}
