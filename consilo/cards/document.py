"""A card's content, before it is Markdown or HTML: sections of paragraphs, lists and tables.

All text is plain; who draws it escapes it. So both forms say the same, and a text of somebody else
is nowhere taken for markup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

NOT_STATED = "not stated"
"""What stands where nobody said anything; nothing is made up in its place."""


@dataclass(frozen=True)
class Code:
    """A word that is shown as code: a digest, a command, a path."""

    text: str


Cell: TypeAlias = str | Code


@dataclass(frozen=True)
class Paragraph:
    """One paragraph."""

    text: Cell


@dataclass(frozen=True)
class Bullets:
    """A list of points."""

    points: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        head: names of the columns.
        rows: as long as the head each.
        caption: what it shows, in a sentence.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


Block: TypeAlias = Paragraph | Bullets | Table


@dataclass(frozen=True)
class Section:
    """A part of the card with a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A card.

    Args:
        title: the model and its version.
        lead: one sentence: what it is, how it came to be.
        sections: in their order.
    """

    title: str
    lead: str
    sections: tuple[Section, ...] = field(default_factory=tuple)


def figure(value: float | int | None) -> str:
    """Return a number as the card shows it: whole ones as they are, others in 4 digits.

    >>> figure(0.71428571), figure(12), figure(1e-05), figure(None)
    ('0.7143', '12', '1e-05', 'not stated')
    """
    if value is None:
        return NOT_STATED
    if isinstance(value, int) or float(value).is_integer():
        return str(int(value)) if abs(value) < 1e15 else repr(value)
    return f"{value:.4g}"


def between(ends: tuple[float, float] | list[float] | None) -> str:
    """Return a 95 % interval as the card shows it; a dash where none is known."""
    return "–" if not ends else f"{figure(ends[0])} to {figure(ends[1])}"
