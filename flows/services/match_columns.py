"""Ask silos what they say about their columns, and propose which of them mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid
from consilo.jobs.job import Job
from consilo.matching.columns.alignment import column_name, to_yaml
from consilo.matching.columns.cards import Card, cards_of
from consilo.matching.columns.protocol import FeatureMatch, Released
from consilo.matching.columns.score import Proposed, propose
from consilo.protocols.names import name_of
from flows.services.ask import consult

if TYPE_CHECKING:
    from flows.services.order import Connection


NO_CONTRACT = Contract.model_validate(
    {
        "name": "none",
        "version": 1,
        "description": "Two silos that have no contract yet.",
        "columns": {"none": {"type": "string", "role": "ignore"}},
    }
)
"""What travels where there is no contract: every request names one."""


@dataclass(frozen=True)
class Correspondences:
    """What was proposed.

    Args:
        names: of the columns of the contract, or of what may become one.
        proposals: silo → name → the column of that silo.
        contract: None between two silos.
        unused: silo → its released columns that were chosen for nothing.
        labels: name → silos that hold it, for what either side calls a label.
    """

    names: tuple[str, ...]
    proposals: Mapping[str, Mapping[str, Proposed]]
    contract: Contract | None
    unused: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[str, ...]]

    def to_yaml(self) -> str:
        """Return the alignment for a person to confirm."""
        return to_yaml(self.names, self.proposals, self.contract)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: names, scores, and what each sign says."""
        return {
            "contract": None if self.contract is None else self.contract.ref,
            "columns": {
                name: {
                    silo: {
                        "chosen": proposed[name].chosen,
                        "candidates": [
                            {"column": each.key, "score": each.score, "signs": dict(each.signs)}
                            for each in proposed[name].candidates
                        ],
                    }
                    for silo, proposed in self.proposals.items()
                    if name in proposed
                }
                for name in self.names
            },
            "unused": {silo: list(keys) for silo, keys in self.unused.items()},
            "labels": {name: list(silos) for name, silos in self.labels.items()},
        }


def question(contract: Contract | None, *, purpose: str) -> Job:
    """Return the job that a question about columns travels with."""
    return Job.from_json(
        {
            "name": "feature-match",
            "kind": "analytics",
            "purpose": purpose,
            "contract": (contract or NO_CONTRACT).ref,
            "quorum": {"min_silos": 1},
        }
    )


def ask(
    job: Job,
    contract: Contract,
    connection: Connection,
    *,
    silos: Sequence[str] = (),
    wait_s: float = 30.0,
) -> Released:
    """Return what the silos of a connection have released about their columns.

    Args:
        job: of `question`.
        contract: that travels with it.
        connection: an open federation.
        silos: whom to ask; empty asks everybody.
        wait_s: how long to wait for silos that are not connected yet.

    Raises:
        ConfigInvalid: where a silo does not belong to the federation.
    """
    unknown = sorted(set(silos) - set(connection.silos))
    if unknown:
        hint = f"it has {', '.join(sorted(connection.silos))}"
        raise ConfigInvalid("the federation", [f"no silo is called '{unknown[0]}'; {hint}"])
    released: Released = consult(
        name_of(FeatureMatch),
        FeatureMatch(),
        job,
        contract,
        connection,
        silos=silos or connection.silos,
        wait_s=wait_s,
    )
    return released


def with_contract(contract: Contract, released: Released, *, top: int = 10) -> Correspondences:
    """Return, for each column of a contract, the best of each silo's columns."""
    wanted = cards_of(contract)
    proposals = {
        silo: {each.key: each for each in propose(wanted, cards, top=top)}
        for silo, cards in released.cards.items()
    }
    names = tuple(card.name for card in wanted)
    return _correspondences(names, proposals, contract, released.cards)


def between(one: str, other: str, released: Released, *, top: int = 10) -> Correspondences:
    """Return, for each column of one silo, the best of the other's.

    Raises:
        ConfigInvalid: where one of the two has said nothing.
    """
    for silo in (one, other):
        if not released.cards.get(silo):
            fault = released.faults.get(silo)
            why = f"{fault.code}: {fault.reason}" if fault else "it has released no column"
            raise ConfigInvalid("the federation", [f"{silo} says nothing of its columns; {why}"])
    ours, theirs = released.cards[one], released.cards[other]
    proposed = propose(
        ours,
        theirs,
        top=top,
        first=released.histograms.get(one),
        second=released.histograms.get(other),
    )
    names = _names(ours)
    itself = {
        name: Proposed(card.key, card.key, (), card.label)
        for name, card in zip(names, ours, strict=True)
    }
    proposals = {one: itself, other: dict(zip(names, proposed, strict=True))}
    return _correspondences(names, proposals, None, {one: ours, other: theirs})


def _correspondences(
    names: tuple[str, ...],
    proposals: Mapping[str, Mapping[str, Proposed]],
    contract: Contract | None,
    cards: Mapping[str, Sequence[Card]],
) -> Correspondences:
    chosen = {
        silo: {each.chosen for each in proposed.values()} for silo, proposed in proposals.items()
    }
    unused = {
        silo: tuple(card.key for card in each if card.key not in chosen[silo])
        for silo, each in cards.items()
    }
    labels = {}
    for name in names:
        parts = {silo: proposed[name] for silo, proposed in proposals.items() if name in proposed}
        if any(each.label for each in parts.values()):
            labels[name] = tuple(silo for silo, each in parts.items() if each.chosen is not None)
    return Correspondences(names, proposals, contract, unused, labels)


def _names(cards: Sequence[Card]) -> tuple[str, ...]:
    """Return a name that a contract can have for each card, all of them unlike."""
    names: list[str] = []
    for card in cards:
        name, count = column_name(card), 2
        while name in names:
            name, count = f"{column_name(card)[:60]}_{count}", count + 1
        names.append(name)
    return tuple(names)
