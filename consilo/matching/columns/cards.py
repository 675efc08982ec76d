"""What an organisation says about a column: words and lists that a person has released, no row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from consilo.config import Config
from consilo.contracts.contract import Column, Contract
from consilo.contracts.rules import ColumnType

MAX_CARDS = 5_000
MAX_CODES = 5_000
BINS = 16
"""Bins of a histogram; few, since each one is noisy."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable text in one line")
    return text


def _line(most: int, least: int = 0) -> Any:
    return Annotated[
        str, Field(strict=True, min_length=least, max_length=most), AfterValidator(_printable)
    ]


Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e100, le=1e100)]


class Span(Config):
    """Where the values lie, as their owner declares it: never worked out from the rows."""

    min: Finite
    max: Finite

    @model_validator(mode="after")
    def _is_a_span(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        return self


class Card(Config):
    """One column in its owner's words.

    Args:
        name: as its owner calls it.
        synonyms: other names.
        data: which of the owner's data sets has it; empty for a contract's column.
        type: what it holds; None where nobody said.
        unit: in pint's words.
        description: one sentence or two.
        codes: the values that it may take, where they are few.
        range: where its values lie.
        label: whether it is something that a model may learn to predict.
    """

    name: _line(128, 1)  # type: ignore[valid-type]
    synonyms: tuple[_line(128, 1), ...] = Field(default=(), max_length=20)  # type: ignore[valid-type]
    data: _line(64) = ""  # type: ignore[valid-type]
    type: ColumnType | None = None
    unit: _line(32) | None = None  # type: ignore[valid-type]
    description: _line(500) = ""  # type: ignore[valid-type]
    codes: tuple[_line(160, 1), ...] = Field(default=(), max_length=MAX_CODES)  # type: ignore[valid-type]
    range: Span | None = None
    label: bool = False

    @property
    def key(self) -> str:
        """What names the column among all that its owner shares: ``DATA/NAME``."""
        return f"{self.data}/{self.name}" if self.data else str(self.name)

    @classmethod
    def of(cls, column: Column) -> Card:
        """Return what a contract says about one of its columns."""
        ends = None if column.range is None else (column.range.min, column.range.max)
        span = None
        if column.type in ("float", "integer") and ends is not None and None not in ends:
            low, high = (float(end) for end in ends)  # type: ignore[arg-type]
            span = Span(min=low, max=high) if low < high else None
        return cls(
            name=column.name,
            synonyms=column.synonyms[:20],
            type=column.type,
            unit=column.unit,
            description=" ".join(column.description.split())[:500],
            codes=tuple(str(each) for each in column.classes or ())[:MAX_CODES],
            range=span,
            label=column.role == "target",
        )


def cards_of(contract: Contract) -> tuple[Card, ...]:
    """Return what a contract says about the columns of its table."""
    return tuple(Card.of(column) for column in contract.table)


def parsed(value: Any) -> tuple[Card, ...]:
    """Return cards from plain JSON values.

    Raises:
        ValueError: where they are not cards, too many, or two have one key.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_CARDS:
        raise ValueError(f"expected a list of at most {MAX_CARDS} columns")
    cards = tuple(Card.model_validate(each) for each in value)
    if len({each.key for each in cards}) < len(cards):
        raise ValueError("a column is described twice")
    return cards


def plain(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """Return cards as plain JSON values, what is not said left out; the inverse of `parsed`."""
    return [each.model_dump(mode="json", exclude_defaults=True) for each in cards]


def edges(span: Span) -> Floats:
    """Return the edges of a histogram's bins."""
    return np.linspace(span.min, span.max, BINS + 1)


def width_of(card: Card) -> int:
    """Return how many bins a column's histogram has; 0 where it can have none."""
    if card.range is not None and card.type in ("float", "integer"):
        return BINS
    return len(card.codes) if 2 <= len(card.codes) <= 64 else 0


Histograms = Mapping[str, Floats]
"""A column's key → how many rows lie in each bin, or hold each code; noisy."""
