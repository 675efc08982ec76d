"""Find a registered model: which run trained it, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from consilo.errors import ConfigInvalid
from consilo.jobs.job import Job
from consilo.jobs.scoring import Scoring
from flows.registry import names
from flows.registry.vertical_registry import PARTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def with_model(job: Job, tracking_uri: str) -> Job:
    """Return a scoring job with the id of the run that trained its model.

    Args:
        job: its ``protocol.args.model`` may be ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        tracking_uri: where the registry is.

    Raises:
        ConfigInvalid: where the registry has no such model, or one that is no vertical model.
    """
    named = str(job.protocol.args.get("model", "")) if isinstance(job, Scoring) else ""
    if not isinstance(job, Scoring) or not named.startswith("models:/"):
        return job
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        version = _version(MlflowClient(tracking_uri), named.removeprefix("models:/"))
    except (MlflowException, TypeError) as cause:
        told = f"'{named}': {_why_not(cause, tracking_uri)}"
        raise ConfigInvalid("protocol.args.model", [told]) from cause
    tags = version.tags or {}
    if names.tag(tags, names.TAG_FORMAT) != PARTS:
        raise ConfigInvalid(
            "protocol.args.model", [f"'{named}' is no vertical model: it needs no scoring job"]
        )
    return job.changed(
        protocol={"args": {**job.protocol.args, "model": names.tag(tags, names.TAG_RUN)}}
    )


def fetched(uri: str, tracking_uri: str) -> Path:
    """Return the folder of a registered model's own files, fetched from the registry.

    Args:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        tracking_uri: where the registry is.

    Raises:
        ConfigInvalid: where the registry has no such model, or one that cannot be used here.
    """
    import mlflow.artifacts
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, name = MlflowClient(tracking_uri), uri.removeprefix("models:/")
    try:
        version = _version(client, name)
        # A `models:/` address would be looked up in the process's own registry, whatever is said.
        place = mlflow.artifacts.download_artifacts(
            artifact_uri=files_at(client, version.name, version.version), tracking_uri=tracking_uri
        )
    except (MlflowException, TypeError, OSError) as cause:
        raise ConfigInvalid(uri, [_why_not(cause, tracking_uri)]) from cause
    found = sorted(Path(place).rglob("scoring.json"))
    if not found:
        raise ConfigInvalid(
            uri, ["its parts lie in the silos; a job of kind 'scoring' scores with them"]
        )
    if not (found[0].parent / "scoring.py").exists():
        raise ConfigInvalid(
            uri, ["a former release registered it; load it with mlflow.pyfunc.load_model"]
        )
    return found[0].parent


def number_of(client: MlflowClient, name: str, version: str) -> str:
    """Return the number of a version that is given by its number or an alias.

    Raises:
        ConfigInvalid: where the registry has no such version.
    """
    from mlflow.exceptions import MlflowException

    if version.isdecimal():
        return str(int(version))
    try:
        return str(client.get_model_version_by_alias(name, version).version)
    except MlflowException as cause:
        raise ConfigInvalid(
            f"{name}@{version}", [_why_not(cause, str(client.tracking_uri))]
        ) from cause


def _why_not(cause: Exception, tracking_uri: str) -> str:
    """Return why a model was not found: it is not there, or its registry is away."""
    if getattr(cause, "error_code", "") in _NOT_THERE or isinstance(cause, TypeError):
        return (
            f"the registry at {tracking_uri} has no such model; expected models:/NAME@ALIAS "
            "or models:/NAME/VERSION"
        )
    return (
        f"the registry at {tracking_uri} does not answer for it: {str(cause)[:200]}; is "
        "'consilo up' running there?"
    )


def _version(client: MlflowClient, name: str) -> ModelVersion:
    """Return the version that ``NAME@ALIAS`` or ``NAME/VERSION`` is."""
    if "@" in name:
        return client.get_model_version_by_alias(*name.split("@", 1))
    return client.get_model_version(*name.rsplit("/", 1))


def files_at(client: MlflowClient, name: str, version: str) -> str:
    """Return where a version's files lie, as the server says it."""
    place = str(client.get_model_version_download_uri(name, version))
    if place.startswith("models:/"):
        return str(client.get_logged_model(place.removeprefix("models:/")).artifact_location)
    return place
