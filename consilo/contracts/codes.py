"""The text under which a code is known, whatever it was stored as: a text, a number, yes or no."""

from __future__ import annotations

import operator
import re
import unicodedata
from datetime import date, time
from decimal import Decimal
from numbers import Real
from typing import Any
from uuid import UUID

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)\.0")
_FIRST_YEAR_OF_FIVE_DIGITS = 10_000
_EXACT = 2**53
"""From here on float64 skips whole numbers."""
INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
"""What no reader sees at a text's end: a byte order mark, a blank without width, directions."""

_LAST_BLANK = 0x3000
_NOTHING = "".join(filter(str.isspace, map(chr, range(_LAST_BLANK + 1)))) + INVISIBLE


def plain_text(text: str) -> str:
    """Return a text without blanks and invisible signs at its ends, composed (Unicode's NFC).

    An accent is one sign with its letter or one of its own, as the machine had it that wrote the
    text; both are the same text.

    >>> plain_text(" Rene\u0301\u200b ") == "Ren\u00e9"
    True
    """
    if text.isascii():
        return text.strip()
    return unicodedata.normalize("NFC", text).strip(_NOTHING)


def code_key(value: Any) -> str:
    """Return the text under which a code is known; 1, 1.0, "1" and " 1.0 " are one code.

    A text is what it says without blanks at its ends: ``007`` and ``7`` are two codes, and so are
    ``1e3`` and ``1000``. Only the ``.0`` behind a whole number goes, which a column of numbers with
    gaps gets on its way through a file.

    >>> [code_key(each) for each in (7, 7.0, "7.0", " 007", "1.50", 1.5, True)]
    ['7', '7', '7', '007', '1.50', '1.5', 'true']
    """
    if isinstance(value, str):
        text = plain_text(value)
        return text[:-2] if _WHOLE.fullmatch(text) else text
    if type(value).__name__ == "bool":  # Python's or numpy's
        return str(value).lower()
    if not isinstance(value, Real | Decimal):
        return plain_text(str(value))
    if hasattr(value, "__index__"):
        return str(operator.index(value))
    number = float(str(value))  # the digits that it shows, where it is narrower than float64
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and Decimal(repr(number)) != value:
        return f"{value.normalize():f}"  # more digits than a float has
    return str(int(number)) if number.is_integer() and abs(number) < _EXACT else repr(number)


def is_certain(value: Any) -> bool:
    """Return whether a code is what was meant.

    A float from 2**53 on has lost its last digits; bytes, spans of time, lists and whatever else
    has no text of its own are no codes, nor is a text with a zero byte in it.
    """
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, Real) and not hasattr(value, "__index__"):
        return abs(float(value)) < _EXACT
    if isinstance(value, date):
        return value.year < _FIRST_YEAR_OF_FIVE_DIGITS
    return isinstance(value, Real | Decimal | time | UUID) or type(value).__name__ == "bool"


def code_keys(code: Any) -> set[str]:
    """Return the texts that a code in a file may mean.

    A boolean is every word that says it; a word in the file is that word alone.
    """
    if code is True:
        return {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"}
    if code is False:
        return {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"}
    return {code_key(code)}
