"""Each thing that would keep a silo from joining is found before it tries, and says what to do."""

from __future__ import annotations

import json
import ssl
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import clinic
import joint
import pytest
import yaml
from typer.testing import CliRunner

from consilo.membership.keys import load_or_create_authority
from silos.commands.app import app
from silos.gate.policy import TEMPLATE
from silos.membership.preflight import preflight

NOW = datetime.now(UTC)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A silo that lacks nothing but a coordinator."""
    place = tmp_path / "north"
    place.mkdir(mode=0o700)
    clinic.frame(40).to_csv(place / "rows.csv", index=False)
    (place / "silo.yaml").write_text(
        yaml.safe_dump({"name": "north", "data": {"rows": {"type": "csv", "path": "rows.csv"}}})
    )
    (place / "mapping.yaml").write_text("contract: clinic@1\n")
    (place / "mapping.yaml").chmod(0o600)
    (place / "clinic.yaml").write_text(clinic.CONTRACT)
    (place / "policy.yaml").write_text(TEMPLATE)
    return place


def look(place: Path, *, now: datetime = NOW, uid: int | None = None) -> dict[str, str]:
    owner = place.stat().st_uid or 12345
    points = preflight(place, now=now, uid=owner if uid is None else uid)
    assert all(bool(each.to_do) == (each.verdict != "ok") for each in points)
    return {each.name: each.verdict for each in points}


def test_a_silo_that_cannot_lock_code_in_or_does_not_is_told(place: Path) -> None:
    (place / "policy.yaml").write_text(TEMPLATE.replace("sandbox: required", "sandbox: off"))
    assert look(place)["sandbox"] == "warning"
    with tempfile.TemporaryDirectory(dir=sys.prefix, prefix="silo-") as inside:
        Path(inside).chmod(0o700)
        assert look(Path(inside))["sandbox"] == "warning"


def test_what_is_in_order_is_said_to_be(place: Path) -> None:
    found = look(place)
    for name in (
        "directory",
        "secrets",
        "write",
        "versions",
        "sandbox",
        "policy",
        "data",
        "contract clinic@1",
    ):
        assert found[name] == "ok", name
    assert found["membership"] == "failed"
    assert found["reachable"] == "failed"


def test_root_and_strangers_do_not_run_a_node(place: Path) -> None:
    assert look(place, uid=0)["user"] == "failed"
    assert look(place, uid=place.stat().st_uid + 1)["user"] == "failed"


def test_what_others_may_read_is_found(place: Path) -> None:
    (place / "silo.key").write_text("secret")
    (place / "silo.key").chmod(0o640)
    assert look(place)["secrets"] == "failed"
    (place / "silo.key").chmod(0o600)
    place.chmod(0o755)
    found = look(place)
    assert (found["secrets"], found["directory"]) == ("ok", "failed")


def test_a_policy_that_allows_nothing_is_found(place: Path) -> None:
    policy = place / "policy.yaml"
    policy.write_text(f"expires: {NOW.date() - timedelta(days=1)}\n{TEMPLATE}")
    assert look(place)["policy"] == "failed"
    policy.write_text(f"expires: {NOW.date() + timedelta(days=3)}\n{TEMPLATE}")
    assert look(place)["policy"] == "warning"
    policy.write_text("min_cohort: 2\n")
    assert look(place)["policy"] == "failed"
    policy.write_text("nonsense: 1\n")
    assert look(place)["policy"] == "failed"
    policy.unlink()
    assert look(place)["policy"] == "failed"


def test_rows_that_break_the_contract_are_found(place: Path) -> None:
    clinic.frame(40).assign(age=999.0).to_csv(place / "rows.csv", index=False)
    assert look(place)["contract clinic@1"] == "failed"
    (place / "mapping.yaml").write_text("contract: clinic@1\nconfirmed: false\n")
    assert look(place)["contract clinic@1"] == "failed"
    (place / "rows.csv").unlink()
    assert look(place)["contract clinic@1"] == "failed"


def test_a_silo_of_a_vertical_job_is_ready_with_its_own_columns(tmp_path: Path) -> None:
    """`preflight` wanted the columns of all silos where `check --job` does not."""
    place = joint.write_silos(tmp_path, joint.everybody())["shop"]
    place.chmod(0o700)
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({**joint.job_of().to_json(), "contract": "joint.yaml"}))
    for name in ("people.yaml", "joint.yaml"):
        (place / name).write_text((tmp_path / name).read_text())
    points = preflight(place, now=NOW, uid=12345)
    (point,) = (each for each in points if each.name == "contract joint@1")
    assert point.verdict == "failed"
    assert "--job" in point.to_do
    found = {each.name: each for each in preflight(place, now=NOW, uid=12345, job=job)}
    assert found["contract joint@1"].verdict == found["contract people@1"].verdict == "ok"


class Door(BaseHTTPRequestHandler):
    """Answers as the coordinator's door does: 200 and a Date."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def coordinator(tmp_path: Path, place: Path):
    authority = load_or_create_authority(tmp_path / "keys", hosts=["127.0.0.1"])
    server = HTTPServer(("127.0.0.1", 0), Door)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server_certificate, authority.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    (place / "ca.crt").write_bytes(authority.ca_certificate.read_bytes())
    address = f"127.0.0.1:{server.server_address[1]}"
    (place / "coordinator.yaml").write_text(f"address: {address}\n")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_pinned_coordinator_is_reached_and_its_clock_compared(
    place: Path, tmp_path: Path, coordinator: HTTPServer
) -> None:
    found = look(place, now=datetime.now(UTC))
    assert [found[each] for each in ("reachable", "tls", "clock")] == ["ok", "ok", "ok"]
    assert look(place, now=datetime.now(UTC) + timedelta(seconds=90))["clock"] == "warning"
    assert look(place, now=datetime.now(UTC) - timedelta(hours=2))["clock"] == "failed"
    other = load_or_create_authority(tmp_path / "other")
    (place / "ca.crt").write_bytes(other.ca_certificate.read_bytes())
    found = look(place, now=datetime.now(UTC))
    assert (found["reachable"], found["tls"]) == ("ok", "failed")
    assert "clock" not in found


def test_the_command_tells_programs_and_fails_where_a_point_does(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    result = CliRunner().invoke(app, ["preflight", "--json"])
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["ready"] is False
    assert {"name", "verdict", "found", "to_do"} == set(said["points"][0])
    shown = CliRunner().invoke(app, ["preflight"])
    assert "consilo silo init INVITATION" in shown.stdout
    assert shown.stdout.endswith("not ready\n")


def test_a_policy_to_start_from_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = CliRunner().invoke(app, ["policy", "--job", "heart", "--json"])
    told = json.loads(first.stdout)
    assert told.pop("narrowest") == (tmp_path / "policy.yaml").read_text()
    assert told == {"policy": "policy.yaml", "written": True, "rules": 1}
    (tmp_path / "policy.yaml").write_text(TEMPLATE + "# mine\n")
    assert "is valid" in CliRunner().invoke(app, ["policy"]).stdout
    assert (tmp_path / "policy.yaml").read_text().endswith("# mine\n")


def test_a_folder_for_known_rows_that_cannot_be_written_is_told(place, monkeypatch):
    (place / "file").write_text("")
    monkeypatch.setenv("CONSILO_STATE", str(place / "file"))
    assert look(place)["state"] == "warning"
    monkeypatch.setenv("CONSILO_STATE", str(place / "folder"))
    assert "state" not in look(place)
