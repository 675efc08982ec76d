"""One silo's side of the intersection with one partner, turn by turn.

In turn ``t`` a silo sends its own values of shard ``t``, blinded. It blinds the partner's again,
which gives their tags, and sends in turn ``t + 1`` a commitment to them: a hash, of who says it to
whom, of the turn, of a secret and of the sorted tags. Only once it holds the partner's commitment
does it send the tags themselves, in turn ``t + 2``. So it learns in turn ``t + 3`` which of the
*partner's* places in shard ``t`` hold values that it has too, and never which of its own: that the
partner must tell. Places are numbered through the shards of a key, in an order that the silo alone
knows.

Why commitments: a tag counts where both sides name it, each for the other's elements. Whoever saw
the partner's tags first could send them back as its own, and everybody would seem to be common. It
cannot commit to tags before it has seen them, and cannot compute them: they need both secrets. Nor
does it help to hand in a commitment that was heard, since it names who made it; to be asked a turn
twice with other letters; or to send an element again in a later shard, whose tag is known from the
earlier one: a tag comes once in a match.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilo.errors import Refused
from consilo.kernel.view import SiloView
from consilo.matching import group
from consilo.matching.entities import Ints, Values, shuffle
from consilo.matching.resolve import Edges, one_to_one
from consilo.wire.payload import canonical_json, digest, pack, unpack

_HEAD_BYTES = 4096
"""What a packed payload needs besides its arrays, at most."""
MAX_VALUES = 50_000_000
"""Of one key in one silo; where more are announced nothing is allocated."""
_SHARD_SLACK, _SHARD_SPARE = 2, 1000
"""A shard holds at most so many times its fair share, and so many more; a fair one is far below."""


@dataclass(frozen=True)
class Partners:
    """The hub's entities that are matched with one spoke, by entity in ascending order.

    Args:
        entities: int64, [pairs]: the hub's.
        rows: int64, [pairs]: the hub's row whose value matched.
        keys: uint8, [pairs]: by which key.
        slots: uint32, [pairs]: the spoke's place under that key.
    """

    entities: Ints
    rows: Ints
    keys: np.ndarray[Any, np.dtype[np.uint8]]
    slots: np.ndarray[Any, np.dtype[np.uint32]]

    def of(self, entities: Ints) -> Partners:
        """Return the pairs of these entities, in their order; each must have one."""
        at = np.searchsorted(self.entities, entities)
        return Partners(self.entities[at], self.rows[at], self.keys[at], self.slots[at])


class Side:
    """One silo's side.

    Args:
        silo: what the verb sees.
        state: of the run in this silo.
        partner: who.
        shards: (key, shard) of each turn.
    """

    def __init__(
        self,
        silo: SiloView,
        state: Mapping[str, Any],
        partner: str,
        shards: list[tuple[int, int]],
    ) -> None:
        self._silo = silo
        self._partner = partner
        self._announced: list[int] = state["theirs"][partner]["values"]
        self._ours: list[int] = state["mine"]["values"]
        self._recipe_hash = state["mine"]["recipe"]
        self._scalar = bytes.fromhex(state["scalars"][partner])
        self._shards = shards
        self._counts = [
            sum(key == each for each, _ in shards) for key in range(len(self._announced))
        ]
        kept = silo.kept(turns_name(partner))
        empty: dict[str, Any] = {
            "pending": {},
            "matched": {},
            "counts": {},
            "heard": {},
            "seen": {},
            "commitments": {},
        }
        self._turns = empty if kept is None else unpack(kept)
        self._loaded: tuple[int, Values] | None = None

    def turn(self, step: int, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the partner gets in this step.

        Args:
            step: from 0 to `last`.
            content: what the partner sent in the step before.

        Raises:
            Refused: where an element, a count or a commitment is not as it must be, or the step was
                done before with another content.
        """
        out: dict[str, Any] = {}
        heard = digest(pack(content))
        if self._turns["heard"].setdefault(str(step), heard) != heard:
            raise Refused(
                f"'{self._partner}' sent two different letters for one turn of the match",
                code="psi",
            )
        if step >= 3:
            self._compare(step - 3, content)
        if 2 <= step <= len(self._shards) + 1:
            out |= self._open_tags(step - 2, content)
        if 1 <= step <= len(self._shards):
            out["commitment"] = self._blind_theirs(step - 1, content)
        if step < len(self._shards):
            out["blinded"] = self._blind_ours(step)
        self._silo.keep(turns_name(self._partner), pack(self._turns))
        return out

    @property
    def last(self) -> int:
        """The step after which it is known what matched."""
        return last_step(self._shards)

    @property
    def num_matched(self) -> list[int]:
        """How many values both have, by key."""
        found = [0] * len(self._announced)
        for turn, slots in self._turns["matched"].items():
            found[self._shards[int(turn)][0]] += len(slots)
        return found

    @property
    def most_disclosed(self) -> int:
        """Bytes that `disclosed` may have, on the side that has the larger one."""
        common = sum(min(each) for each in zip(self._ours, self._announced, strict=True))
        return 4 * (common + max(sum(self._ours), sum(self._announced))) + _HEAD_BYTES

    @property
    def most_joint(self) -> int:
        """Bytes that the hub's list for a spoke may have."""
        return 5 * min(sum(self._ours), sum(self._announced)) + _HEAD_BYTES

    def disclosed(self) -> dict[str, Any]:
        """Return what the hub gets from a spoke.

        By key: which of the hub's places matched, in the order of their tags; where there are
        several keys, for every own place the number of its entity, drawn anew for this run.
        """
        said: dict[str, Any] = {"slots": {str(k): each for k, each in enumerate(self._matched())}}
        if len(self._announced) > 1:
            groups = {}
            for key in range(len(self._announced)):
                values = self._values(key)
                found = values.entities[self._places(key)]
                groups[str(key)] = self._relabelled(found)
            said["groups"] = groups
        return said

    def pairs(self, content: Mapping[str, Any]) -> Partners:
        """Return, at the hub, who is matched with a spoke, one to one.

        Args:
            content: what the spoke's `disclosed` made.
        """
        edges, slots, rows = [], [], []
        told, groups = content.get("slots"), content.get("groups")
        for key, theirs in enumerate(self._matched()):
            ours = integers(told, str(key)).astype(np.int64)
            values, places = self._values(key), self._places(key)
            fits = len(ours) == len(theirs) == len(np.unique(ours))
            if not fits or (len(ours) and not (ours.min() >= 0 and ours.max() < len(values))):
                raise Refused(
                    f"'{self._partner}' says of other values that they match than do", code="psi"
                )
            right = theirs.astype(np.int64)
            if len(self._announced) > 1:
                group_of = integers(groups, str(key)).astype(np.int64)
                if len(group_of) != self._announced[key]:
                    raise Refused(
                        f"'{self._partner}' says of another number of values whose they are",
                        code="psi",
                    )
                right = group_of[right]
            edges.append(Edges(values.entities[places[ours]], right))
            rows.append(values.rows[places[ours]])
            slots.append(theirs)
        found = one_to_one(edges)
        order = np.argsort(found.left, kind="stable")
        keys, edge = found.key[order], found.edge[order]
        size = len(order)
        made = Partners(
            found.left[order],
            np.empty(size, np.int64),
            keys.astype(np.uint8),
            np.empty(size, np.uint32),
        )
        for key in range(len(edges)):
            here = keys == key
            made.rows[here] = rows[key][edge[here]]
            made.slots[here] = slots[key][edge[here]]
        return made

    def rows_of(self, keys: np.ndarray[Any, Any], slots: np.ndarray[Any, Any]) -> Ints:
        """Return, at a spoke, the rows of the places that the hub names.

        Raises:
            Refused: where a place does not exist, or two are of one entity.
        """
        rows, entities = np.empty(len(slots), np.int64), np.empty(len(slots), np.int64)
        known = len(keys) == len(slots) and bool((keys < len(self._announced)).all())
        for key in range(len(self._announced)) if known else ():
            here = keys == key
            values = self._values(key)
            known = known and bool((slots[here] < len(values)).all())
            if known:
                places = self._places(key)[slots[here].astype(np.int64)]
                rows[here], entities[here] = values.rows[places], values.entities[places]
        if not known or len(np.unique(entities)) < len(entities):
            raise Refused("the hub names places that do not exist, or one twice", code="psi")
        return rows

    def _blind_ours(self, turn: int) -> np.ndarray[Any, Any]:
        key, shard = self._shards[turn]
        values = self._values(key)
        bounds = values.bounds(self._counts[key])
        places = self._shard_places(key, shard, bounds)
        digests = [each.tobytes() for each in values.digests[places]]
        return group.blind(group.hash_to_group(digests, self._domain(key)), self._scalar)

    def _blind_theirs(self, turn: int, content: Mapping[str, Any]) -> str:
        """Make the tags of what the partner sent; return the commitment to them."""
        key, shard = self._shards[turn]
        sent = content.get("blinded")
        if not isinstance(sent, np.ndarray) or sent.dtype != np.uint8 or sent.ndim != 2:
            raise Refused(f"'{self._partner}' sent no elements", code="psi")
        announced, shards = self._announced[key], self._counts[key]
        before = self._before(key, turn)
        most = min(announced - before, _SHARD_SLACK * announced // shards + _SHARD_SPARE)
        last = shard == shards - 1
        if len(sent) > most or (last and len(sent) != announced - before):
            raise Refused(
                f"'{self._partner}' announced {announced} values and sent another number",
                code="psi",
            )
        elements = group.checked_elements(sent)
        theirs = group.tags(elements, self._scalar)
        raw = _raw(theirs)
        # 64 bits of each: among 50 million honest ones two are alike in one match of ten thousand.
        begins = np.sort(np.ascontiguousarray(raw[:, :8]).view("<u8").reshape(-1))
        others = [each for at, each in self._turns["seen"].items() if at != str(turn)]
        if (begins[1:] == begins[:-1]).any() or any(
            len(np.intersect1d(begins, each, assume_unique=True)) for each in others
        ):
            raise Refused(f"'{self._partner}' sent an element twice", code="psi")
        self._turns["seen"][str(turn)] = begins
        self._turns["pending"].pop(str(turn - 3), None)
        self._turns["pending"][str(turn)] = raw
        self._turns["counts"][str(turn)] = len(sent)
        return self._commitment(turn, self._silo.name, self._seed("nonce", turn), _sorted(raw))

    def _open_tags(self, turn: int, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tags that were committed to, now that the partner has committed to its own."""
        said = content.get("commitment")
        if not isinstance(said, str) or len(said) != 64:
            raise Refused(f"'{self._partner}' committed to no tags", code="psi")
        self._turns["commitments"][str(turn)] = said
        tags = _sorted(self._turns["pending"][str(turn)])
        return {"tags": tags, "nonce": self._seed("nonce", turn).hex()}

    def _commitment(self, turn: int, who: str, nonce: bytes, tags: np.ndarray[Any, Any]) -> str:
        """Return the hash by which one of the two says, in a turn, which tags it will send."""
        header = self._silo.header
        run = [header.run_id, header.manifest.digest, header.protocol]
        told = [*sorted((self._silo.name, self._partner)), who, turn, nonce.hex(), len(tags)]
        head = canonical_json(["psi tags", 1, *run, *told])
        return hashlib.sha256(head + tags.tobytes()).hexdigest()

    def _compare(self, turn: int, content: Mapping[str, Any]) -> None:
        key, shard = self._shards[turn]
        sent = content.get("tags")
        bounds = self._values(key).bounds(self._counts[key])
        expected = int(bounds[shard + 1] - bounds[shard])
        if (
            not isinstance(sent, np.ndarray)
            or sent.dtype != np.uint8
            or sent.shape != (expected, group.TAG)
        ):
            raise Refused(f"'{self._partner}' blinded another number of values again", code="psi")
        try:
            nonce = bytes.fromhex(content["nonce"])
        except (KeyError, TypeError, ValueError):
            nonce = b""
        stated = self._turns["commitments"][str(turn)]
        if self._commitment(turn, self._partner, nonce, sent) != stated:
            raise Refused(
                f"'{self._partner}' sent other tags than it had committed to; it may have made "
                "them from those of this silo",
                code="psi",
            )
        ours = group.as_tags(sent)
        if len(np.unique(ours)) < len(ours):
            raise Refused(f"'{self._partner}' sent a tag twice", code="psi")
        theirs = group.as_tags(self._turns["pending"][str(turn)])
        _, _, slots = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
        self._turns["matched"][str(turn)] = (slots + self._before(key, turn)).astype(np.uint32)

    def _before(self, key: int, turn: int) -> int:
        """Return how many values of a key the partner sent before a turn."""
        return sum(
            self._turns["counts"][str(each)] for each in range(turn) if self._shards[each][0] == key
        )

    def _matched(self) -> list[np.ndarray[Any, Any]]:
        """Return the partner's places that matched, by key, in the order of turns and tags."""
        found: list[list[np.ndarray[Any, Any]]] = [[] for _ in self._announced]
        for turn, (key, _) in enumerate(self._shards):
            found[key].append(self._turns["matched"][str(turn)])
        return [np.concatenate(each) for each in found]

    def _values(self, key: int) -> Values:
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            kept = self._silo.kept(values_name(key))
            if kept is None:
                raise Refused("this silo has ended the match of this run", code="psi")
            self._loaded = (key, Values.from_bytes(kept))
        return self._loaded[1]

    def _shard_places(self, key: int, shard: int, bounds: Ints) -> Ints:
        """Return where the values of a shard lie, in the order in which they are sent."""
        first, end = int(bounds[shard]), int(bounds[shard + 1])
        return first + shuffle(end - first, self._seed("slots", key, shard))

    def _places(self, key: int) -> Ints:
        """Return where the values of a key lie, by place as the partner knows it."""
        bounds = self._values(key).bounds(self._counts[key])
        parts = [self._shard_places(key, each, bounds) for each in range(self._counts[key])]
        return np.concatenate(parts)

    def _relabelled(self, entities: Ints) -> np.ndarray[Any, Any]:
        """Return numbers that tell entities apart and nothing of where their rows lie."""
        num_rows = 1 + max(
            int(self._values(k).rows.max(initial=0)) for k in range(len(self._announced))
        )
        return shuffle(num_rows, self._seed("groups"))[entities].astype(np.uint32)

    def _domain(self, key: int) -> bytes:
        header = self._silo.header
        pair = sorted((self._silo.name, self._partner))
        run = [header.run_id, header.manifest.digest, header.protocol]
        return canonical_json(["psi", 1, *run, *pair, key, self._recipe_hash])

    def _seed(self, *purpose: Any) -> bytes:
        secret = self._silo.secrets.secret(self._silo.header.run_id)
        said = canonical_json(["psi", self._partner, *purpose])
        return hmac.digest(secret, said, "sha256")


def last_step(shards: Sequence[tuple[int, int]]) -> int:
    """Return the step in which the tags of the last shard arrive; the first is 0."""
    return len(shards) + 2


def values_name(key: int) -> str:
    """Return under which name the run keeps the values of a key."""
    return f"psi-key-{key}"


def turns_name(partner: str) -> str:
    """Return under which name the run keeps what turns with a partner have brought."""
    return f"psi-turns-{hashlib.sha256(partner.encode()).hexdigest()[:16]}"


def integers(content: Any, name: str) -> np.ndarray[Any, Any]:
    """Return an array of whole numbers that a partner sent.

    Raises:
        Refused: where it is none.
    """
    found = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind != "u":
        raise Refused("a partner sent something else than whole numbers", code="psi")
    return found


def _sorted(raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return _raw(np.sort(group.as_tags(raw)))


def _raw(tags: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tags).view(np.uint8).reshape(len(tags), group.TAG)
