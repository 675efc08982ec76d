"""What a person is told of a federation that is up, half up, or not up at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from typer import Typer
from typer.testing import CliRunner

from consilo.errors import CoordinatorUnreachable
from consilo.machine.processes import Supervisor, free_port
from flows.commands.status import status
from flows.services.prefect_log import LOGGING, started
from flows.services.services import prefect_log
from flows.services.watch import Watch

app = Typer()
app.command()(status)


def ask(home, *options):
    return CliRunner().invoke(app, ["--dir", str(home), *options])


def write_addresses(home) -> None:
    """Let the directory say where a federation answers, which is nowhere."""
    nobody = f"127.0.0.1:{free_port()}"
    told = {"superlink": nobody, "ca_certificate": "ca.crt", "silos": {}}
    told |= {"prefect_api": f"http://{nobody}/api", "tracking_uri": f"http://{nobody}"}
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
    write_addresses(tmp_path)
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


def test_errors_of_prefects_scheduler_are_wrong(tmp_path):
    write_addresses(tmp_path)
    failing(tmp_path)
    found = ask(tmp_path)
    assert found.exit_code == 1
    said = " ".join(found.stdout.split())
    assert "service │ SuperLink │ down" in said, found.stdout
    assert (
        "wrong: Prefect fails in schedule_deployments: sqlalchemy.exc.InvalidRequestError: "
        "Can't evaluate bulk DML statement (once, last "
    ) in said
    assert "requirements.lock" in said


def test_a_watch_says_each_error_once(tmp_path):
    said: list[str] = []
    seconds = iter(range(0, 1000, 10))
    watch = Watch(tmp_path, Supervisor(), said.append, clock=lambda: next(seconds))
    watch.look()
    assert said == []
    failing(tmp_path)
    watch.look()
    watch.look()
    (line,) = said
    assert line.startswith("Prefect fails in schedule_deployments: ")
    assert f"consilo status --dir {tmp_path}" in line
