"""What the author of a job states for the card of its model: what no record can know."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from consilo.config import Config
from consilo.finding_words import Form

_MOST_SIGNS = 4_000
_MOST_POINTS = 50


def _readable(text: str) -> str:
    """Return a statement without blanks at its ends.

    Raises:
        ValueError: where it is empty, too long, or has signs that are not to be seen.
    """
    told = text.strip()
    if not told or len(told) > _MOST_SIGNS:
        raise ValueError(f"expected 1 to {_MOST_SIGNS} signs, found {len(told)}")
    if not re.sub(r"[\n\t]", "", told).isprintable():
        raise ValueError("it has signs that are not to be seen; write it in plain signs")
    return told


Statement = Annotated[str, AfterValidator(_readable)]
Points = Annotated[tuple[Statement, ...], Field(max_length=_MOST_POINTS)]


class CardSpec(Config):
    """Statements about a model that its card repeats as the author's; none of them is checked.

    They travel to no silo and are no part of a job's digest: a run's record keeps them, as they
    were when it began.
    """

    purpose: Statement | None = Field(
        None, description="what the model is meant for, in whole sentences, and for whom"
    )
    out_of_scope: Points = Field((), description="what it is not meant for")
    limits: Points = Field((), description="known limits, besides those that the record shows")
    risks: Points = Field((), description="risks to health, safety and rights, and what is done")
    data: Statement | None = Field(
        None, description="where the data come from, how they were collected, labelled and prepared"
    )
    design: Statement | None = Field(
        None, description="why this model and algorithm, and what was assumed"
    )
    oversight: Statement | None = Field(
        None, description="how people watch over its answers and can overrule them"
    )
    changes: Statement | None = Field(
        None, description="what is other than in the version before, and which changes are planned"
    )
    monitoring: Statement | None = Field(
        None, description="how it is watched in use, and what happens when it falls behind"
    )
    standards: Points = Field((), description="norms and specifications that were applied")
    license: (
        Annotated[str, Form(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", "an SPDX identifier")] | None
    ) = Field(None, description="of the model", examples=["Apache-2.0", "CC-BY-NC-4.0"])
    contact: Statement | None = Field(None, description="who answers questions about the model")
    tags: tuple[Annotated[str, Form(r"[a-z0-9][a-z0-9._-]{0,63}", "a lower-case word")], ...] = (
        Field((), max_length=20, description="words that model hubs list it under")
    )
