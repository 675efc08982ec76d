import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from consilo import keys
from consilo.errors import ConfigInvalid
from consilo.membership.coordinator import Coordinator
from silos import enrol
from silos.enrol import enrol_here
from silos.guard import CoordinatorConfig
from silos.node_config import NodeConfig


def test_enrolling_here_makes_the_same_files_and_may_be_done_again(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "anna"
    folder.mkdir()
    (folder / "node.yaml").write_text(
        yaml.safe_dump({"name": "anna", "superlink": "x:1", "refresh_s": 2.0})
    )
    first = enrol_here(home, folder, address="h:1", name="anna")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert enrol_here(home, folder, address="h:1", name="anna") == first
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert first.state == "admitted"
    config = NodeConfig.load(folder)
    assert (config.superlink, config.refresh_s) == ("h:1", 2.0)
    assert CoordinatorConfig.load(folder).address == "h:1"
    for secret in ("silo.key", "signing.key"):
        assert (folder / secret).stat().st_mode & 0o777 == 0o600


def test_a_directory_of_another_coordinator_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    enrol_here(tmp_path / "home", folder, address="h:1", name="anna")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigInvalid, match="belongs to another coordinator"):
        enrol_here(tmp_path / "other", folder, address="h:2", name="anna")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_key_that_was_not_registered_is_not_taken_for_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    enrol_here(home, tmp_path / "anna", address="h:1", name="anna")
    with pytest.raises(ConfigInvalid, match="not the one that is registered"):
        enrol_here(home, tmp_path / "impostor", address="h:1", name="anna")


def test_a_directory_survives_a_new_certificate_authority(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "anna"
    enrol_here(home, folder, address="h:1", name="anna")
    with Coordinator(home) as coordinator:
        coordinator.renew_authority()
        with pytest.raises(ConfigInvalid, match="not fetched yet by anna"):
            coordinator.renew_authority()
        coordinator.renew_authority(force=True)
    assert enrol_here(home, folder, address="h:1", name="anna").state == "admitted"
    assert (folder / "ca.crt").read_text().count("BEGIN CERTIFICATE") == 2


def test_an_authority_that_was_half_changed_is_finished(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Coordinator(home) as coordinator:
        coordinator.renew_authority()
    os.replace(home / "keys" / "ca.next.key", home / "keys" / "ca.key")  # killed after this
    with Coordinator(home) as coordinator:
        coordinator.invite("anna", "h:1")
        authority, key = keys.load_authority(coordinator.keys)
        assert authority.public_key() == key.public_key()


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_a_key_that_was_half_replaced_is_finished(tmp_path: Path, killed_after: int) -> None:
    for name in ("silo.key", "silo.key.pub", "membership.crt"):
        (tmp_path / name).write_text("old")
    new = [("silo.key.next", "silo.key"), ("silo.key.next.pub", "silo.key.pub")]
    new.append(("membership.next.crt", "membership.crt"))
    for name, _ in new:
        (tmp_path / name).write_text("new")
    for name, place in new[:killed_after]:
        os.replace(tmp_path / name, tmp_path / place)
    enrol.promote(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        place: "new" for _, place in new
    }


def test_how_much_of_a_certificates_life_is_left(tmp_path: Path) -> None:
    assert enrol.life_left(tmp_path) == 0.0
    enrol_here(tmp_path / "home", tmp_path, address="h:1", name="anna")
    now = datetime.now(UTC)
    assert enrol.life_left(tmp_path, now=now) > 0.99
    assert 0.3 < enrol.life_left(tmp_path, now=now + timedelta(days=250)) < 0.33
    assert enrol.life_left(tmp_path, now=now + timedelta(days=400)) == 0.0


def test_a_silo_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    for step in (enrol.refresh, enrol.hello, enrol.renew, enrol.change_key, enrol.leave):
        with pytest.raises(ConfigInvalid, match="silo init"):
            step(tmp_path)
