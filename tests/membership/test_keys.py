import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consilo.errors import ConfigInvalid
from consilo.membership import keys


def test_private_files_are_readable_by_their_owner_only_and_never_replaced(tmp_path: Path) -> None:
    authority = keys.load_or_create_authority(tmp_path / "tls", hosts=["fed.example.org"])
    keys.load_or_create_silo_key(tmp_path / "silo.key")
    keys.load_or_create_signing_key(tmp_path / "sign.key")
    for path in (
        authority.ca_key,
        authority.server_key,
        tmp_path / "silo.key",
        tmp_path / "sign.key",
    ):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            keys.write_private(path, b"other")
    assert not list(tmp_path.rglob(".*.*"))


def test_keys_are_made_once(tmp_path: Path) -> None:
    first = keys.load_or_create_authority(tmp_path)
    assert keys.load_or_create_authority(tmp_path) == first
    assert keys.load_or_create_silo_key(tmp_path / "k") == keys.load_or_create_silo_key(
        tmp_path / "k"
    )
    data = b"record"
    signature = keys.load_or_create_signing_key(tmp_path / "s").sign(data)
    keys.load_or_create_signing_key(tmp_path / "s").public_key().verify(signature, data)


def test_the_authority_is_trusted_for_its_hosts_and_says_when_it_ends(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    authority = keys.load_or_create_authority(tmp_path, now=now, valid_days=30)
    assert authority.expires == now + timedelta(days=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server_certificate, authority.server_key)
    ssl.create_default_context(cafile=authority.ca_certificate)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    keys.load_or_create_signing_key(tmp_path / "sign.key")
    with pytest.raises(ConfigInvalid, match="ECDSA"):
        keys.load_silo_key(tmp_path / "sign.key")
    with pytest.raises(ConfigInvalid, match="does not exist"):
        keys.load_silo_key(tmp_path / "missing")
    with pytest.raises(ConfigInvalid, match="ECDSA public key"):
        keys.public_key_pem(b"ssh-ed25519 AAAA")
