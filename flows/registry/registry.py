"""Log a trained model to MLflow and register it, with everything that leads back to its run."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import torch

from consilo.contracts.contract import Column, Contract
from consilo.horizontal.features import Encoding, Scale
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.learners.torch_learner import TorchLearner
from consilo.runs.outcome import RunResult
from consilo.wire import params as tree
from flows.registry import names

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

EXPORTED = "torch.export"
SOURCE = "source and safetensors"
_SCORING = Path(__file__).with_name("scoring_model.py")


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


@dataclass(frozen=True)
class Registered:
    """A version in the model registry.

    Args:
        name: the registered model's.
        version: counted by the registry.
        uri: ``models:/NAME@candidate``.
        model_id: of the logged model behind it.
        format: `EXPORTED` or `SOURCE`.
    """

    name: str
    version: str
    uri: str
    model_id: str
    format: str

    def to_json(self) -> dict[str, str]:
        """Return what the run's summary says of it."""
        return {
            "name": self.name,
            "version": self.version,
            "uri": self.uri,
            "version_uri": f"models:/{self.name}/{self.version}",
            "format": self.format,
        }


def register(
    client: MlflowClient, run_id: str, scored: Scored, *, metrics: Mapping[str, float]
) -> Registered:
    """Log the model below its MLflow run and make it a version of the registered model.

    It has no alias yet: `label` gives it one, once its tags are there.

    Args:
        client: of the tracking server.
        run_id: the MLflow run.
        scored: the model.
        metrics: of the final model; they are tied to it.
    """

    def save(folder: Path, model: Model) -> str:
        parts = folder / "parts"
        parts.mkdir()
        kind = write_model(scored, parts)
        example = example_frame(scored.contract, scored.encoding)
        pyfunc().save_model(
            folder / "saved",
            python_model=str(_SCORING),
            artifacts={"model": str(parts)},
            mlflow_model=model,
            signature=signature(scored, example),
            input_example=example,
            # Named here: MLflow would find them out by loading the model in another process.
            pip_requirements=requirements(kind),
        )
        return kind

    return versioned(client, run_id, scored.job, metrics=metrics, save=save)


def versioned(
    client: MlflowClient,
    run_id: str,
    job: ModelJob,
    *,
    metrics: Mapping[str, float],
    save: Callable[[Path, Model], str],
) -> Registered:
    """Log a model below its MLflow run and make it a version of the job's registered model.

    Args:
        client: of the tracking server.
        run_id: the MLflow run.
        job: names the model.
        metrics: of the model; they are tied to it.
        save: writes the model to ``saved`` in a folder and returns its format.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from mlflow.utils.time import get_current_time_millis

    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, name=job.name, source_run_id=run_id, model_type="federated"
    )
    with tempfile.TemporaryDirectory(prefix="consilo-model-") as place:
        folder = Path(place)
        kind = save(
            folder,
            Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            ),
        )
        for cache in folder.rglob("__pycache__"):
            shutil.rmtree(cache)
        client.log_model_artifacts(logged.model_id, str(folder / "saved"))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    now = get_current_time_millis()
    tied = [
        Metric(
            names.global_metric(name),
            value,
            now,
            job.protocol.rounds,
            model_id=logged.model_id,
            run_id=run_id,
        )
        for name, value in metrics.items()
    ]
    client.log_batch(run_id, metrics=tied)
    name = job.name
    try:
        client.create_registered_model(name, description=job.description or None)
    except MlflowException as known:
        if known.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        model_id=logged.model_id,
        await_creation_for=None,  # our server answers when the version is there
    )
    return Registered(
        name, str(made.version), f"models:/{name}@{names.CANDIDATE}", logged.model_id, kind
    )


def label(
    client: MlflowClient, registered: Registered, tags: Mapping[str, str], *, alias: str
) -> None:
    """Write the tags that lead back to the run, then let ``alias`` point at the version."""
    for key, value in tags.items():
        client.set_model_version_tag(registered.name, registered.version, key, value)
    client.set_registered_model_alias(registered.name, alias, registered.version)


def model_tags(
    result: RunResult,
    job: Job,
    contract: Contract,
    *,
    bundle: str,
    kind: str,
    params_digest: str,
    record_head: str,
) -> dict[str, str]:
    """Return the tags of a registered version: where it comes from and what it cost."""
    trained = [name for name, each in result.silos.items() if each.rounds]
    spent = [each.epsilon for each in result.silos.values() if each.epsilon is not None]
    reproducible = job.privacy is not None and job.privacy.reproducible
    return {
        names.TAG_RUN: result.run_id,
        names.TAG_STATUS: result.status,
        names.TAG_REASON: result.reason,
        names.TAG_JOB_DIGEST: job.digest,
        names.TAG_CONTRACT: contract.ref,
        names.TAG_CONTRACT_DIGEST: contract.digest,
        names.TAG_BUNDLE: bundle or "in process",
        names.TAG_EPSILON: f"{max(spent):.6g}" if spent else "no differential privacy",
        names.TAG_DELTA: f"{job.privacy.delta:g}" if job.privacy else "no differential privacy",
        names.TAG_REPRODUCIBLE: "true" if reproducible else "false",
        names.TAG_SILOS: ", ".join(trained),
        names.TAG_FORMAT: kind,
        names.TAG_PARAMS: params_digest,
        names.TAG_RECORD: record_head,
    }


def write_model(scored: Scored, folder: Path) -> str:
    """Write the model's files and return how it was written: `EXPORTED` or `SOURCE`.

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
    (folder / names.JOB_FILE).write_text(json.dumps(scored.job.to_json(), indent=2))
    (folder / names.CONTRACT_FILE).write_text(scored.contract.to_json(), encoding="utf-8")
    return kind


