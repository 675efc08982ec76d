"""What a person is told of a federation that is up, half up, or not up at all."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import pytest
from typer import Typer
from typer.testing import CliRunner

from consilo.errors import CoordinatorUnreachable
from consilo.processes import Supervisor, free_port
from flows.prefect_log import LOGGING, started
from flows.services import prefect_log
from flows.status_command import status
from flows.watch import Watch

app = Typer()
app.command()(status)


def ask(home, *options):
    return CliRunner().invoke(app, ["--dir", str(home), *options])


def write_addresses(home, *, prefect: str, mlflow: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    told = {"superlink": nobody, "ca_certificate": "ca.crt", "silos": {}}
    told |= {"prefect_api": prefect, "tracking_uri": mlflow}
    (home / "federation.json").write_text(json.dumps(told))


def failing(home) -> None:
    """Let Prefect's log say that its scheduler has just failed."""
    when = datetime.now(UTC).strftime(LOGGING["PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT"])
    log = prefect_log(home)
    log.parent.mkdir(exist_ok=True)
    log.write_text(
        f"{started()}\n{when} | ERROR   | docket.dependencies - ↩ [    58ms] "
        "schedule_deployments(){schedule_deployments}\nTraceback (most recent call last):\n"
        "sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement\n"
    )


def test_without_a_federation_the_error_says_how_to_start_one(tmp_path):
    found = ask(tmp_path)
    assert found.exit_code == 1
    assert isinstance(found.exception, CoordinatorUnreachable)
    assert f"consilo up --dir {tmp_path}" in str(found.exception)


def test_services_that_died_are_told_with_what_to_do(tmp_path):
    dead = f"http://127.0.0.1:{free_port()}"
    write_addresses(tmp_path, prefect=f"{dead}/api", mlflow=dead)
    found = ask(tmp_path, "--json")
    told = json.loads(found.stdout)
    assert found.exit_code == 1
    assert [(each["name"], each["state"]) for each in told["services"]] == [
        ("SuperLink", "down"),
        ("Prefect", "down"),
        ("MLflow", "down"),
    ]
    assert len(told["wrong"]) == 3
    assert f"look into {tmp_path / 'logs'}" in told["wrong"][0]


@pytest.mark.flow
def test_errors_of_prefects_scheduler_are_wrong(services, tmp_path):
    write_addresses(tmp_path, prefect=services.prefect_api, mlflow=services.tracking_uri)
    failing(tmp_path)
    found = ask(tmp_path)
    assert found.exit_code == 1
    said = " ".join(found.stdout.split())
    for part in ("Prefect │ up", "MLflow │ up", "SuperLink │ down"):
        assert part in said, found.stdout
    assert (
        "wrong: Prefect fails in schedule_deployments: sqlalchemy.exc.InvalidRequestError: "
        "Can't evaluate bulk DML statement (once, last "
    ) in said
    assert "requirements.lock" in said


def test_a_watch_says_each_error_once(tmp_path):
    said: list[str] = []
    watch = Watch(tmp_path, (), said.append)
    watch.look()
    assert said == []
    failing(tmp_path)
    watch.look()
    watch.look()
    (line,) = said
    assert line.startswith("Prefect fails in schedule_deployments: ")
    assert f"consilo status --dir {tmp_path}" in line


def test_a_watch_says_that_a_service_ended(tmp_path):
    said: list[str] = []
    with Supervisor() as supervisor:
        command = [sys.executable, "-c", "raise SystemExit(3)"]
        service = supervisor.start("the Prefect worker", command, log=tmp_path / "worker.log")
        service.process.wait(30)
        watch = Watch(tmp_path, supervisor.services, said.append)
        watch.look()
        watch.look()
    assert said == [f"the Prefect worker ended with exit code 3; log: {tmp_path / 'worker.log'}"]
