"""Which run trained a registered vertical model."""

from __future__ import annotations

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
    if tags.get(names.TAG_FORMAT) != PARTS:
        raise ConfigInvalid(
            "protocol.args.model", [f"'{named}' is no vertical model: it needs no scoring job"]
        )
    return job.changed(protocol={"args": {**job.protocol.args, "model": tags[names.TAG_RUN]}})
