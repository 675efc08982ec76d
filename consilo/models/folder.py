"""Write a trained model as a folder that needs nothing of Consilo to be used."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import torch

from consilo.contracts.contract import Column, Contract
from consilo.horizontal.features import Encoding, Scale
from consilo.jobs.model_job import ModelJob
from consilo.learners.modules import told
from consilo.learners.torch_learner import TorchLearner
from consilo.wire import params as tree

if TYPE_CHECKING:
    import pandas as pd

EXPORTED = "torch.export"
SOURCE = "source and safetensors"
JOB_FILE = "job.json"
CONTRACT_FILE = "contract.json"
SCORING_FILE = "scoring.py"
_SCORING = Path(__file__).with_name("scoring.py")


@dataclass(frozen=True)
class Scored:
    """A trained model and all it takes to use it on canonical columns.

    Args:
        job: what was run.
        contract: what its columns mean.
        encoding: how columns become inputs.
        scale: what standardises them; None where each silo used its own.
        learner: with the trained parameters loaded.
    """

    job: ModelJob
    contract: Contract
    encoding: Encoding
    scale: Scale | None
    learner: TorchLearner


def write_model(scored: Scored, folder: Path) -> str:
    """Write the model's files and return how it was written: `EXPORTED` or `SOURCE`.

    What reads them, `consilo.models.scoring`, is one of them.

    An exported program needs no source. Where torch cannot export the module, its source file
    travels with the weights.
    """
    spec = _spec(scored)
    model = copy.deepcopy(scored.learner.model).eval()
    kind = EXPORTED
    if not _export(model, len(scored.encoding.inputs), folder / "model.pt2"):
        kind = SOURCE
        spec["source"] = _write_source(scored, model, folder)
    (folder / "scoring.json").write_text(json.dumps(spec, indent=2), encoding="utf-8")
    shutil.copyfile(_SCORING, folder / SCORING_FILE)
    (folder / JOB_FILE).write_text(json.dumps(scored.job.to_json(), indent=2))
    (folder / CONTRACT_FILE).write_text(scored.contract.to_json(), encoding="utf-8")
    return kind


def example_frame(contract: Contract, encoding: Encoding) -> pd.DataFrame:
    """Return one made-up row of canonical columns, from the contract's ranges and values alone.

    The columns stand in the order of the model's inputs: numbers first, then categories.
    """
    import pandas as pd

    row: dict[str, list[Any]] = {}
    for name in (*encoding.numeric, *encoding.categories):
        column = contract.columns[name]
        if column.type == "category":
            row[name] = [str((column.allowed or ("",))[0])]
        elif column.type == "boolean":
            row[name] = [False]
        else:
            middle = _middle(column)
            row[name] = [round(middle) if column.type == "integer" else middle]
    return pd.DataFrame(row)


def output_names(scored: Scored) -> list[str]:
    """Return the names of the columns that the model answers."""
    task, encoding = scored.job.task, scored.encoding
    if task == "binary":
        return ["probability"]
    if task == "multiclass":
        return [str(each) for each in encoding.classes]
    width = _width(scored)
    if task == "regression" and width == len(encoding.targets):
        return list(encoding.targets)
    return ["output"] if width == 1 else [f"output_{place}" for place in range(width)]


def _spec(scored: Scored) -> dict[str, Any]:
    encoding, scale, task = scored.encoding, scored.scale, scored.learner.task
    return {
        "contract": scored.contract.ref,
        "task": scored.job.task,
        "inputs": list(encoding.inputs),
        "columns": {
            name: _rules(scored.contract.columns[name])
            for name in (*encoding.numeric, *encoding.categories)
        },
        "numeric": list(encoding.numeric),
        "categories": {name: list(values) for name, values in encoding.categories.items()},
        "indicators": list(encoding.indicators),
        "drop_missing": encoding.drop_missing,
        "classes": list(encoding.classes),
        "outputs": output_names(scored),
        "scale": None
        if scale is None
        else {"mean": scale.mean.tolist(), "deviation": scale.deviation.tolist()},
        "target": {"mean": list(task.mean), "deviation": list(task.deviation)}
        if task.mean
        else None,
        "source": None,
    }


def _rules(column: Column) -> dict[str, Any]:
    """Return what a value of the column must obey; what is a mere warning is not asked of it."""
    bounds = column.range
    asked = bounds is not None and (bounds.severity or column.severity) == "error"
    allowed = column.allowed if column.type == "category" or column.severity == "error" else None
    return {
        "type": column.type,
        "unit": column.unit,
        "nullable": column.nullable_share > 0 or column.severity == "warning",
        "range": [bounds.min, bounds.max] if bounds is not None and asked else [None, None],
        "allowed": allowed and [_as_held(column, each) for each in allowed],
        "optional": column.nullable_share >= 1.0,
    }


def _as_held(column: Column, value: Any) -> Any:
    return str(value) if column.type == "category" else value


def _export(model: torch.nn.Module, num_inputs: int, path: Path) -> bool:
    rows = torch.linspace(-1.0, 1.0, 5 * num_inputs).reshape(5, num_inputs)
    exporter = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # a model that falls back to its source is no warning
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, (rows[:3],), dynamic_shapes=({0: torch.export.Dim("rows")},)
            )
            # Example inputs would be written as a pickle of tensors.
            program.example_inputs = None
            torch.export.save(program, path)
            again = torch.export.load(path).module()
            same = torch.allclose(again(rows), model(rows), rtol=1e-5, atol=1e-6)
    except Exception:  # whatever torch's exporter cannot do with a user's module
        same = False
    finally:
        exporter.setLevel(level)
    if not same:
        path.unlink(missing_ok=True)
    return same


def _write_source(scored: Scored, model: torch.nn.Module, folder: Path) -> dict[str, Any]:
    kind = type(model)
    file = Path(inspect.getfile(kind))
    (folder / "source").mkdir()
    shutil.copyfile(file, folder / "source" / file.name)
    arrays = {name: np.ascontiguousarray(value) for name, value in _state(model).items()}
    (folder / "weights.safetensors").write_bytes(safetensors.numpy.save(arrays))
    accepted = inspect.signature(kind).parameters
    inputs, num_outputs = scored.encoding.inputs, scored.learner.task.num_outputs
    args = told(accepted, len(inputs), num_outputs, inputs)
    return {
        "file": file.name,
        "class": kind.__qualname__,
        "args": {**args, **scored.job.module.args},
    }


def _state(model: torch.nn.Module) -> tree.Params:
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def _width(scored: Scored) -> int:
    model = scored.learner.model
    was_training = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(torch.zeros(2, len(scored.encoding.inputs)))
    model.train(was_training)
    return int(outputs[0].numel())


def _middle(column: Column) -> float:
    bounds = column.typical or column.range
    if bounds is None:
        return 1.0
    # Dates are bounds of date columns, and no model reads those.
    ends = [float(end) for end in (bounds.min, bounds.max) if isinstance(end, int | float)]
    return sum(ends) / len(ends)
