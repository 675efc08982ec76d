"""A trained model in a folder: columns of its contract in, predictions out.

This file lies in every saved model, and is all that is needed to use it: torch, numpy and pandas,
nothing of Consilo, so that a model outlives the project that made it. Nothing is pickled. Beside it
lie ``scoring.json`` (columns, scale, task) and either ``model.pt2`` (torch.export) or, for a model
that cannot be exported, ``weights.safetensors`` with its source.

```
from scoring import Model

model = Model("where/it/lies")
model.predict(frame)                    # refuses a frame with a row outside of the contract
model.predict(frame, invalid="flag")    # answers the other rows, and says why not these
```
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

CHUNK_ROWS = 4096
INVALID = "invalid"
"""The column that says why a row has no prediction; empty for a row that has one."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXACT = 2**53
"""From here on a float skips whole numbers: one that it would change is none of the contract's."""
_WORDS = {"true": 1.0, "false": 0.0}

Faults = dict[str, np.ndarray]
"""What is wrong, in words → which rows, bool."""


class OutsideContract(ValueError):
    """Rows hold values that the model's contract does not allow; nothing was predicted."""


class Model:
    """A trained model with the encoding of its inputs.

    Binary tasks answer the column ``probability`` (of the second class of the contract),
    multiclass tasks a column per class, regression a column per target, custom tasks their raw
    outputs. Where a job left out rows with a missing feature, such a row's answer is missing.

    Args:
        folder: where it lies.

    Attributes:
        spec: ``scoring.json``; ``spec["inputs"]`` names the network's inputs in order.
        forward: the network, from standardised inputs to outputs; where ``spec["target"]`` is
            there, to a standardised target, which `predict` takes back to its own units.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        self.spec: dict[str, Any] = json.loads((folder / "scoring.json").read_text("utf-8"))
        if (folder / "model.pt2").exists():
            self.forward: torch.nn.Module = torch.export.load(folder / "model.pt2").module()
        else:
            self.forward = _from_source(folder, self.spec["source"])

    def predict(
        self,
        frame: pd.DataFrame,
        *,
        invalid: Literal["refuse", "flag"] = "refuse",
        unreadable: Mapping[str, np.ndarray] | None = None,
    ) -> pd.DataFrame:
        """Return one row of predictions per row of columns; the frame's index is kept.

        An integer is taken for a number and 0 or 1 for a boolean; a code is text.

        Args:
            frame: has the model's columns, in any order; others are not looked at.
            invalid: what becomes of rows with a value outside of the contract: ``refuse`` raises,
                ``flag`` answers NaN for them, and says why in one more column, `INVALID`.
            unreadable: column → which rows held something that whoever read them could not read.

        Raises:
            OutsideContract: where rows are outside, unless they are flagged.
            ValueError: where a column is not there, or ``invalid`` is none of the two.
        """
        if invalid not in ("refuse", "flag"):
            raise ValueError(f"invalid: expected 'refuse' or 'flag', found {invalid!r}")
        wanted = [name for name, each in self.spec["columns"].items() if not each["optional"]]
        absent = [name for name in wanted if name not in frame.columns]
        if absent:
            raise ValueError(f"the frame has no column {', '.join(absent)}, which the model reads")
        values, faults = self._read(frame)
        for name, which in (unreadable or {}).items():
            faults[f"{name}: cannot be read"] = np.asarray(which, bool)
        wrong = np.zeros(len(frame), bool)
        for which in faults.values():
            wrong |= which
        if wrong.any() and invalid == "refuse":
            raise OutsideContract(self._told(faults, int(wrong.sum()), len(frame)))
        for each in values.values():
            if each.dtype == np.float64:  # of a frame that standardises itself only good rows count
                each[wrong] = np.nan
        answers = self._answers(frame, values)
        if wrong.any():
            answers[wrong] = np.nan
        if invalid == "flag":
            answers[INVALID if INVALID not in answers else f"{INVALID}_"] = _reasons(faults, wrong)
        return answers

    def _read(self, frame: pd.DataFrame) -> tuple[dict[str, np.ndarray], Faults]:
        """Return numbers (float64, missing NaN) and codes (int64, missing -1), and the faults."""
        values: dict[str, np.ndarray] = {}
        faults: Faults = {}
        for name, column in self.spec["columns"].items():
            there = name in frame.columns
            held = frame[name] if there else pd.Series(np.nan, index=frame.index)
            read = _codes if column["type"] == "category" else _numbers
            values[name], found = read(held, column)
            faults |= {f"{name}: {what}": rows for what, rows in found.items() if rows.any()}
        return values, faults

    def _answers(self, frame: pd.DataFrame, values: dict[str, np.ndarray]) -> pd.DataFrame:
        spec = self.spec
        inputs = self._inputs(values, len(frame))
        parts = [np.empty((0, len(spec["outputs"])), np.float32)]
        with torch.no_grad():
            for start in range(0, len(inputs), CHUNK_ROWS):
                chunk = torch.from_numpy(inputs[start : start + CHUNK_ROWS])
                parts.append(_shaped(spec["task"], self.forward(chunk)))
        told = np.concatenate(parts)
        target = spec.get("target")  # a model of a release before has none
        if target is not None:
            told = told * np.array(target["deviation"]) + np.array(target["mean"])
        answers = pd.DataFrame(told, columns=spec["outputs"], index=frame.index)
        if spec["drop_missing"]:
            gaps = np.zeros(len(frame), bool)
            for each in values.values():
                gaps |= np.isnan(each) if each.dtype == np.float64 else each < 0
            answers[gaps] = np.nan
        return answers

    def _inputs(self, values: dict[str, np.ndarray], rows: int) -> np.ndarray:
        numeric = self.spec["numeric"]
        raw = (
            np.column_stack([values[name] for name in numeric]) if numeric else np.empty((rows, 0))
        )
        mean, deviation = self._scale(raw)
        parts = [np.where(np.isnan(raw), 0.0, (raw - mean) / deviation)]
        for name, used in self.spec["categories"].items():
            allowed = self.spec["columns"][name]["allowed"]
            places = np.array([allowed.index(value) for value in used], np.int64)
            parts.append((values[name][:, None] == places).astype(np.float64))
        if self.spec["indicators"]:
            marked = [numeric.index(name) for name in self.spec["indicators"]]
            parts.append(np.isnan(raw[:, marked]).astype(np.float64))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _scale(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation: the model's, or, where each silo used its own, the frame's."""
        scale = self.spec["scale"]
        if scale is not None:
            return np.array(scale["mean"]), np.array(scale["deviation"])
        known = raw[~np.isnan(raw).all(axis=1)] if raw.shape[1] else raw
        if len(known) < 2:
            raise ValueError(
                "this model was trained on columns that each site standardised by its own rows; "
                "predict for two rows or more of one site at a time"
            )
        count = np.maximum((~np.isnan(known)).sum(axis=0), 1)
        mean = np.nansum(known, axis=0) / count
        squares = np.nansum((known - mean) ** 2, axis=0)
        deviation = np.sqrt(squares / np.maximum(count - 1, 1))
        usable = deviation > 1e-12 * np.maximum(1.0, np.abs(mean))
        return mean, np.where(usable, deviation, 1.0)

    def _told(self, faults: Faults, wrong: int, rows: int) -> str:
        lines = "".join(
            f"\n  - {what} ({int(which.sum())} of {rows} rows)" for what, which in faults.items()
        )
        contract = self.spec["contract"]
        return (
            f"{wrong} of {rows} rows are outside of the contract {contract}; nothing was predicted:"
            f"{lines}\ncorrect them, or let them be flagged (invalid: flag), which answers the "
            "other rows and says of each of these why"
        )


