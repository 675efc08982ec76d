"""What ``consilo silos list`` says of who is connected."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from consilo.membership.coordinator import Coordinator
from flows.commands.silos import silos_app
from tests.flows.commands.test_status import write_addresses


def listed(home) -> list[dict[str, str]]:
    found = CliRunner().invoke(silos_app, ["list", "--dir", str(home), "--json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)["silos"]


def test_without_a_superlink_nobody_says_that_a_silo_is_online(tmp_path):
    with Coordinator(tmp_path) as coordinator:
        coordinator.invite("anna", "127.0.0.1:1")
    for _ in range(2):  # nothing was ever up; then all of it has died
        (anna,) = listed(tmp_path)
        assert anna["connected"] == "unknown: the SuperLink is not up"
        assert anna["connected_since"] == ""
        write_addresses(tmp_path)
