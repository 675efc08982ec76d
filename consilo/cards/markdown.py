"""A card as Markdown (CommonMark with GitHub's tables), every text of others escaped."""

from __future__ import annotations

import re

from consilo.cards.document import Block, Bullets, Cell, Code, Document, Paragraph
from consilo.printable import printable

_SIGNS = re.compile(r"([\\`*_\[\]|~#!])")
_OPENS = re.compile(r"^([-+>=]|\d+(?=[.)]))")
_ADDRESS = re.compile(r"(?i)(https?|ftp|mailto|www)([:.])")


def markdown(card: Document) -> str:
    """Return the card's body; front matter stands before it."""
    parts = [f"# {escaped(card.title)}", escaped(card.lead)]
    for section in card.sections:
        parts.append(f"## {escaped(section.title)}")
        parts += [_block(each) for each in section.blocks]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    r"""Return text on one line that Markdown shows as it is.

    >>> escaped("a|b <img src=x> [x](y)\n# c")
    'a\\|b &lt;img src=x&gt; \\[x\\](y) \\# c'
    """
    plain = printable(" ".join(text.split()))
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _ADDRESS.sub(r"\1&#8203;\2", _SIGNS.sub(r"\\\1", plain))
    return _OPENS.sub(r"\\\1", plain) if not plain[:1].isdigit() else _number(plain)


def _number(text: str) -> str:
    """Return text that begins with a digit, and not a numbered list."""
    return re.sub(r"^(\d+)([.)]\s)", r"\1\\\2", text)


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    ticks = "`" * (1 + max((len(each) for each in re.findall("`+", cell.text)), default=0))
    inner = printable(" ".join(cell.text.split())).replace("|", "\\|")
    space = " " if "`" in inner else ""
    return f"{ticks}{space}{inner}{space}{ticks}"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return _cell(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_cell(each)}" for each in block.points)
    rows = [block.head, tuple("---" for _ in block.head)]
    lines = ["| " + " | ".join(map(escaped, block.head)) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in block.rows]
    table = "\n".join(lines)
    return f"{escaped(block.caption)}\n\n{table}" if block.caption else table


__all__ = ["Code", "escaped", "markdown"]
