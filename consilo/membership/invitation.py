"""A one-time invitation: what a silo's operator needs to find the right coordinator and to join.

The file is a secret until it is used: whoever holds it can ask to join under its name. It carries
the SHA-256 of the coordinator's CA certificate, so that nothing is sent to anybody else, and the
coordinator's public key, so that an edited file is noticed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from consilo.config import Config, parse
from consilo.errors import ConfigInvalid
from consilo.membership.keys import write_private
from consilo.silo_name import SiloName
from consilo.wire.json_text import each_once
from consilo.wire.signing import is_signed, sign

FORMAT = 1
_HEX64 = r"^[0-9a-f]{64}$"
_PURPOSE = "invitation"
_MAX_BYTES = 16 * 1024


@dataclass(frozen=True)
class Invitation:
    """What is in the file.

    Args:
        name: the silo's, as the coordinator will know it.
        address: host:port of the coordinator.
        ca_sha256: of the federation's CA certificate in DER, in hexadecimal.
        signing_key: the coordinator's Ed25519 public key, raw, in hexadecimal.
        token: 32 random bytes in hexadecimal; the coordinator keeps only their SHA-256.
        expires: ISO 8601 in UTC.
        signature: by ``signing_key`` over all the rest.
        format: of this file.
    """

    name: str
    address: str
    ca_sha256: str
    signing_key: str
    token: str
    expires: str
    signature: str = ""
    format: int = FORMAT

    def signed(self, key: Ed25519PrivateKey) -> Invitation:
        """Return it with the coordinator's signature."""
        return replace(self, signature=sign(key, _PURPOSE, self._content()))

    @property
    def token_sha256(self) -> str:
        """What the coordinator knows of the token."""
        return token_sha256(self.token)

    def expired(self, now: datetime) -> bool:
        """Return whether its time is over."""
        return now.astimezone(UTC).isoformat(timespec="seconds") >= self.expires

    def write(self, path: Path) -> None:
        """Write it as JSON, mode 0600.

        Raises:
            ConfigInvalid: where the file exists.
        """
        text = json.dumps(asdict(self), indent=1) + "\n"
        try:
            write_private(path, text.encode())
        except FileExistsError:
            raise ConfigInvalid(str(path), ["the file exists; choose another --out"]) from None

    @classmethod
    def load(cls, path: Path) -> Invitation:
        """Return the invitation in a file whose signature fits.

        Raises:
            ConfigInvalid: where it is none, or was edited.
        """
        try:
            text = path.read_bytes()
        except OSError as cause:
            raise ConfigInvalid(str(path), [f"the file cannot be read: {cause}"]) from None
        try:
            value = json.loads(text[:_MAX_BYTES], object_pairs_hook=each_once)
        except (ValueError, RecursionError):
            raise ConfigInvalid(str(path), ["this is no invitation: not JSON"]) from None
        found = cls(**parse(_File, value, where=str(path)).model_dump())
        if not is_signed(found.signing_key, _PURPOSE, found._content(), found.signature):
            raise ConfigInvalid(
                str(path),
                ["its signature does not fit: the file was edited or cut; ask for it again"],
            )
        return found

    def _content(self) -> dict[str, object]:
        return {key: value for key, value in asdict(self).items() if key != "signature"}


def token_sha256(token: str) -> str:
    """Return the SHA-256 of a token's bytes, in hexadecimal."""
    return hashlib.sha256(bytes.fromhex(token)).hexdigest()


class _File(Config):
    name: SiloName
    address: Annotated[str, Field(pattern=r"^[^\s/]{1,253}:\d{1,5}$")]
    ca_sha256: Annotated[str, Field(pattern=_HEX64)]
    signing_key: Annotated[str, Field(pattern=_HEX64)]
    token: Annotated[str, Field(pattern=_HEX64)]
    expires: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
