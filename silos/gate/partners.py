"""Other silos' signing keys as this silo has pinned them: ``partners.yaml``.

A key is trusted when it is first seen in the coordinator's list, or only once a person here has
confirmed its fingerprint with that organisation, as the policy says (``partners: pinned`` or
``confirmed``). A key that changed later is not taken over: see `consilo silo partners`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from consilo.config import Config, parse, read_yaml
from consilo.errors import ConfigInvalid
from consilo.machine.files import write_atomic
from consilo.yaml_text import to_yaml


class Partner(Config):
    """One other silo.

    Args:
        signing_key: raw Ed25519 public key in hexadecimal.
        first_seen: when it was pinned, ISO 8601.
        confirmed: whether a person has compared the fingerprint with that organisation.
        offered: another key that the coordinator names now; it does not count.
        listed: whether the coordinator lists this silo as admitted.
    """

    signing_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    first_seen: str = ""
    confirmed: bool = False
    offered: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    listed: bool = True


class _Partners(Config):
    partners: dict[str, Partner]


def pinned(directory: Path) -> dict[str, Partner]:
    """Return the partners that count: pinned here and listed by the coordinator as admitted.

    Raises:
        ConfigInvalid: where the file is not valid.
    """
    return {name: each for name, each in every_partner(directory).items() if each.listed}


def every_partner(directory: Path) -> dict[str, Partner]:
    """Return the partners that the silo in ``directory`` has ever pinned; none without a file.

    Raises:
        ConfigInvalid: where the file is not valid.
    """
    path = directory / "partners.yaml"
    if not path.exists():
        return {}
    value = read_yaml(path) or {}
    return parse(_Partners, {"partners": value}, where=str(path)).partners


def save_partners(folder: Path, partners: Mapping[str, Partner]) -> None:
    """Write ``partners.yaml``."""
    said = {name: each.model_dump(exclude_none=True) for name, each in sorted(partners.items())}
    write_atomic(folder / "partners.yaml", to_yaml(said).encode())


def see_partners(folder: Path, members: Mapping[str, str], *, now: datetime) -> tuple[str, ...]:
    """Take in the coordinator's list of admitted silos; return what the operator should know.

    Args:
        folder: the silo's.
        members: name → signing key, without the silo's own.
        now: what is noted for those seen first.
    """
    before = every_partner(folder)
    after: dict[str, Partner] = {}
    said = []
    for name, known in before.items():
        offered = members.get(name)
        changes: dict[str, object] = {"listed": offered is not None}
        if offered is not None and offered != known.signing_key:
            changes["offered"] = offered
            if known.offered != offered:
                said.append(
                    f"partner {name} has another signing key now ({offered[:16]}…); it is not "
                    f"trusted before you confirm it: consilo silo partners confirm {name}"
                )
        else:
            changes["offered"] = None
        after[name] = known.model_copy(update=changes)
    for name, key in members.items():
        if name not in before:
            seen = now.astimezone(UTC).isoformat(timespec="seconds")
            after[name] = Partner(signing_key=key, first_seen=seen)
    if after != before:
        save_partners(folder, after)
    return tuple(said)


def confirm_partner(folder: Path, name: str, fingerprint: str) -> Partner:
    """Trust a partner's key after its fingerprint was compared; return the entry.

    Args:
        folder: the silo's.
        name: the partner's.
        fingerprint: the first digits of the key, 16 at least, as the partner's operator reads them.

    Raises:
        ConfigInvalid: where the partner is unknown or has another key.
    """
    partners = every_partner(folder)
    known = partners.get(name)
    if known is None:
        raise ConfigInvalid(name, ["no partner of this name; 'consilo silo partners' lists them"])
    wanted = fingerprint.strip().lower().replace(":", "")
    key = known.offered or known.signing_key
    if len(wanted) < 16 or not key.startswith(wanted):
        raise ConfigInvalid(
            name,
            [
                f"its key begins with {key[:16]}, not with what was given (16 digits at least); "
                "ask the partner's operator to read theirs aloud"
            ],
        )
    partners[name] = known.model_copy(
        update={"signing_key": key, "confirmed": True, "offered": None}
    )
    save_partners(folder, partners)
    return partners[name]
