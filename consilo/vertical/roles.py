"""What a silo offers for models over the columns of several: its parts, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from consilo.kernel.roles import Role

if TYPE_CHECKING:
    import pandas as pd


class ModelParts(Protocol):
    """Keeps what never leaves: the silo's parts of models, and scores of its rows."""

    def keep_part(self, model: str, content: bytes, about: Mapping[str, Any]) -> None:
        """Keep this silo's part of a vertical model, durably.

        Args:
            model: the training's run id.
            content: the part.
            about: what people here see of it.
        """
        ...

    def part(self, model: str) -> bytes:
        """Return the part of a model that `keep_part` kept; raises `Refused` without one."""
        ...

    def keep_scores(self, run_id: str, rows: pd.DataFrame) -> None:
        """Keep what a model says of rows, for people in this silo.

        Args:
            run_id: the scoring's.
            rows: the row's number in the data set, its ids, and what the model says.
        """
        ...


PARTS: Role[ModelParts] = Role("parts")