def signature(scored: Scored, example: pd.DataFrame) -> ModelSignature:
    """Return the model's signature: the contract's features in, predictions out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    def kind(column: Column) -> DataType | AnyType:
        if column.type == "float":
            return DataType.double
        if column.nullable_share > 0 or column.type == "category":
            # MLflow refuses pandas' nullable and category types for its own; the model reads them.
            return AnyType()
        return DataType.long if column.type == "integer" else DataType.boolean

    table = scored.contract.columns
    inputs = [
        ColSpec(kind(table[name]), name, required=not _optional(table[name]))
        for name in example.columns
    ]
    outputs = [ColSpec(DataType.float, name) for name in output_names(scored)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def example_frame(contract: Contract, encoding: Encoding) -> pd.DataFrame:
    """Return one made-up row of canonical columns, from the contract's ranges and values alone."""
    import pandas as pd

    used = {*encoding.numeric, *encoding.categories}
    row: dict[str, list[Any]] = {}
    for name in contract.features:
        column = contract.columns[name]
        if name not in used:
            continue
        if column.type == "category":
            row[name] = [(column.allowed or ("",))[0]]
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


def requirements(kind: str) -> list[str]:
    """Return what a process needs to load the model: pinned, and nothing of ours."""
    wanted = ["mlflow", "torch", "numpy", "pandas"]
    if kind == SOURCE:
        wanted.append("safetensors")
    return [f"{each}=={version(each).partition('+')[0]}" for each in wanted]


def pyfunc() -> ModuleType:
    """Return ``mlflow.pyfunc``, imported without its own warnings."""
    with warnings.catch_warnings():
        # On import MLflow warns of a type hint in its own code.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType.*")
        return importlib.import_module("mlflow.pyfunc")


def _spec(scored: Scored) -> dict[str, Any]:
    encoding, scale = scored.encoding, scored.scale
    return {
        "task": scored.job.task,
        "numeric": list(encoding.numeric),
        "categories": {name: list(values) for name, values in encoding.categories.items()},
        "indicators": list(encoding.indicators),
        "drop_missing": encoding.drop_missing,
        "classes": list(encoding.classes),
        "outputs": output_names(scored),
        "scale": None
        if scale is None
        else {"mean": scale.mean.tolist(), "deviation": scale.deviation.tolist()},
        "source": None,
    }


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
    sizes = {
        "num_inputs": len(scored.encoding.inputs),
        "num_outputs": scored.learner.task.num_outputs,
    }
    args = {name: size for name, size in sizes.items() if name in accepted}
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


def _optional(column: Column) -> bool:
    return column.nullable_share >= 1.0


def _middle(column: Column) -> float:
    bounds = column.typical or column.range
    if bounds is None:
        return 1.0
    # Dates are bounds of date columns, and no model reads those.
    ends = [float(end) for end in (bounds.min, bounds.max) if isinstance(end, int | float)]
    return sum(ends) / len(ends)
