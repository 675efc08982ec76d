"""Mark what a silo that left is still part of: tags on the model versions in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from consilo.chain import now_utc
from consilo.departure import ModelVersion, traces_of
from flows import names

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tag_departed(client: MlflowClient, silo: str, runs: Path) -> tuple[list[ModelVersion], int]:
    """Tag every registered version that contains a silo's updates; safe to repeat.

    Returns:
        The versions that the records name, and how many of them the registry still has.

    Args:
        client: of the tracking server.
        silo: who left.
        runs: the folder of the coordinator's runs.
    """
    from mlflow.exceptions import MlflowException

    found = list(traces_of(silo, runs).models)
    present = 0
    for each in found:
        try:
            known = client.get_model_version(each.name, each.version)
            key = names.departed_tag(silo)
            if key not in known.tags:
                client.set_model_version_tag(each.name, each.version, key, now_utc())
            present += 1
        except MlflowException as cause:
            if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return found, present
