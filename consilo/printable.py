"""Text of somebody else, as a terminal or a log may show it."""

from __future__ import annotations

import logging


def printable(text: str, *, most: int | None = None) -> str:
    r"""Return text as a terminal or a log may show it, on one line.

    Signs that move a cursor, change colours or turn the direction of writing are written out, as
    in a Python string; so are line ends and all else that is not to be seen.

    Args:
        text: anybody's.
        most: how many characters of it are shown.

    >>> printable("a\x1b[2Jb\u202ec")
    'a\\x1b[2Jb\\u202ec'
    >>> printable("abcdef", most=4)
    'abc…'
    """
    shown = text if most is None else text[:most]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else _written(each) for each in shown)
    if most is not None and (len(text) > most or len(shown) > most):
        return shown[: most - 1] + "…"
    return shown


def printable_lines(text: str) -> str:
    """Return text of several lines as `printable` does each of them; tabs stay."""
    lines = ("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
    return "\n".join(lines)


def is_plain(text: str, *, most: int) -> bool:
    """Return whether a text is no longer than that and has nothing that is not to be seen."""
    return len(text) <= most and text.isprintable()


def _written(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


class PrintableFormatter(logging.Formatter):
    """Formats a line of a log as `printable_lines` shows it: what it quotes may be anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable_lines(super().format(record))
