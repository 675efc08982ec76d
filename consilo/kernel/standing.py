"""Where a silo's audit log stands, told to the other silos of a run, who show it again later.

A silo that was restored from an older backup has forgotten what it spent. The coordinator's record
would tell (`consilo.kernel.brief.NEWEST`), unless the coordinator keeps it back. So partners keep
it too. A silo's *standing* is the number and the hash of its log's last line, signed by itself; it
goes with each of its answers and, in the next requests, to all others of the cohort, who keep the
newest. What they *hold* of it they state at the beginning of each run that they share: signed for
that run, so that a coordinator can neither make it up, nor show an older one, nor leave it out.

The coordinator carries both. On the wire they are strings beside those that older releases know:
in an answer behind the silo's attestation, separated by `;`, and in a request among the
attestations, under the silo's name and a sign that no name has. A release that does not know them
takes no notice, and is told of none: it does not ask (`ASKS`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.kernel.headers import Manifest
from consilo.wire.signing import is_signed, sign

ASKS = "="
"""Among a request's attestations: the coordinator carries standings, the silo may answer so."""
_STANDING = "standing"
_HOLDS = "holds"
_OF, _SIGNED, _HELD, _HELD_SIGNED, _BY = "=", "~", "#", "!", "$"
_MOST_LINES = 10**12


@dataclass(frozen=True)
class Standing:
    """Where a silo's log stood.

    Args:
        lines: how many there were; 0 stands for nothing known.
        head: hash of the last one, 64 hexadecimal digits.
        signature: by the silo, of its name and both.
    """

    lines: int = 0
    head: str = ""
    signature: str = ""

    @classmethod
    def of(cls, key: Ed25519PrivateKey, silo: str, lines: int, head: str) -> Self:
        """Return the standing of a silo, signed."""
        return cls(lines, head, sign(key, _STANDING, [silo, lines, head]))

    def is_of(self, silo: str, public: str) -> bool:
        """Return whether the silo whose raw Ed25519 key is ``public`` (hexadecimal) said this."""
        said = [silo, self.lines, self.head]
        return self.lines > 0 and is_signed(public, _STANDING, said, self.signature)

    @property
    def place(self) -> str:
        """Number and hash, as they travel."""
        return f"{self.lines}:{self.head}" if self.lines else "0:"

    @classmethod
    def read(cls, place: str, signature: str) -> Self | None:
        """Return the standing that travelled as two strings; None where they are none."""
        number, _, head = place.partition(":")
        if not number.isascii() or not number.isdigit() or len(number) > len(str(_MOST_LINES)):
            return None
        return cls(int(number), head, signature) if int(number) else cls()


NOTHING = Standing()


@dataclass(frozen=True)
class Held:
    """What a silo states to hold of a partner.

    Args:
        standing: the partner's newest, as it has signed it; `NOTHING` where it holds none.
        signature: by the silo that holds it, for one run.
    """

    standing: Standing
    signature: str

    @classmethod
    def by(
        cls, key: Ed25519PrivateKey, manifest: Manifest, silo: str, partner: str, held: Standing
    ) -> Self:
        """Return what ``silo`` holds of ``partner``, signed for the run of ``manifest``."""
        said = [manifest.digest, silo, partner, held.place, held.signature]
        return cls(held, sign(key, _HOLDS, said))

    def is_by(self, public: str, manifest: Manifest, silo: str, partner: str) -> bool:
        """Return whether ``silo``, whose key is ``public``, stated this for this run."""
        said = [manifest.digest, silo, partner, self.standing.place, self.standing.signature]
        return is_signed(public, _HOLDS, said, self.signature)


# Behind a silo's attestation, in its answer.


def to_word(attestation: str, own: Standing, held: Mapping[str, Held]) -> str:
    """Return what stands in the field ``attestation`` of an answer to who asks for standings."""
    parts = [attestation, f"{own.place}:{own.signature}"]
    for partner, each in held.items():
        told = (partner, each.standing.place, each.standing.signature, each.signature)
        parts.append(":".join(told))
    return ";".join(parts)


def from_word(word: str) -> tuple[str, Standing | None, dict[str, Held]]:
    """Return attestation, standing, and what is held by partner; what is malformed is left out."""
    attestation, *parts = word.split(";")
    own: Standing | None = None
    held: dict[str, Held] = {}
    for number, part in enumerate(parts):
        values = part.split(":")
        if number == 0 and len(values) == 3:
            own = Standing.read(":".join(values[:2]), values[2])
        elif len(values) == 5:
            standing = Standing.read(":".join(values[1:3]), values[3])
            if standing is not None:
                held[values[0]] = Held(standing, values[4])
    return attestation, own, held


# Among the attestations of a request.


def to_attestations(
    standings: Mapping[str, Standing], held: Mapping[str, Held], cohort: Iterable[str]
) -> dict[str, str]:
    """Return what a request to one silo has beside the attestations.

    Args:
        standings: of the other silos, by name.
        held: what each of the others holds of the receiver, by its name.
        cohort: who is asked in this step; of nobody else it says anything.
    """
    told = {ASKS: "1"}
    for name in cohort:
        if (known := standings.get(name)) is not None:
            told |= {name + _OF: known.place, name + _SIGNED: known.signature}
        if (said := held.get(name)) is not None:
            told |= {
                name + _HELD: said.standing.place,
                name + _HELD_SIGNED: said.standing.signature,
                name + _BY: said.signature,
            }
    return told


def standing_in(attestations: Mapping[str, str], silo: str) -> Standing | None:
    """Return the standing of a silo that a request carries; None where it carries none."""
    place = attestations.get(silo + _OF)
    return None if place is None else Standing.read(place, attestations.get(silo + _SIGNED, ""))


def held_in(attestations: Mapping[str, str], silo: str) -> Held | None:
    """Return what a silo states to hold of the receiver; None where the request carries nothing."""
    place = attestations.get(silo + _HELD)
    if place is None:
        return None
    standing = Standing.read(place, attestations.get(silo + _HELD_SIGNED, ""))
    return None if standing is None else Held(standing, attestations.get(silo + _BY, ""))
