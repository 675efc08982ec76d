"""Register a vertical model: references to the parts that the silos keep, and what led to them."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from consilo.runs.outcome import RunStatus
from consilo.runs.vertical import VerticalRun
from flows.registry import names
from flows.registry.registry import Registered, pyfunc, versioned

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

PARTS = "parts in the silos"
"""The format of a vertical model."""
_MODEL = Path(__file__).with_name("vertical_model.py")


def register(
    client: MlflowClient, run_id: str, run: VerticalRun, *, status: RunStatus
) -> Registered:
    """Make a version of the registered model out of references.

    Args:
        client: of the tracking server.
        run_id: the MLflow run.
        run: evaluated, so that the silos keep their parts.
        status: how it ends; decides the alias.
    """

    def save(folder: Path, model: Any) -> str:
        parts = folder / "parts"
        parts.mkdir()
        write_references(run, parts)
        with warnings.catch_warnings():
            # There is none to give: nothing can be predicted where the entry lies.
            warnings.filterwarnings("ignore", message=".*input example was not provided.*")
            pyfunc().save_model(
                folder / "saved",
                python_model=str(_MODEL),
                artifacts={"model": str(parts)},
                mlflow_model=model,
                signature=_signature(run),
                pip_requirements=[f"{each}=={version(each)}" for each in ("mlflow", "pandas")],
            )
        return PARTS

    return versioned(client, run_id, run.job, metrics=run.metrics, status=status, save=save)


def _signature(run: VerticalRun) -> ModelSignature:
    """Return the model's inputs: the columns of all silos."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    held = [name for names in run.settings.columns.values() for name in names]
    return ModelSignature(inputs=Schema([ColSpec(AnyType(), name) for name in held]))


def write_references(run: VerticalRun, folder: Path) -> None:
    """Write job, contract, references, and the label silo's part where the job releases it."""
    holders = run.settings
    about = {
        "model": run.run_id,
        "protocol": run.job.protocol.name,
        "label_silo": holders.label_silo,
        "match": holders.match,
        "columns": {name: list(each) for name, each in holders.columns.items()},
        "parts": run.references,
        "released": bool(run.state.top),
    }
    (folder / names.PARTS_FILE).write_text(json.dumps(about, indent=2), encoding="utf-8")
    (folder / names.JOB_FILE).write_text(json.dumps(run.job.to_json(), indent=2))
    (folder / names.CONTRACT_FILE).write_text(run.contract.to_json(), encoding="utf-8")
    if run.state.top:
        arrays = {name: np.ascontiguousarray(each) for name, each in run.state.top.items()}
        (folder / "top.safetensors").write_bytes(safetensors.numpy.save(arrays))