def _reasons(faults: Faults, wrong: np.ndarray) -> list[str]:
    reasons = [""] * len(wrong)
    for place in wrong.nonzero()[0]:
        reasons[place] = "; ".join(what for what, which in faults.items() if which[place])
    return reasons


def _numbers(series: pd.Series, column: Mapping[str, Any]) -> tuple[np.ndarray, Faults]:
    """Return a column as float64, and what of it the contract does not allow."""
    empty = series.isna().to_numpy(bool)
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_complex_dtype(series):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        unread = np.zeros(len(series), bool)
        large = np.abs(values) >= _EXACT
        if large.any() and pd.api.types.is_integer_dtype(series.dtype):
            unread[large] = [int(each) != int(float(each)) for each in series[large]]
            values[unread] = np.nan
    else:
        words = column["type"] == "boolean"
        read = [_number(each, words) for each in series.to_numpy(dtype=object)]
        blank = np.array([isinstance(each, str) and not each.strip() for each in series], bool)
        empty = empty | blank
        values = np.array([np.nan if each is None else each for each in read], np.float64)
        unread = np.array([each is None for each in read], bool) & ~empty
    endless = np.isinf(values)
    values = np.where(endless, np.nan, values)
    known = ~np.isnan(values)
    faults: Faults = {"is not a number": unread, "is not finite": endless}
    if not column["nullable"]:
        faults["is missing"] = empty
    if column["type"] == "integer":
        faults["is not a whole number"] = known & (values != np.round(values))
    if column["type"] == "boolean":
        faults["is neither true nor false"] = known & ~np.isin(values, (0.0, 1.0))
    elif column["allowed"] is not None:
        faults[_among(column["allowed"])] = known & ~np.isin(values, column["allowed"])
    low, high = column["range"]
    if low is not None:
        faults[f"is below {low:g}"] = known & (values < low)
    if high is not None:
        faults[f"is above {high:g}"] = known & (values > high)
    return values, faults


