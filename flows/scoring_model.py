"""The registered model, as MLflow loads it: canonical columns in, predictions out.

MLflow copies this file into the model and runs it there ("models from code"), so it needs torch,
numpy and pandas but nothing of Consilo: a model outlives the project that made it. Nothing is
pickled. The folder beside it holds ``scoring.json`` (columns, scale, task) and either ``model.pt2``
(torch.export) or, for a model that cannot be exported, ``weights.safetensors`` with its source.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

CHUNK_ROWS = 4096


class ScoringModel(PythonModel):  # type: ignore[misc]  # mlflow is not followed
    """A trained model with the encoding of its inputs; ``predict`` keeps the frame's index.

    Binary tasks answer the column ``probability`` (of the second class of the contract),
    multiclass tasks a column per class, regression a column per target, custom tasks their raw
    outputs. Where a job left out rows with a missing feature, such a row's answer is missing.
    """

    def load_context(self, context: Any) -> None:
        """Read the model's folder."""
        self.open(Path(context.artifacts["model"]))

    def open(self, folder: Path) -> None:
        """Read the model from ``folder``."""
        self.spec = json.loads((folder / "scoring.json").read_text(encoding="utf-8"))
        if (folder / "model.pt2").exists():
            self.forward: torch.nn.Module = torch.export.load(folder / "model.pt2").module()
        else:
            self.forward = _from_source(folder, self.spec["source"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one row of predictions per row of canonical columns."""
        raw = _numeric(model_input, self.spec["numeric"])
        inputs = self._inputs(model_input, raw)
        parts = [np.empty((0, len(self.spec["outputs"])), np.float32)]
        with torch.no_grad():
            for start in range(0, len(inputs), CHUNK_ROWS):
                chunk = torch.from_numpy(inputs[start : start + CHUNK_ROWS])
                parts.append(_answers(self.spec["task"], self.forward(chunk)))
        answers = pd.DataFrame(
            np.concatenate(parts), columns=self.spec["outputs"], index=model_input.index
        )
        if self.spec["drop_missing"]:
            wanted = [*self.spec["numeric"], *self.spec["categories"]]
            answers[model_input[wanted].isna().any(axis=1)] = np.nan
        return answers

    def _inputs(self, frame: pd.DataFrame, raw: np.ndarray) -> np.ndarray:
        mean, deviation = self._scale(raw)
        parts = [np.where(np.isnan(raw), 0.0, (raw - mean) / deviation)]
        for name, values in self.spec["categories"].items():
            column = frame[name].to_numpy(dtype=object)
            parts += [(column == value).astype(np.float64)[:, None] for value in values]
        if self.spec["indicators"]:
            places = [self.spec["numeric"].index(name) for name in self.spec["indicators"]]
            parts.append(np.isnan(raw[:, places]).astype(np.float64))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _scale(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation: the model's, or, where each silo used its own, the frame's."""
        scale = self.spec["scale"]
        if scale is not None:
            return np.array(scale["mean"]), np.array(scale["deviation"])
        if len(raw) < 2:
            raise ValueError(
                "this model was trained on columns that each site standardised by its own rows; "
                "predict for two rows or more of one site at a time"
            )
        mean, deviation = np.nanmean(raw, axis=0), np.nanstd(raw, axis=0, ddof=1)
        usable = np.isfinite(deviation) & (deviation > 1e-12 * np.maximum(1.0, np.abs(mean)))
        return np.where(np.isfinite(mean), mean, 0.0), np.where(usable, deviation, 1.0)


def _numeric(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    columns = [frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in names]
    return np.column_stack(columns) if columns else np.empty((len(frame), 0))


def _answers(task: str, outputs: torch.Tensor) -> np.ndarray:
    rows = len(outputs)
    if task == "binary":
        # Softmax over two logits is the sigmoid of their difference.
        two = outputs.ndim == 2 and outputs.shape[1] == 2
        logit = outputs[:, 1] - outputs[:, 0] if two else outputs.reshape(rows)
        return torch.sigmoid(logit)[:, None].numpy()
    if task == "multiclass":
        return torch.softmax(outputs, dim=1).numpy()
    return outputs.reshape(rows, -1).numpy()


def _from_source(folder: Path, source: dict[str, Any]) -> torch.nn.Module:
    from safetensors.torch import load_file

    home = str((folder / "source").resolve())
    spec = importlib.util.spec_from_file_location(
        "consilo_scored_source", f"{home}/{source['file']}"
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"the model's source {source['file']} cannot be read")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, home)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(home)
    model: torch.nn.Module = getattr(module, source["class"])(**source["args"])
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()


set_model(ScoringModel())
