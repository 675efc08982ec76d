"""Score rows with the parts of a split network: embeddings up, outputs in the label silo.

A part that was trained with a privacy section is not scored: training hid each silo's rows from the
other silos and paid for that, and a score needs the embedding itself. With noise that a budget
could pay for, one embedding says next to nothing (at ε 1 and δ 1e-5 the noise is seven times as
long in each number as an embedding may be as a whole).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from consilo.errors import Refused
from consilo.learners.modules import build_model
from consilo.learners.tasks import Task
from consilo.metrics import TaskKind
from consilo.vertical.blocks import Array
from consilo.vertical.parts import Part
from consilo.vertical.split.layers import Joined, embed, in_pieces, set_weights
from consilo.vertical.turns import require_finite, require_shape

_WEIGHTS = "weights/"


class SplitScorer:
    """Scores with the parts of vertical_split: one embedding per row and feature silo.

    Args:
        part: the silo's.
        search_path: where a job's own modules lie.
    """

    def __init__(self, part: Part, search_path: Any = ()) -> None:
        self.part = part
        self._about: dict[str, Any] = json.loads(part.content["about"].tobytes())
        self._search_path = search_path
        if self._about["is_private"]:
            raise Refused(
                f"the model '{part.model}' was trained so that this silo's rows stay hidden from "
                "the other silos; scoring would show an embedding of every row. Train without a "
                "privacy section where rows shall be scored",
                code="privacy",
            )

    def outward(self, features: Array) -> Mapping[str, Array]:
        """Return each row's embedding, float32, [rows, width]."""
        bottom = self._bottom()
        self._put_weights(bottom)
        clip = self._about["clip"]
        embeddings = in_pieces(lambda rows: embed(bottom, rows, clip), _tensor(features))
        return {"embedding": embeddings.numpy()}

    def outputs(self, features: Array, others: Mapping[str, Mapping[str, Array]]) -> Array:
        """Return what the top model makes of all embeddings."""
        part, width = self.part, self._about["width"]
        told = []
        for name in sorted(set(part.members) - {part.label_silo}):
            embedding = others[name].get("embedding")
            require_shape(name, "embedding", embedding, (len(features), width))
            theirs = np.asarray(embedding, np.float32)
            require_finite(name, "embedding", theirs)
            told.append(_tensor(theirs))
        top = self._built(self._about["top"], width * len(part.members), self._about["num_outputs"])
        model = Joined(self._bottom(), top, self._about["clip"])
        self._put_weights(model)
        raw = in_pieces(model, _tensor(features), torch.cat(told, dim=1))
        task = Task.of(
            cast(TaskKind, part.task),
            num_classes=len(part.classes) or 2,
            num_targets=self._about["num_targets"],
            num_outputs=self._about["num_outputs"],
        )
        target = self._about.get("target")
        if target is not None:
            task = task.scaled(target["mean"], target["deviation"])
        return np.asarray(task.in_own_units(task.shape_outputs(raw).numpy()), np.float64)

    def _bottom(self) -> torch.nn.Module:
        about = self._about
        return self._built(about["bottom"], about["num_inputs"], about["width"], self.part.inputs)

    def _built(
        self,
        spec: Mapping[str, Any],
        inputs: int,
        outputs: int,
        input_names: Sequence[str] | None = None,
    ) -> torch.nn.Module:
        return build_model(
            {"class": spec["name"], "args": spec["args"]},
            num_inputs=inputs,
            num_outputs=outputs,
            seed=0,
            search_path=self._search_path,
            input_names=input_names,
        ).eval()

    def _put_weights(self, model: torch.nn.Module) -> None:
        set_weights(
            model,
            {
                name.removeprefix(_WEIGHTS): each
                for name, each in self.part.content.items()
                if name.startswith(_WEIGHTS)
            },
        )


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.float32))
