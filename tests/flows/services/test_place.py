"""Where silos reach the coordinator: said once, kept, and in the server's certificate."""

import os
import socket
from pathlib import Path

import pytest

from consilo.errors import ConfigInvalid, ServiceFailed
from consilo.membership import keys
from consilo.membership.coordinator import Reachable
from flows.services.place import await_free, close_to_others, settle_place, taken_down, workplace


def test_what_is_said_once_is_kept_over_restarts(tmp_path: Path) -> None:
    first = settle_place(tmp_path)
    assert first.host == "127.0.0.1"
    assert settle_place(tmp_path) == first
    said = settle_place(tmp_path, host="0.0.0.0", advertise="fed.example.org")
    assert said.address == f"fed.example.org:{first.port}"
    assert settle_place(tmp_path) == said
    assert settle_place(tmp_path, port=9092).address == "fed.example.org:9092"


def test_every_address_is_no_address_to_connect_to(tmp_path: Path) -> None:
    before = settle_place(tmp_path)
    with pytest.raises(ConfigInvalid, match="--advertise"):
        settle_place(tmp_path, host="0.0.0.0")
    with pytest.raises(ConfigInvalid, match="port"):
        settle_place(tmp_path, port=70_000)
    assert settle_place(tmp_path) == before


def test_what_an_earlier_release_left_open_is_closed_and_a_persons_own_is_not(
    tmp_path: Path,
) -> None:
    home = tmp_path / "coordinator"
    for name in ("mlflow/artifacts/1/model.pt", "runs/study/record.jsonl", "jobs/mine.yaml"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("")
        (home / name).chmod(0o644)
    (home / "members.db").write_text("")
    (home / "logs").symlink_to("jobs")  # what it leads to is not followed
    home.chmod(0o755)
    close_to_others(home)
    modes = {str(each.relative_to(home)): each.lstat().st_mode & 0o777 for each in home.rglob("*")}
    assert home.stat().st_mode & 0o777 == 0o700
    assert modes["mlflow/artifacts/1/model.pt"] == modes["runs/study/record.jsonl"] == 0o600
    assert modes["members.db"] == 0o600
    assert modes["mlflow"] == modes["mlflow/artifacts/1"] == 0o700
    assert modes["jobs/mine.yaml"] == 0o644


def test_a_new_name_is_served_below_the_same_authority(tmp_path: Path) -> None:
    before = keys.load_or_create_authority(tmp_path)
    pinned = before.ca_certificate.read_bytes()
    named = keys.load_or_create_authority(tmp_path, hosts=["fed.example.org"])
    assert "fed.example.org" in keys.server_hosts(named.server_certificate)
    shown = named.server_certificate.read_bytes()
    assert named.ca_certificate.read_bytes() == pinned
    again = keys.load_or_create_authority(tmp_path, hosts=["fed.example.org"])
    assert again.server_certificate.read_bytes() == shown
    named.server_certificate.unlink()
    keys.load_or_create_authority(tmp_path)
    assert before.ca_certificate.read_bytes() == pinned  # silos have pinned it


def test_ports_of_prefect_and_mlflow_are_chosen_once(tmp_path: Path) -> None:
    # Each start had others, and links in records, tags and artifacts led nowhere.
    first = settle_place(tmp_path)
    assert len({first.port, first.prefect_port, first.mlflow_port}) == 3
    again = settle_place(tmp_path, host="0.0.0.0", advertise="fed.example.org")
    assert (again.prefect_port, again.mlflow_port) == (first.prefect_port, first.mlflow_port)


def test_a_place_of_a_former_release_gets_ports_beside_its_own(tmp_path: Path) -> None:
    Reachable(host="127.0.0.1", port=23_456).save(tmp_path)
    place = settle_place(tmp_path)
    assert place.port == 23_456
    assert place.prefect_port
    assert settle_place(tmp_path) == place


def test_a_kept_port_in_use_is_waited_for_then_refused_with_its_file(tmp_path: Path) -> None:
    place = settle_place(tmp_path)
    said: list[str] = []
    with (
        socket.create_server(("127.0.0.1", place.mlflow_port)),
        pytest.raises(ServiceFailed, match=f"{place.mlflow_port} of the MLflow server") as caught,
    ):
        await_free(tmp_path, place, said.append, within_s=0.3)
    assert str(tmp_path / "coordinator.yaml") in str(caught.value)
    assert said == [f"waiting for port {place.mlflow_port} of the MLflow server"]
    await_free(tmp_path, place, said.append, within_s=0.3)
    assert len(said) == 1


def test_a_second_one_is_refused_with_who_holds_it_and_takes_nothing_down(tmp_path: Path) -> None:
    # It started a second Prefect and MLflow on the same databases, and removed federation.json.
    file = tmp_path / "federation.json"
    file.write_text("of a predecessor that was killed")
    with taken_down(tmp_path):
        assert not file.exists()
        file.write_text("{}")
        with pytest.raises(ServiceFailed) as caught, taken_down(tmp_path):
            pass
        assert f"process {os.getpid()} holds it since 20" in str(caught.value)
        assert file.read_text() == "{}"
    assert not file.exists()
    with taken_down(tmp_path):
        pass


def test_a_place_made_for_what_is_refused_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def work(directory: Path | None, ended: Exception) -> None:
        with workplace(directory, "consilo-") as place:
            (place / "jobs").mkdir()
            raise ended

    asked = tmp_path / "asked"
    asked.mkdir()
    with pytest.raises(ConfigInvalid):
        work(asked, ConfigInvalid("--silos", ["too few"]))
    with pytest.raises(ConfigInvalid):
        work(None, ConfigInvalid("--silos", ["too few"]))
    assert list(tmp_path.iterdir()) == [asked]
    with pytest.raises(ServiceFailed):
        work(None, ServiceFailed("it did not come up; its log says why"))
    assert len(list(tmp_path.glob("consilo-*/jobs"))) == 1
