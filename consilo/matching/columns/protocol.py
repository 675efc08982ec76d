"""Which columns of the silos correspond: released words first, paid histograms where there are any.

The silos answer with what their owners have released beforehand, so that nothing here uses a row:
`cards` are words that a person marked, column by column; `histograms` were made noisy and paid for
when their owner released them (`silos.proposals.histograms`), so that asking again costs and tells
nothing more. The coordinator sees both in the clear; a person confirms what it proposes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Step
from consilo.kernel.verbs import Disclosure, Field, FromRows, arrays, verb
from consilo.kernel.view import Message, SiloView
from consilo.matching.columns.cards import Card, Histograms, parsed, plain, width_of
from consilo.matching.columns.roles import RELEASED
from consilo.wire.parcel import Fault


def cards() -> Field:
    """What columns are, in their owner's words: `consilo.matching.columns.cards`."""
    return Field(Disclosure.METADATA, _check_cards, rows=FromRows.NONE)


def _check_cards(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    try:
        parsed(value)
    except (ValueError, TypeError, RecursionError):
        raise ReplyInvalid(
            f"{name}: expected descriptions of columns; each holds name, type, unit, description, "
            "codes, range, and nothing else, in printable lines of limited length"
        ) from None


@dataclass(frozen=True)
class Released:
    """What the silos say about their columns.

    Args:
        cards: silo → its columns.
        histograms: silo → noisy counts by the column's key.
        faults: silo → why it says nothing.
    """

    cards: Mapping[str, tuple[Card, ...]]
    histograms: Mapping[str, Histograms] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)


class FeatureMatch(Protocol[None]):
    """Asks everybody what has been released about columns."""

    runs_job_code = False
    rows = "released"

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Released]:
        """Return what each silo has released; a silo that refuses histograms has none."""
        told = yield Ask(fed.cohort(), "cards", {})
        by_silo = {name: parsed(reply.fields["cards"]) for name, reply in told.replies.items()}
        faults = dict(told.missing)
        for name in fed.silos:
            if name not in by_silo:
                faults.setdefault(name, fed.why_away(name))
        counted = yield Ask(tuple(by_silo), "histograms", {})
        histograms = {
            name: fitting(reply.fields["histograms"], by_silo[name])
            for name, reply in counted.replies.items()
        }
        return Released(by_silo, histograms, faults)

    @verb("cards", replies={"cards": cards()})
    def silo_cards(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's released columns."""
        return {"cards": plain(tuple(silo.role(RELEASED).cards()))}

    @verb("histograms", replies={"histograms": arrays(Disclosure.STATISTIC, rows=FromRows.NONE)})
    def silo_histograms(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return the histograms of released columns."""
        released = {card.key for card in silo.role(RELEASED).cards()}
        histograms = silo.role(RELEASED).histograms()
        return {
            "histograms": {
                key: np.asarray(counts, np.float64)
                for key, counts in histograms.items()
                if key in released
            }
        }


def fitting(histograms: Histograms, cards: tuple[Card, ...]) -> dict[str, Any]:
    """Return the histograms that have as many bins as their column has."""
    widths = {card.key: width_of(card) for card in cards}
    return {
        key: counts
        for key, counts in histograms.items()
        if counts.ndim == 1 and len(counts) == widths.get(key) and (counts >= 0).all()
    }
