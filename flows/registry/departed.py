"""Mark what a silo that left is still part of: tags on the model versions in the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from consilo.machine.files import write_atomic
from consilo.membership.coordinator import Coordinator
from consilo.record.chain import now_utc
from consilo.record.traces import ModelVersion, traces_of
from flows.registry import names

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tag_departed(home: Path, tracking_uri: str) -> dict[str, list[ModelVersion]]:
    """Tag every registered version that contains updates of a silo that was removed.

    Done once for each removal: ``HOME/departed.json`` remembers it, so that it may be called at any
    time, whether the silo left by itself or was struck off, with MLflow up or down.

    Returns:
        Silo → the versions that were tagged now.

    Args:
        home: the coordinator's directory.
        tracking_uri: of the MLflow server.
    """
    if not (home / "members.db").exists():
        return {}
    with Coordinator(home) as coordinator:
        gone = [n for n, each in coordinator.members.all().items() if each.state == "removed"]
    path = home / "departed.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    done = {name: when for name, when in known.items() if name in gone}  # who came back may go
    new = [name for name in gone if name not in done]
    if not new:
        return {}
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri)
    tagged = {}
    for name in new:
        models = traces_of(name, home / "runs").models
        tagged[name] = [each for each in models if _tag(client, each, name)]
        done[name] = now_utc()
    write_atomic(path, json.dumps(done, indent=1).encode())
    return tagged


def _tag(client: MlflowClient, model: ModelVersion, silo: str) -> bool:
    """Tag one version; return whether the registry still has it."""
    from mlflow.exceptions import MlflowException

    try:
        client.set_model_version_tag(model.name, model.version, names.departed_tag(silo), now_utc())
    except MlflowException as cause:
        if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
