"""A silo that left stays in the models that it trained: the registry says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from consilo.membership.coordinator import Coordinator
from consilo.membership.keys import load_or_create_silo_key
from consilo.membership.software import installed
from consilo.record.run_record import RunRecord
from consilo.wire.signing import public_hex
from flows.registry import names
from flows.registry.departed import tag_departed
from tests.flows.conftest import Services

pytestmark = pytest.mark.flow


def trained(home: Path, run: str, model: str, version: str, silos: list[str]) -> None:
    record = RunRecord(home / "runs" / run / "record.jsonl", Ed25519PrivateKey.generate())
    record.add("opened", run_id=run)
    for number in (1, 2):
        record.add("round", round=number, silos={n: {"num_examples": 30} for n in silos})
    record.add("model", model={"name": model, "version": version})
    record.close(status="complete")


def joined(home: Path, name: str) -> None:
    with Coordinator(home) as coordinator:
        coordinator.invite(name, "127.0.0.1:1")
        public = load_or_create_silo_key(home / f"{name}.key")
        signing = public_hex(Ed25519PrivateKey.generate())
        coordinator.members.enrol(name, public, signing, installed())
        coordinator.admit(name)


def test_versions_with_a_departed_silos_updates_are_tagged_once(
    tmp_path: Path, services: Services
) -> None:
    client = MlflowClient(tracking_uri=services.tracking_uri)
    client.create_registered_model("departure")
    run = client.create_run("0").info
    source = f"{run.artifact_uri}/model"
    versions = [
        client.create_model_version("departure", source, run_id=run.run_id).version
        for _ in range(2)
    ]
    home = tmp_path / "home"
    trained(home, "one", "departure", str(versions[0]), ["north", "south"])
    trained(home, "two", "departure", str(versions[1]), ["south"])
    trained(home, "three", "deleted", "9", ["north"])
    for name in ("north", "south"):
        joined(home, name)

    assert tag_departed(home, services.tracking_uri) == {}
    with Coordinator(home) as coordinator:
        coordinator.remove("north")
    found = tag_departed(home, services.tracking_uri)
    assert [(each.name, each.version, each.rounds) for each in found["north"]] == [
        ("departure", str(versions[0]), 2)
    ]
    key = names.departed_tag("north")
    tags = [client.get_model_version("departure", each).tags for each in versions]
    assert key in tags[0]
    assert key not in tags[1]
    assert tag_departed(home, services.tracking_uri) == {}


def test_a_registry_that_is_down_is_tried_again(
    tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    home = tmp_path / "home"
    trained(home, "one", "never", "1", ["north"])
    joined(home, "north")
    with Coordinator(home) as coordinator:
        coordinator.remove("north")
    with pytest.raises(MlflowException):
        tag_departed(home, "http://127.0.0.1:1")
    assert not (home / "departed.json").exists()
    assert tag_departed(home, services.tracking_uri) == {"north": []}
