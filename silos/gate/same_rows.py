"""Rows that are known again under another name: their accounts are linked before anything is spent.

Before a data set's account reserves, its rows are compared with all that were ever charged for, in
this directory and in others of the same user (`silos.kept.sketches`): once for each state of the
rows. Where at least `silos.rows.sketch.SAME_SHARE` of the smaller one's rows is in both, or both
read the same file or table, the accounts are linked; so they are where the comparison cannot be
made. A link is in the ledger, and on the disk, before the reservation is.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from consilo.errors import Refused, SourceUnreadable
from consilo.record.chain import Chain
from silos.kept.ledger import Ledger
from silos.kept.links import ELSEWHERE, Use, grouped
from silos.kept.sketches import Sketches
from silos.rows.sketch import Sketch, sketched
from silos.rows.tables import Tables


@dataclass(frozen=True)
class SameRows:
    """The role `silos.kept.accounts.Recogniser`.

    Args:
        tables: the silo's rows.
        ledger: its privacy ledger.
        sketches: what is known of rows that were charged for.
        log: its audit log.
    """

    tables: Tables
    ledger: Ledger
    sketches: Sketches
    log: Chain

    @contextmanager
    def recognised(self, account: str) -> Iterator[Callable[[Use], None]]:
        """Link an account with those of the same rows; nobody of this user reserves meanwhile.

        Args:
            account: a data set that is about to be charged for.

        Returns:
            What keeps a use, for other directories, before it is reserved.

        Raises:
            Refused: where there is no such data set, or nothing can be kept.
            SourceUnreadable: where its rows cannot be read.
        """
        if account not in self.tables.datasets:
            raise Refused(f"this silo has no data set '{account}'", code="data")
        with self.sketches.alone():
            key, owner = self.sketches.key, self.ledger.identity
            handles = {
                name: self.sketches.handle(owner, name)
                for name in {account, *self.tables.datasets, *self.ledger.accounts()}
            }
            uses = self.ledger.uses(after=self.sketches.pushed(owner))
            self.sketches.push(owner, ((seq, handles[name], use) for seq, name, use in uses))
            for other in sorted(set(self.ledger.accounts()) - {account}):
                if not self.sketches.has(handles[other]) and not self._learnt(
                    other, handles[other], key
                ):
                    self._link(account, other, "unknown")
            self._learn(account, handles[account], key)
            self._share(account, {handle: name for name, handle in handles.items()})
            yield lambda use: self.sketches.spend(handles[account], use)

    def _learnt(self, account: str, handle: str, key: bytes) -> bool:
        """Learn rows that were charged for before; return whether they are there."""
        if account not in self.tables.datasets:
            return False
        try:
            self._learn(account, handle, key)
        except SourceUnreadable:
            return False
        return True

    def _learn(self, account: str, handle: str, key: bytes) -> None:
        """Keep a sketch of the rows as they are now, and which others are the same."""
        for other in self.tables.sharing(account) & set(self.ledger.accounts()):
            self._link(account, other, "source")
        state = hmac.digest(key, self.tables.state(account).encode(), "sha256").hex()
        if self.sketches.has(handle, state):
            return
        known = self.sketches.all()
        others = [(place, name, Sketch.unpacked(each)) for place, name, each in known]
        foreign = [(name, each) for _, name, each in others if name != handle]
        source = self.tables.source(account)
        own, verdicts = sketched(source, key, [each for _, each in foreign])
        found = {(name, why) for (name, _), why in zip(foreign, verdicts, strict=True) if why}
        covered = [place for place, name, each in others if name == handle and each.is_within(own)]
        self.sketches.keep(handle, state, own.packed(), sorted(found), instead_of=covered)

    def _share(self, account: str, names: dict[str, str]) -> None:
        """Take over into the ledger what is known of an account beyond it: links, and spends."""
        pairs = self.sketches.pairs()
        lines = [{"kind": "linked", "body": {"account": a, "other": o}} for a, o, _ in pairs]
        (own,) = (handle for handle, name in names.items() if name == account)
        component = set(grouped(lines, own))
        for one, other, why in pairs:
            if one in component:
                called = [names.get(each, f"{ELSEWHERE}{each}") for each in (one, other)]
                self._link(called[0], called[1], why)
        for each in self.ledger.group(account):
            handle = each.removeprefix(ELSEWHERE)
            if handle == each:
                handle = next(handle for handle, name in names.items() if name == each)
            self.ledger.note_elsewhere(each, self.sketches.spends(handle))

    def _link(self, account: str, other: str, why: str) -> None:
        head = self.ledger.link(account, other, why)
        if head is not None:
            self.log.append("linked", account=account, other=other, why=why, head=head)
