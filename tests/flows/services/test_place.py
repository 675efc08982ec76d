"""Where silos reach the coordinator: said once, kept, and in the server's certificate."""

from pathlib import Path

import pytest

from consilo.errors import ConfigInvalid
from consilo.membership import keys
from flows.services.federation import settle_place


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
