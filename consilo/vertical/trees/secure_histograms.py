"""Histograms of gradients by somebody who cannot read them, as in SecureBoost (Cheng et al. 2021).

The label silo encrypts each row's gradient and curvature once a tree. A feature silo multiplies
ciphertexts, which adds what is in them up: by node, column and bin. Of two siblings it adds up the
one with fewer rows; the other is the parent less it. What it sends are sums to the left of every
split that would leave enough rows on both sides, in a random order, blinded, many to a ciphertext.

Numbers are integers of a fixed point in slots of ``width`` bits. With ``|v| <= 2^POINT`` for a
row's number and R rows, a sum over any set of rows is at most ``R 2^POINT < 2^(width - 2)``, with
``width = POINT + bits of R + 2``: half of what a slot holds, signs included. A sibling's difference
is such a sum as well. ``s`` slots, signed, stay below ``2^(s width - 1)``, which is at most
``2^(room - 1)``, below half of the modulus, as ``s width <= room``. So nothing can overflow.

Differences from the paper: left sums in a random order take the place of bins by column, so that
the label silo is told neither columns nor their numbers of bins; sums of one ciphertext are packed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.vertical.blocks import Array
from consilo.vertical.trees.paillier import Bytes, Number, PrivateKey, PublicKey, gmp
from consilo.vertical.trees.trees import Growth, gains_of

POINT = 24
"""Bits behind the point: a row's number is off by 2^-25 of the largest at most."""

_COST_OF_INVERSE = 4
"""What a difference costs, in products: three for its inverse, one for itself."""


