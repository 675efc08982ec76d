"""Log a trained model to MLflow and register it, with everything that leads back to its run."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from consilo.cards.model_files import digests_in, whole
from consilo.contracts.contract import Column, Contract
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.models.folder import SOURCE, Scored, example_frame, output_names, write_model
from consilo.runs.outcome import RunResult, RunStatus
from flows.registry import names

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

_SCORING = Path(__file__).with_name("scoring_model.py")


@dataclass(frozen=True)
class Registered:
    """A version in the model registry.

    Args:
        name: the registered model's.
        version: counted by the registry.
        uri: ``models:/NAME@ALIAS``.
        model_id: of the logged model behind it.
        format: how it was written, such as `consilo.models.folder.EXPORTED`.
        alias: that will point at it.
        digests: its own files, path → SHA-256.
    """

    name: str
    version: str
    uri: str
    model_id: str
    format: str
    alias: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, str]:
        """Return what the run's summary says of it."""
        return {
            "name": self.name,
            "version": self.version,
            "uri": self.uri,
            "version_uri": f"models:/{self.name}/{self.version}",
            "format": self.format,
            "files": whole(self.digests),
        }


def register(
    client: MlflowClient,
    run_id: str,
    scored: Scored,
    *,
    metrics: Mapping[str, float],
    status: RunStatus,
) -> Registered:
    """Log the model below its MLflow run and make it a version of the registered model.

    It has no alias yet: `label` gives it one, once its tags are there.

    Args:
        client: of the tracking server.
        run_id: the MLflow run.
        scored: the model.
        metrics: of the final model; they are tied to it.
        status: how its run ends; decides the alias.
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

    return versioned(client, run_id, scored.job, metrics=metrics, status=status, save=save)


def versioned(
    client: MlflowClient,
    run_id: str,
    job: ModelJob,
    *,
    metrics: Mapping[str, float],
    status: RunStatus,
    save: Callable[[Path, Model], str],
) -> Registered:
    """Log a model below its MLflow run and make it a version of the job's registered model.

    Args:
        client: of the tracking server.
        run_id: the MLflow run.
        job: names the model.
        metrics: of the model; they are tied to it.
        status: how its run ends; decides the alias.
        save: writes the model's own files to ``parts`` in a folder, all that MLflow wants to
            ``saved``, and returns its format.
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
        digests = digests_in(folder / "parts")
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
        description=f"a {status} run of {job.kind} job {job.name}, contract {job.contract}",
    )
    alias = names.alias_of(status)
    uri = f"models:/{name}@{alias}"
    return Registered(name, str(made.version), uri, logged.model_id, kind, alias, digests)


def label(client: MlflowClient, registered: Registered, tags: Mapping[str, str]) -> None:
    """Write the tags that lead back to the run, then let its alias point at the version."""
    for key, value in tags.items():
        client.set_model_version_tag(registered.name, registered.version, key, value)
    client.set_registered_model_alias(registered.name, registered.alias, registered.version)


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
    promotion = getattr(job, "promotion", None)  # of jobs about a model
    held_to = {} if promotion is None else {names.TAG_PROMOTION: promotion.model_dump_json()}
    return {
        **held_to,
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


def continued_from(client: MlflowClient, job: ModelJob) -> dict[str, str]:
    """Return the tag that says from which run, and which version, a model was trained further."""
    if not job.earlier_runs:
        return {}
    run_id = job.earlier_runs[-1]
    versions = [
        str(each.version)
        for each in client.search_model_versions(f"name = '{job.name}'")
        if names.tag(each.tags, names.TAG_RUN) == run_id
    ]
    named = f", version {versions[0]}" if versions else ", which registered no model"
    return {names.TAG_CONTINUES: run_id + named}


def signature(scored: Scored, example: pd.DataFrame) -> ModelSignature:
    """Return the model's signature: the columns in the order of its inputs in, predictions out.

    MLflow's own types would turn away an integer for a number, pandas' nullable and category types,
    and a table with a stray ``?``; ``scoring.py`` judges each value by the contract instead.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    table = scored.contract.columns
    inputs = [
        ColSpec(AnyType(), name, required=not _optional(table[name])) for name in example.columns
    ]
    outputs = [ColSpec(DataType.float, name) for name in output_names(scored)]
    params = [ParamSpec("invalid", DataType.string, "refuse")]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


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


def _optional(column: Column) -> bool:
    return column.nullable_share >= 1.0
