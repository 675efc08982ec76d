"""What the parts of a vertical model say of rows, each protocol in its own way.

A feature silo's part answers with what it may tell of its columns; the label silo's part makes the
outputs of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from consilo.errors import IncompatibleJob
from consilo.learners.modules import load_dotted
from consilo.vertical.blocks import Array
from consilo.vertical.parts import Part
from consilo.vertical.turns import require_finite, require_shape

SCORERS = {
    "vertical_linear": "consilo.vertical.scoring:LinearScorer",
    "vertical_split": "consilo.vertical.split.score:SplitScorer",
    "vertical_trees": "consilo.vertical.trees.score:TreeScorer",
}
"""Protocol → what scores with the parts that it trained."""


class Scorer(Protocol):
    """Scores rows with one silo's part."""

    def outward(self, features: Array) -> Mapping[str, Array]:
        """Return what a feature silo tells the label silo of rows.

        Args:
            features: float32, [rows, inputs].
        """
        ...

    def outputs(self, features: Array, others: Mapping[str, Mapping[str, Array]]) -> Array:
        """Return the model's raw outputs in the label silo, float64, [rows] or [rows, classes].

        Args:
            features: the label silo's, [rows, inputs].
            others: feature silo → what it told.

        Raises:
            ReplyInvalid: where a silo told something of another shape.
        """
        ...


def scorer_of(part: Part, search_path: Any = ()) -> Scorer:
    """Return what scores with a part.

    Raises:
        IncompatibleJob: where the protocol that trained it has no scoring.
    """
    path = SCORERS.get(part.protocol)
    if path is None:
        raise IncompatibleJob(f"models of {part.protocol} cannot be scored in this version")
    scorer: Scorer = load_dotted(path)(part, search_path)
    return scorer


def told(part: Part, outputs: Array) -> dict[str, Array]:
    """Return the columns that people read: a probability, one for each class, or a prediction.

    Args:
        part: the label silo's.
        outputs: of `Scorer.outputs`.
    """
    if part.task == "binary":
        small = np.exp(-np.abs(outputs))
        return {"probability": np.where(outputs >= 0, 1.0, small) / (1.0 + small)}
    if part.task == "multiclass":
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return {str(name): shares[:, at] for at, name in enumerate(part.classes)}
    if outputs.ndim == 1:
        return {"prediction": outputs}
    return {f"prediction_{at}": column for at, column in enumerate(outputs.T)}


class LinearScorer:
    """Scores with the parts of vertical_linear: one number per row and feature silo."""

    def __init__(self, part: Part, search_path: Any = ()) -> None:
        self.part = part

    def outward(self, features: Array) -> Mapping[str, Array]:
        """Return the silo's share of each row's score, float64, [rows]."""
        return {"share": self._share(features)}

    def outputs(self, features: Array, others: Mapping[str, Mapping[str, Array]]) -> Array:
        """Return the sum of all shares and the intercept."""
        total = self._share(features) + float(self.part.content["intercept"])
        for name, each in others.items():
            require_shape(name, "share", each.get("share"), total.shape)
            require_finite(name, "share", each["share"])
            total = total + each["share"]
        return total

    def _share(self, features: Array) -> Array:
        weights = np.asarray(self.part.content["weights"], np.float64)
        return np.asarray(np.asarray(features, np.float64) @ weights)