@dataclass(frozen=True)
class Slots:
    """How numbers lie in a plaintext.

    Args:
        rows: how many are added up at most.
        room: of the key, in bits.
    """

    rows: int
    room: int

    @property
    def width(self) -> int:
        """Bits of a slot."""
        return POINT + self.rows.bit_length() + 2

    @property
    def pairs(self) -> int:
        """How many pairs of sums fit into a ciphertext."""
        return self.room // (2 * self.width)

    def encoded(self, gradients: Array, curvatures: Array) -> tuple[list[int], tuple[int, int]]:
        """Return an integer for each row, and the exponents that take the point back.

        Args:
            gradients: float64, [rows], finite.
            curvatures: float64, [rows].
        """
        exponents = tuple(_exponent(each) for each in (gradients, curvatures))
        slopes, curves = (
            np.rint(np.ldexp(each, by)).astype(np.int64)
            for each, by in zip((gradients, curvatures), exponents, strict=True)
        )
        width = self.width
        pairs = [g + (h << width) for g, h in zip(slopes.tolist(), curves.tolist(), strict=True)]
        return pairs, (exponents[0], exponents[1])

    def decoded(self, value: int, pairs: int, exponents: tuple[int, int]) -> Array:
        """Return the sums in a plaintext, float64, [pairs, 2]: gradients and curvatures."""
        width, half = self.width, 1 << (self.width - 1)
        sums = np.empty((pairs, 2))
        for place in range(2 * pairs):
            digit = ((value + half) & ((1 << width) - 1)) - half
            value = (value - digit) >> width
            sums[place // 2, place % 2] = np.ldexp(float(digit), -exponents[place % 2])
        if value:
            raise ReplyInvalid("an encrypted sum is larger than sums of the rows can be")
        return sums


@dataclass(frozen=True)
class Sums:
    """A feature silo's encrypted sums of a level, of one model.

    Args:
        values: ciphertexts, [nodes, columns, bins], one after the other; 1 for an empty bin.
        counts: rows, int64, [nodes, columns, bins].
    """

    values: Sequence[Number]
    counts: Array

    @classmethod
    def of(
        cls,
        key: PublicKey,
        numbers: Mapping[int, Number],
        codes: Array,
        nodes: Array,
        *,
        num_nodes: int,
        parents: Sums | None,
    ) -> Sums:
        """Return a level's sums.

        Args:
            key: the label silo's.
            numbers: row → ciphertext, of the rows to learn from.
            codes: uint8, [rows, columns].
            nodes: of each row, [rows]; -1 for a row whose node grows no more.
            num_nodes: how many there are.
            parents: of the level above; None at the root.
        """
        used = np.zeros(len(nodes), bool)
        used[list(numbers)] = True
        columns, bins = codes.shape[1], int(codes.max(initial=0)) + 1
        members = [np.flatnonzero(used & (nodes == node)) for node in range(num_nodes)]
        counts = np.zeros((num_nodes, columns, bins), np.int64)
        for node, rows in enumerate(members):
            for column in range(columns):
                counts[node, column] = np.bincount(codes[rows, column], minlength=bins)
        one, modulus, per_node = gmp().mpz(1), key.square, columns * bins
        values: list[Number] = [one] * (num_nodes * per_node)
        offsets = np.arange(columns) * bins
        added_up = _from_rows(members, counts, parents)
        for node in added_up:
            start = node * per_node
            for row in members[node].tolist():
                number = numbers[row]
                for place in (start + offsets + codes[row]).tolist():
                    values[place] = values[place] * number % modulus
        above_values = parents.values if parents else ()
        for node in set(range(num_nodes)) - set(added_up):
            start, sibling, above = node * per_node, (node ^ 1) * per_node, node // 2 * per_node
            here = np.flatnonzero(counts[node].ravel()).tolist()
            less = key.inverses([values[sibling + place] for place in here])
            for place, inverse in zip(here, less, strict=True):
                values[start + place] = above_values[above + place] * inverse % modulus
        return cls(values, counts)

    def offers(self, min_rows: int) -> Array:
        """Return the splits that leave enough rows, int64, [splits, 3], in a random order by node.

        A split is its node, its column and its bin: rows up to the bin go left. One at a bin
        without rows is that at the bin before.
        """
        lefts = np.cumsum(self.counts, axis=2)
        rights = lefts[:, :, -1:] - lefts
        fits = (self.counts > 0) & (lefts >= min_rows) & (rights >= min_rows)
        splits = np.argwhere(fits)
        secrets.SystemRandom().shuffle(order := list(range(len(splits))))
        splits = splits[order]
        return np.asarray(splits[np.argsort(splits[:, 0], kind="stable")])

    def packed(self, key: PublicKey, offers: Array, slots: Slots) -> Bytes:
        """Return the left sums of splits, in their order, blinded: uint8, [ciphertexts, bytes]."""
        modulus, (_, columns, bins) = key.square, self.counts.shape
        lefts: dict[tuple[int, ...], Number] = {}
        for node, column in {(int(n), int(c)) for n, c, _ in offers}:
            start, running = (node * columns + column) * bins, gmp().mpz(1)
            for place in range(bins):
                running = running * self.values[start + place] % modulus
                lefts[node, column, place] = running
        sums = [lefts[tuple(offer)] for offer in offers.tolist()]
        together = [gmp().mpz(1)] * -(-len(sums) // slots.pairs)
        for slot in reversed(range(slots.pairs)):
            there = sums[slot :: slots.pairs]  # of the last ciphertext, perhaps none
            if slot < slots.pairs - 1:
                together = key.shifted(together, 2 * slots.width)
            for place, value in enumerate(there):
                together[place] = together[place] * value % modulus
        return key.wired(key.blinded(together))

    def to_payload(self, key: PublicKey) -> dict[str, Any]:
        """Return the sums as a silo keeps them until the next level."""
        return {"values": key.wired(self.values), "counts": self.counts}

    @classmethod
    def from_payload(cls, key: PublicKey, value: Mapping[str, Any], *, sender: str) -> Sums:
        """Return what `to_payload` wrote."""
        return cls(key.unwired(value["values"], sender=sender), value["counts"])


def _from_rows(members: Sequence[Array], counts: Array, parents: Sums | None) -> list[int]:
    """Return the nodes whose rows are added up; the others are their parent less their sibling."""
    if parents is None:
        return list(range(len(members)))
    nodes = []
    for left in range(0, len(members), 2):
        sizes = [len(members[left]), len(members[left + 1])]
        smaller = left + int(sizes[1] < sizes[0])
        nodes.append(smaller)
        bins = np.count_nonzero(counts[smaller ^ 1])
        if max(sizes) * counts.shape[1] <= _COST_OF_INVERSE * bins:
            nodes.append(smaller ^ 1)
    return nodes


@dataclass(frozen=True)
class Opened:
    """What the label silo reads of one model's splits: which is best in each node.

    Args:
        gains: float64, [nodes]; 0 where none is worth anything.
        offers: int64, [nodes]: place of the best among the node's splits; -1 for none.
    """

    gains: Array
    offers: Array

    @classmethod
    def of(
        cls,
        key: PrivateKey,
        packed: Bytes,
        counts: Array,
        *,
        slots: Slots,
        exponents: tuple[int, int],
        wholes: Array,
        growth: Growth,
        sender: str,
    ) -> Opened:
        """Decrypt the sums and find the best.

        Args:
            key: the label silo's.
            packed: of `Sums.packed`.
            counts: how many splits each node has, int64, [nodes].
            slots: of the packing.
            exponents: of `Slots.encoded`.
            wholes: each node's sums, float64, [nodes, 2].
            growth: how trees grow.
            sender: whose sums.
        """
        total = int(np.sum(counts))
        if len(packed) != -(-total // slots.pairs) or np.min(counts, initial=0) < 0:
            raise ReplyInvalid(f"silo '{sender}' sent another number of sums than it says")
        sums = np.empty((total, 2))
        for at, value in enumerate(key.public.unwired(packed, sender=sender)):
            span = slice(at * slots.pairs, min((at + 1) * slots.pairs, total))
            sums[span] = slots.decoded(key.decrypt(value), span.stop - span.start, exponents)
        gains, offers = np.zeros(len(counts)), np.full(len(counts), -1)
        for node, start in enumerate(np.cumsum(counts) - counts):
            mine = sums[start : start + counts[node]]
            worth = gains_of(mine[:, 0], mine[:, 1], *wholes[node], growth=growth)
            if len(worth) and worth.max() > 0:
                gains[node], offers[node] = worth.max(), worth.argmax()
        return cls(gains, offers)


def wholes_of(gradients: Array, curvatures: Array, nodes: Array, num_nodes: int) -> Array:
    """Return each node's sums of gradients and curvatures, float64, [nodes, 2].

    Args:
        gradients: float64, [rows]; NaN for a row left out.
        curvatures: float64, [rows].
        nodes: of each row; -1 for none.
        num_nodes: how many there are.
    """
    used = np.isfinite(gradients) & (nodes >= 0)
    at = nodes[used].astype(np.int64)
    sums = [np.bincount(at, each[used], num_nodes) for each in (gradients, curvatures)]
    return np.column_stack(sums)


def _exponent(values: Array) -> int:
    """Return by which power of two numbers are multiplied to be at most 2^POINT in size."""
    largest = float(np.max(np.abs(values), initial=0.0))
    return POINT - int(np.frexp(largest)[1]) if largest else POINT
