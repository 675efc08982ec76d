"""The flow of a promotion, on a real Prefect with a worker and a real MLflow.

The model is of a kind that silos do not vote on, so that no federation is needed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from decided import coordinators_key, enrolled, trained

from consilo.contracts.contract import SHIPPED
from consilo.decisions.promotions import Promotions
from consilo.machine.processes import Supervisor
from flows.registry.champions import Champions
from flows.services.services import start_worker
from flows.tending.champions import champions
from flows.tending.servers import ask

pytestmark = [pytest.mark.flow, pytest.mark.slow, pytest.mark.timeout(600)]

_IN_PLACE = "prefect.deployments.steps.set_working_directory"
MODEL = "toy-promoted"
CLI = str(Path(sys.executable).with_name("consilo"))


def consilo(home: Path, *words: str) -> Any:
    command = [CLI, *words, "--dir", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def until(look: Any, *, within_s: float = 120) -> Any:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.3)
    pytest.fail("it did not come about")


def test_people_decide_by_form_or_by_shell_and_the_alias_follows(services, tmp_path):
    home, uri, api = tmp_path, services.tracking_uri, services.prefect_api
    coordinators_key(home)
    for version in (1, 2, 3):
        trained(home, version, model=MODEL, kind="vertical")
    addresses = {"superlink": "127.0.0.1:1", "prefect_api": api, "tracking_uri": uri}
    (home / "federation.json").write_text(
        json.dumps({**addresses, "ca_certificate": "", "silos": {}})
    )
    (home / "job.yaml").write_text(
        (SHIPPED / "jobs" / "breast_cancer.yaml").read_text().replace("breast-cancer", MODEL)
    )
    registry = f"{uri}/api/2.0/mlflow"
    ask(f"{registry}/registered-models/create", {"name": MODEL})
    for _ in range(3):
        ask(f"{registry}/model-versions/create", {"name": MODEL, "source": "s3://nowhere/model"})
    flow = ask(f"{api}/flows/", {"name": "promote"})["id"]
    made = ask(
        f"{api}/deployments/",
        {
            "name": "promotion",
            "flow_id": flow,
            "entrypoint": "flows/promote.py:promote",
            "pull_steps": [{_IN_PLACE: {"directory": str(SHIPPED.parent)}}],
            "work_pool_name": "consilo",
            "work_queue_name": "default",
            "enforce_parameter_schema": False,
        },
    )["id"]

    def asked(version: int) -> str:
        parameters = {"job": "job.yaml", "version": version, "home": str(home)}
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(ask(f"{api}/deployments/{made}/create_flow_run", body)["id"])

    def resumed(run: str) -> bool:
        time.sleep(8)  # as a person would need; its process goes on ending, with its folder
        told = ask(f"{api}/flow_runs/{run}/resume", answer)
        if told["status"] != "ACCEPT" and "schema not found" not in str(told):
            pytest.fail(str(told))
        return bool(told["status"] == "ACCEPT")

    def state(run: str, *kinds: str) -> Any:
        found = ask(f"{api}/flow_runs/{run}")["state"]
        if found["type"] in ("FAILED", "CRASHED") and found["type"] not in kinds:
            pytest.fail(str(found["message"]))
        return found if found["type"] in kinds else None

    answer = {"run_input": {"decision": "approve", "reason": "the form says so"}}
    with Supervisor() as supervisor:
        start_worker(supervisor, home, api)
        first = asked(1)
        until(lambda: state(first, "PAUSED"))
        until(lambda: resumed(first))
        assert until(lambda: state(first, "COMPLETED", "FAILED"))["name"] == "Approved"
        assert Champions(uri, ask).pointing(MODEL) == {"champion": 1}

        keys = enrolled(home, "bea")
        pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (home / "bea.key").write_bytes(keys["bea"].private_bytes(*pem))
        (home / "bea.key").chmod(0o600)
        second = asked(2)
        until(lambda: state(second, "PAUSED"))
        until(lambda: resumed(second))
        until(lambda: state(second, "RUNNING", "PENDING", "SCHEDULED"))
        until(lambda: state(second, "PAUSED"))  # the form decides nothing now
        assert Champions(uri, ask).pointing(MODEL) == {"champion": 1}
        key = ("--key", str(home / "bea.key"))
        told = consilo(home, "model", "approve", MODEL, "2", "--reason", "fair", *key)
        assert told["champion"] == 2
        ended = until(lambda: state(second, "COMPLETED", "FAILED"))
        assert ended["name"] == "Approved", ended["message"]
    assert Champions(uri, ask).pointing(MODEL) == {"champion": 2, "previous": 1}

    Champions(uri, ask).point(MODEL, "champion", 3)  # by hand
    (found,) = [e for e in champions(Champions(uri, ask), home, act=True) if MODEL in e.name]
    assert "points at version 3, and version 2 was decided" in found.what
    told = consilo(home, "model", "rollback", MODEL, "--reason", "slow", *key)
    assert (told["champion"], told["aliases_moved"]) == (1, True)
    assert Champions(uri, ask).pointing(MODEL) == {"champion": 1}
    assert Promotions.open(home, MODEL).unmoved == ""
