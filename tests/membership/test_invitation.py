import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import ConfigInvalid
from consilo.membership.invitation import Invitation
from consilo.wire.signing import public_hex

KEY = Ed25519PrivateKey.generate()


def invitation(**changes: str) -> Invitation:
    bare = Invitation(
        "anna", "fed.example.org:9092", "a" * 64, public_hex(KEY), "b" * 64,
        "2027-01-01T00:00:00+00:00",
    )  # fmt: skip
    return replace(bare, **changes).signed(KEY)


def test_an_invitation_is_a_private_file_that_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "anna.json"
    invitation().write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Invitation.load(path) == invitation()
    with pytest.raises(ConfigInvalid, match="the file exists"):
        invitation().write(path)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "berta"},
        {"address": "evil.example.org:9092"},
        {"ca_sha256": "c" * 64},
        {"token": "c" * 64},
        {"expires": "2099-01-01T00:00:00+00:00"},
        {"signing_key": public_hex(Ed25519PrivateKey.generate())},
        {"format": 2},
        {"extra": 1},
    ],
)
def test_an_edited_invitation_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "anna.json"
    invitation().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigInvalid):
        Invitation.load(path)


def test_an_invitation_ends_when_it_says() -> None:
    made = invitation()
    assert not made.expired(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert made.expired(datetime(2027, 1, 1, tzinfo=UTC))
