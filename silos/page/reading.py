"""What the page reads, each thing by the function that its command reads it by.

A page is drawn every second for whoever has it open. What it shows is read again when the files
that it comes from have changed, so that an open page costs a few file stats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar, cast

from consilo.decisions.vote import Verdict
from consilo.errors import ConsiloError
from silos import consents_told, runs_told
from silos.accounts_told import told_of
from silos.checked import last_checks
from silos.gate.audit import audit_log
from silos.gate.audit_lines import Found, search
from silos.gate.bundle_source import Source, source_of
from silos.gate.bundles import Bundle, bundles
from silos.gate.history import is_forgotten
from silos.gate.partners import Partner, every_partner
from silos.gate.policy import Policy
from silos.gate.policy_words import Section, in_words
from silos.kept.own_figures import Figures, own_figures
from silos.kept.votes import KeptVote, Votes
from silos.membership.expiry import Ending, endings

T = TypeVar("T")
_MOMENT_S = 0.2
_LEDGER = ("ledger.db", "ledger.db-wal", "policy.yaml")


@dataclass(frozen=True)
class Ledger:
    """How the privacy accounts stand.

    Args:
        told: of `silos.accounts_told.told_of`; None where it is not known yet, or cannot be.
        fault: why it cannot be; empty where it can.
        stamp: of the files that it was read from.
        is_old: whether they have changed since, and it is being worked out anew.
    """

    told: dict[str, Any] | None = None
    fault: str = ""
    stamp: object = None
    is_old: bool = True

    @property
    def accounts(self) -> dict[str, Any]:
        """The accounts by data set; none where they are not known."""
        return self.told["accounts"] if self.told else {}


@dataclass
class Reading:
    """Reads one silo's directory; it writes nothing.

    Args:
        directory: the silo's.
        now: the clock, in UTC.
    """

    directory: Path
    now: Callable[[], datetime]
    _kept: dict[str, tuple[object, object]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _ledger: Ledger = Ledger()
    _counting: Thread = field(default_factory=Thread)

    def policy(self) -> tuple[Policy, list[Section], str]:
        """Return the policy, what it says in sentences, and its file's text."""
        path = self.directory / "policy.yaml"

        def read() -> tuple[Policy, list[Section], str]:
            policy = Policy.load(path)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            return policy, in_words(policy, today=self.now().date()), text

        return self._same("policy", (self._stamp("policy.yaml"), self.now().date()), read)

    def bundles(self) -> list[Bundle]:
        """Return every bundle that is known here, those that wait first."""
        stamp = self._stamp("bundles.yaml", "bundles/packed")
        return self._same("bundles", stamp, lambda: bundles(self.directory))

    def source(self, digest: str) -> Source:
        """Return a bundle as a person reads it."""
        stamp = self._stamp("bundles.yaml", f"bundles/packed/{digest}.zip")
        return self._same("source", (digest, stamp), lambda: source_of(self.directory, digest))

    def consents(self) -> tuple[list[consents_told.Consents], list[str]]:
        """Return where consents are, and what requests found; and data sets without."""
        stamp = self._stamp("silo.yaml", "audit.jsonl")
        return self._same("consents", stamp, lambda: consents_told.consents(self.directory))

    def checks(self) -> dict[str, dict[str, Any]]:
        """Return what the last check of each contract found."""
        return last_checks(self.directory)

    def contracts(self) -> list[str]:
        """Return the references of the contracts that a data set here is mapped to, confirmed."""
        from silos.proposals.onboard import mappings

        def read() -> list[str]:
            found = [each for several in mappings(self.directory).values() for each in several]
            return sorted({str(each["contract"]) for each in found if each["confirmed"]})

        return self._same("contracts", self._stamp("silo.yaml", "mapping.yaml", "mappings"), read)

    def ledger(self) -> Ledger:
        """Return how the privacy accounts stand, as far as that is worked out.

        That takes seconds at first, so it is done beside: no page waits longer than a moment.
        """
        stamp = (self._stamp(*_LEDGER), f"{self.now():%Y-%m-%d %H}")
        with self._lock:
            known = self._ledger
            if known.stamp != stamp and not self._counting.is_alive():
                self._counting = Thread(target=self._count, args=(stamp,), daemon=True)
                self._counting.start()
        if known.stamp != stamp:
            self._counting.join(_MOMENT_S)
            with self._lock:
                known = self._ledger
        return replace(known, is_old=known.stamp != stamp)

    def _count(self, stamp: object) -> None:
        told, fault = tried(lambda: told_of(self.directory, now=self.now()))
        with self._lock:
            self._ledger = Ledger(told, fault, stamp)

    def log(self, *, words: str, kind: str, before: int | None) -> Found:
        """Return lines of the audit log, the newest first."""
        return search(self.directory, words=words, kind=kind, before=before)

    def runs(self) -> list[runs_told.Run]:
        """Return the runs that the end of the audit log tells of."""
        stamp = self._stamp("audit.jsonl")
        return self._same("runs", stamp, lambda: runs_told.runs(self.directory))

    def figures(self, run: str = "") -> list[Figures]:
        """Return the figures of merit that left for a run, or for all, the newest first."""
        return own_figures(self.directory, run=run)

    def votes(self) -> tuple[dict[str, list[KeptVote]], dict[str, tuple[Verdict, str]]]:
        """Return how this silo has voted, by run, the newest first; and what its people say."""

        def read() -> tuple[dict[str, list[KeptVote]], dict[str, tuple[Verdict, str]]]:
            kept = self.kept_votes()
            by_run: dict[str, list[KeptVote]] = {}
            for each in reversed(kept.given()):
                by_run.setdefault(each.vote.run, []).append(each)
            return by_run, kept.words()

        return self._same("votes", self._stamp("votes.db", "votes.db-wal"), read)

    def kept_votes(self) -> Votes:
        """Return the silo's votes, as `consilo silo vote` has them."""
        rules = Policy.load(self.directory / "policy.yaml").votes
        return Votes(self.directory, rules, audit_log(self.directory))

    def endings(self) -> list[Ending]:
        """Return what comes to an end: certificates, keys, the policy."""
        return endings(self.directory, now=self.now())

    def partners(self) -> Mapping[str, Partner]:
        """Return the other silos' keys as they are pinned."""
        return every_partner(self.directory)

    def forgotten(self) -> bool:
        """Return whether the silo answers nothing, since it has forgotten what it said."""
        return is_forgotten(self.directory)

    def _stamp(self, *names: str) -> object:
        found = []
        for name in names:
            try:
                stat = (self.directory / name).stat()
                found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:
                found.append((name, 0, 0, 0))
        return tuple(found)

    def _same(self, name: str, stamp: object, read: Callable[[], T]) -> T:
        """Return what was read, again only where the stamp is another one."""
        with self._lock:
            known = self._kept.get(name)
        if known is not None and known[0] == stamp:
            return cast(T, known[1])
        value = read()
        with self._lock:
            self._kept[name] = (stamp, value)
        return value


def tried(read: Callable[[], T]) -> tuple[T | None, str]:
    """Return what can be read, or why it cannot: one broken file hides no other."""
    try:
        return read(), ""
    except ConsiloError as cause:
        return None, str(cause)
