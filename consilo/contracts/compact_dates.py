"""Dates whose day and month stand together without a mark between them: ``01051990``.

Without its first zero such a date is another one to a program that takes what fits: ``1051990`` by
``%d%m%Y`` is the 10th of May to it, and was the 1st.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WIDTHS = {"d": 2, "m": 2, "Y": 4, "y": 2, "H": 2, "I": 2, "M": 2, "S": 2, "j": 3}
_PARTS = re.compile(r"((?:%[-#]?[dmYyHIMSj]){2,})|%[-#]?(.)|(\s+)|(.)", re.DOTALL)


def padded(text: str, form: str, *, is_number: bool) -> str | None:
    """Return a date as its format has it; None where a sign is missing that nobody can tell.

    Args:
        text: the date.
        form: its format, such as ``%d%m%Y``.
        is_number: whether it was stored as a number: the only sign it can lack is a zero in front.

    >>> padded("1051990", "%d%m%Y", is_number=True), padded("1051990", "%d%m%Y", is_number=False)
    ('01051990', None)
    >>> padded("1.5.1990", "%d.%m.%Y", is_number=False)
    '1.5.1990'
    """
    pattern, width = _written(form)
    if pattern is None or pattern.fullmatch(text):
        return text
    if is_number and width is not None and len(text) == width - 1 and text.isdecimal():
        return f"0{text}"
    return None


@lru_cache(maxsize=64)
def _written(form: str) -> tuple[re.Pattern[str] | None, int | None]:
    """Return how a date looks, None where its parts stand apart; and how many digits it is."""
    parts, width, has_run, bare = "", 0, False, True
    for run, directive, blank, sign in _PARTS.findall(form):
        if run:
            digits = sum(_WIDTHS[each] for each in re.findall(r"%[-#]?(.)", run))
            parts, width, has_run = f"{parts}[0-9]{{{digits}}}", width + digits, True
            continue
        bare = False
        if directive in _WIDTHS:
            parts += f"[0-9]{{1,{_WIDTHS[directive]}}}"
        elif directive:
            parts += "%" if directive == "%" else ".*?"
        else:
            parts += r"\s*" if blank else re.escape(sign)
    if not has_run:
        return None, None
    return re.compile(parts, re.DOTALL), width if bare else None
