"""What this silo keeps of its partners' logs, and what they hold of its own.

See `consilo.kernel.standing` for what travels. Here it is judged: a partner's newest standing is
kept, in ``standings.db``; a partner that holds a standing of ours which our log does not have tells
that we have forgotten something (`silos.gate.history`). A partner that has ever stated what it
holds states it in every run: where a request does not carry it, the coordinator has left it out,
and the partner does not count as taking part.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from consilo.kernel.brief import BRIEF
from consilo.kernel.headers import Header
from consilo.kernel.standing import (
    ASKS,
    NOTHING,
    Held,
    Standing,
    held_in,
    standing_in,
    to_word,
)
from silos.gate.history import History
from silos.gate.identity import Identity
from silos.gate.partners import Partner
from silos.kept.store import KeptStanding, Store

log = logging.getLogger(__name__)

MOST_PARTNERS = 500
"""Of so many a silo states what it holds; each takes 400 bytes of an answer's header at most."""


@dataclass(frozen=True)
class Standings:
    """One silo's part in it.

    Args:
        name: the silo's.
        identity: what it signs with, and whose signatures count.
        store: keeps what is known of partners.
        history: whether it remembers what it has said.
    """

    name: str
    identity: Identity
    store: Store
    history: History

    def take_in(self, header: Header) -> None:
        """Keep what a verified request tells of partners' logs.

        Raises:
            Refused: where one of them holds of our own log what the log does not have.
        """
        if ASKS not in header.attestations:
            return
        known = self.store.standings()
        news: list[KeptStanding] = []
        ours = NOTHING
        for name, partner in self._others(header):
            key = partner.signing_key
            before = _kept(known.get(name), key) or KeptStanding(name, key, NOTHING, states=False)
            told, held = standing_in(header.attestations, name), self._held(header, name, partner)
            newer = told is not None and told.lines > before.standing.lines
            standing = told if newer and told is not None and told.is_of(name, key) else None
            after = KeptStanding(
                name, key, standing or before.standing, states=before.states or held is not None
            )
            if after != before:
                news.append(after)
            if held is not None and held.standing.is_of(self.name, self.identity.public):
                ours = max(ours, held.standing, key=lambda each: each.lines)
        if news:
            self.store.keep_standings(news)
        if ours.lines:
            self.history.recognise_standing(ours)

    def stated(self, header: Header, partners: Mapping[str, Partner]) -> dict[str, Partner]:
        """Return who says in this run what it holds of us, or never did in any; logs the others."""
        if not partners:
            return {}
        known, found = self.store.standings(), {}
        for name, partner in partners.items():
            kept = _kept(known.get(name), partner.signing_key)
            states = kept is not None and kept.states
            if not states or self._held(header, name, partner) is not None:
                found[name] = partner
                continue
            log.warning(
                "partner %s does not count in run %s: what it holds of this silo's log is left "
                "out, by the coordinator, or because coordinator or partner went back to an older "
                "release",
                name,
                header.run_id,
            )
        return found

    def word(self, header: Header, attestation: str) -> str:
        """Return an attestation with our standing; when a run begins, with what we hold of others.

        Args:
            header: what is answered.
            attestation: the word that every release knows; empty in a refusal.
        """
        if ASKS not in header.attestations:
            return attestation
        key = self.identity.key
        own = Standing.of(key, self.name, *self.history.standing())
        held: dict[str, Held] = {}
        if header.protocol == BRIEF and attestation:
            known = self.store.standings()
            for name, partner in sorted(self.identity.counting().items())[:MOST_PARTNERS]:
                kept = _kept(known.get(name), partner.signing_key)
                of = NOTHING if kept is None else kept.standing
                held[name] = Held.by(key, header.manifest, self.name, name, of)
        return to_word(attestation, own, held)

    def _others(self, header: Header) -> list[tuple[str, Partner]]:
        partners = self.identity.counting()
        return [(n, partners[n]) for n in header.cohort if n != self.name and n in partners]

    def _held(self, header: Header, name: str, partner: Partner) -> Held | None:
        held = held_in(header.attestations, name)
        if held is None or not held.is_by(partner.signing_key, header.manifest, name, self.name):
            return None
        return held


def _kept(found: KeptStanding | None, key: str) -> KeptStanding | None:
    """Return what is kept of a partner with the key that it has now."""
    return found if found is not None and found.key == key else None
