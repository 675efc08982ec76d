"""A length of time, as a job says it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from consilo.finding_words import Form

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
SPAN_TOLD = "a number and its unit (s, m, h or d), such as 90s, 30m, 2h or 1d"


def _has_a_unit(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError(f"expected {SPAN_TOLD}")
    return value


Span = Annotated[
    Annotated[str, Form("[1-9][0-9]{0,4}[smhd]", SPAN_TOLD)] | None, BeforeValidator(_has_a_unit)
]
"""A length of time as a job says it; None where it says none."""


def span_s(told: str) -> float:
    """Return the seconds of a `Span`.

    >>> span_s("2h")
    7200.0
    """
    return float(told[:-1]) * _SECONDS[told[-1]]