def _number(value: Any, words: bool) -> float | None:
    """Return a value as a number; None for one that is none, such as ``?``."""
    if isinstance(value, int | np.integer):
        whole = int(value)
        changes = abs(whole) >= _EXACT and (abs(whole) >= 2**1023 or int(float(whole)) != whole)
        return None if changes else float(whole)
    if isinstance(value, float | np.floating | np.bool_):
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    if words and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if not _NUMBER.fullmatch(text):
        return None
    is_whole = text.lstrip("+-").isdigit()
    return _number(int(text), words) if is_whole and len(text) < 400 else float(text)


def _codes(series: pd.Series, column: Mapping[str, Any]) -> tuple[np.ndarray, Faults]:
    """Return a column's codes as places in ``allowed``, -1 where missing, and what is wrong."""
    places = {value: place for place, value in enumerate(column["allowed"])}
    empty = series.isna().to_numpy(bool)
    raw = series.to_numpy(dtype=object)
    is_text = np.array([isinstance(each, str) for each in raw], bool)
    codes = np.array([places.get(each, -1) if isinstance(each, str) else -1 for each in raw])
    faults: Faults = {
        # 7 may have been 007: whoever read the number cannot know.
        "is a number, and the contract's codes are text; read the column as text": (
            ~is_text & ~empty
        ),
        _among(column["allowed"]): is_text & (codes < 0),
    }
    if not column["nullable"]:
        faults["is missing"] = empty
    return codes.astype(np.int64), faults


def _among(allowed: Iterable[Any]) -> str:
    texts = [str(each) for each in allowed]
    shown = ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")
    return f"is not one of {shown}"


def _shaped(task: str, outputs: torch.Tensor) -> np.ndarray:
    rows = len(outputs)
    if task == "binary":
        # Softmax over two logits is the sigmoid of their difference.
        two = outputs.ndim == 2 and outputs.shape[1] == 2
        logit = outputs[:, 1] - outputs[:, 0] if two else outputs.reshape(rows)
        return torch.sigmoid(logit)[:, None].numpy()
    if task == "multiclass":
        return torch.softmax(outputs, dim=1).numpy()
    return outputs.reshape(rows, -1).numpy()


def _from_source(folder: Path, source: Mapping[str, Any]) -> torch.nn.Module:
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
    args = {
        name: tuple(each) if name == "input_names" else each
        for name, each in source["args"].items()
    }
    model: torch.nn.Module = getattr(module, source["class"])(**args)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()
