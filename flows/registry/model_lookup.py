"""Find a registered model: which run trained it, and its files."""

from __future__ import annotations

from pathlib import Path

from consilo.errors import ConfigInvalid
from consilo.jobs.job import Job
from consilo.jobs.scoring import Scoring
from flows.registry import names
from flows.registry.vertical_registry import PARTS


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

    client, name = MlflowClient(tracking_uri), named.removeprefix("models:/")
    try:
        if "@" in name:
            version = client.get_model_version_by_alias(*name.split("@", 1))
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
    except (MlflowException, TypeError) as cause:
        raise ConfigInvalid(
            "protocol.args.model",
            [f"the registry has no '{named}'; expected models:/NAME@ALIAS or models:/NAME/VERSION"],
        ) from cause
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
    from mlflow.exceptions import MlflowException

    try:
        place = mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri)
    except (MlflowException, OSError) as cause:
        raise ConfigInvalid(
            uri,
            [f"the registry at {tracking_uri} has no such model; expected models:/NAME@ALIAS "
             "or models:/NAME/VERSION"],
        ) from cause  # fmt: skip
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
