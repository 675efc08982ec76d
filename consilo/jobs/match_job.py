"""Match jobs: which rows of the silos are the same people; nothing is trained.

On the wire a match job reads as it did before it was a kind of its own: as a horizontal job with a
section ``match`` and without a model, all else at its defaults. So silos of former releases answer
it, and its digest, which silos sign and records hold, is what it always was.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job, MatchSpec


class MatchJob(Job):
    """Whose rows are matched, by which keys, and under which name the match is kept."""

    kind: Literal["match"] = Field(
        description="which rows of the silos are the same people, for later jobs"
    )
    privacy: None = Field(None, description="nothing of a match is noisy")
    match: MatchSpec = Field(description="rows of which silos belong together")
    kind_since: ClassVar[int] = 1

    @property
    def algorithm(self) -> str:
        """Private set intersection."""
        return "psi"

    @property
    def matching(self) -> MatchSpec:
        """The section ``match``."""
        return self.match

    def to_json(self) -> dict[str, Any]:
        """Return the job as plain JSON values, in the form that every release understands."""
        return {**_envelope(), **super().to_json()}


def as_match(value: dict[str, Any]) -> dict[str, Any]:
    """Return a horizontal job that only matches as a match job, and any other as it is.

    One that has other settings than the defaults keeps its digest by staying what it is.
    """
    if value.get("match") is None or value.get("model") is not None:
        return value
    besides = {key: each for key, each in value.items() if key not in MatchJob.model_fields}
    if value.get("privacy") is not None or not besides.items() <= _envelope().items():
        return value
    own = {key: each for key, each in value.items() if key not in besides}
    return {**own, "kind": "match"}


@cache
def _envelope() -> Mapping[str, Any]:
    """Return what a match job does not have, with the values that a horizontal job has for it."""
    plain = Horizontal.model_construct(name="match", contract="none@1").to_json()
    return {key: each for key, each in plain.items() if key not in MatchJob.model_fields}
