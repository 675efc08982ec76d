"""What a silo signs with, and whose signatures it takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.membership.keys import load_or_create_signing_key
from consilo.wire.signing import is_signed, public_hex, sign
from silos.gate.partners import Partner, pinned

RELAY = "relay"
"""The purpose of what a silo signs for other silos."""


class Identity:
    """A silo's key and its partners' keys: the role `consilo.kernel.roles.Letters`.

    Args:
        directory: the silo's; ``signing.key`` is made in it at the first use.
        partners: other silos' keys; None takes those of ``partners.yaml``.
        only_confirmed: whether a partner counts only once a person has compared its fingerprint.
    """

    def __init__(
        self, directory: Path, partners: Mapping[str, Partner] | None, *, only_confirmed: bool
    ) -> None:
        self.partners = partners
        self._directory = directory
        self._only_confirmed = only_confirmed

    @cached_property
    def key(self) -> Ed25519PrivateKey:
        """What the silo signs with."""
        return load_or_create_signing_key(self._directory / "signing.key")

    @property
    def public(self) -> str:
        """The public half of it, in hexadecimal."""
        return public_hex(self.key)

    def counting(self) -> dict[str, Partner]:
        """Return the partners that count here: pinned and, where the policy wants it, confirmed."""
        known = pinned(self._directory) if self.partners is None else self.partners
        return {n: each for n, each in known.items() if each.confirmed or not self._only_confirmed}

    def sign_relay(self, value: Any) -> str:
        """Return the silo's signature of a statement for other silos."""
        return sign(self.key, RELAY, value)

    def is_partner_relay(self, silo: str, value: Any, signature: str) -> bool:
        """Return whether a partner that counts here signed a statement for other silos."""
        partner = self.counting().get(silo)
        return partner is not None and is_signed(partner.signing_key, RELAY, value, signature)
