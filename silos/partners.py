"""Other silos' signing keys as this silo has pinned them: ``partners.yaml``.

A key is trusted when it is first seen in the coordinator's list, or only once a person here has
confirmed its fingerprint with that organisation, as the policy says (``partners: pinned`` or
``confirmed``). A key that changed later is not taken over: see `consilo silo partners`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from consilo.config import Config, parse, read_yaml


class Partner(Config):
    """One other silo.

    Args:
        signing_key: raw Ed25519 public key in hexadecimal.
        first_seen: when it was pinned, ISO 8601.
        confirmed: whether a person has compared the fingerprint with that organisation.
    """

    signing_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    first_seen: str = ""
    confirmed: bool = False


class _Partners(Config):
    partners: dict[str, Partner]


def pinned(directory: Path) -> dict[str, Partner]:
    """Return the partners that the silo in ``directory`` has pinned; none without a file.

    Raises:
        ConfigInvalid: where the file is not valid.
    """
    path = directory / "partners.yaml"
    if not path.exists():
        return {}
    value = read_yaml(path) or {}
    return parse(_Partners, {"partners": value}, where=str(path)).partners
