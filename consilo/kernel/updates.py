"""Judges updates by those of the rounds before: one that cannot be honest work is not counted.

What a verb declares (names, shapes, finite numbers) is checked before. Here an update is held
against the run's own history, which is wide where it is short, so that silos that differ are safe:

- *exploding*: its norm is above the median of the accepted ones of the rounds before by more than
  `LEAST_FACTOR`, and by more than `DEVIATIONS` robust deviations of their logarithms (median
  absolute deviation, times 1.4826; Huber 1981). With fewer than `LEAST_KNOWN` of them only a norm
  above `FIRST_FACTOR` times that of the model (plus 1) is refused.
- *zero*: nothing is in it though rows are told, no accepted update was so, and training has not
  come to rest: in the round before, the silo's own update and the median of all were above
  `AT_REST` times the model's norm (plus 1). Below it a float32's last bits are all that moves, and
  an honest step may move none of them.
- *replayed*: the silo sent the same numbers in a round before in which it was asked about another
  model, and they are above that bound. A model that is to the bit the one of a round before is
  answered as it was then, by whoever computes on all rows: where the silos' updates cancel out, or
  the model goes to and fro between two points.

An update is judged by rounds before its own only. So it does not matter who answers first, a step
that is asked again is judged alike, and a run that died goes on from its checkpoint with the same
history.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from consilo.errors import UpdateRejected
from consilo.kernel.verbs import Disclosure, Verb

LEAST_FACTOR = 100.0
DEVIATIONS = 10.0
LEAST_KNOWN = 4
FIRST_FACTOR = 1e15
AT_REST = 1e-5
ROUNDS_KEPT = 32
_BLOCK = 1 << 16
_Print = tuple[float, float, int]
"""Sum of squares and sum of numbers, and the CRC-32 of their bytes."""


class _Told(NamedTuple):
    """A silo's update in a round.

    Args:
        update: what it was.
        asked: of which model; None where a release before this one has not noted it.
    """

    update: _Print
    asked: _Print | None

    def to_payload(self) -> list[float]:
        return [*self.update, *(self.asked or ())]

    @classmethod
    def of(cls, value: Sequence[float]) -> _Told:
        update, asked = _of(value[:3]), _of(value[3:]) if value[3:] else None
        return cls(update, asked)


def _of(value: Sequence[float]) -> _Print:
    squares, total, check = value
    return squares, total, int(check)


Known = dict[str, dict[int, dict[str, _Told]]]


class Updates:
    """The norms of the updates that a run has counted.

    Args:
        judges: whether any is refused; else nothing is looked at.
    """

    def __init__(self, *, judges: bool = True) -> None:
        self.judges = judges
        self._known: Known = {}  # kind of update → round → silo → print

    def require_like(
        self,
        verb: Verb,
        fields: Mapping[str, Any],
        payload: Mapping[str, Any],
        *,
        silo: str,
        round: int,
        step: str,
    ) -> None:
        """Raise `UpdateRejected` where an answer's update cannot count; else note it.

        Args:
            verb: what was asked; it declares which fields are updates.
            fields: the answer, which is what the verb declares.
            payload: what was asked with.
            silo: who answered.
            round: in which round it was asked; before the rounds nothing is judged.
            step: which question of the round.
        """
        if not self.judges or not round:
            return
        rows = fields.get("num_examples", 1)
        for name, field in verb.replies.items():
            if field.kind != "tensors" or field.disclosure != Disclosure.UPDATE:
                continue
            if field.where_asked or not fields.get(name) or not rows:
                continue
            told = _Told(_print(fields[name]), _print(payload.get(field.like, {})))
            kind = f"{verb.name}.{name}.{step}"
            self._judge(kind, told, silo, round)
            self._known.setdefault(kind, {}).setdefault(round, {})[silo] = told
            for old in [each for each in self._known[kind] if each <= round - ROUNDS_KEPT]:
                del self._known[kind][old]

    def to_payload(self) -> dict[str, Any]:
        """Return the history in plain values, for a checkpoint."""
        return {
            kind: {
                str(number): {silo: each.to_payload() for silo, each in told.items()}
                for number, told in rounds.items()
            }
            for kind, rounds in self._known.items()
        }

    def take(self, value: Mapping[str, Any]) -> None:
        """Take the history that `to_payload` told."""
        self._known = {
            kind: {
                int(number): {silo: _Told.of(each) for silo, each in told.items()}
                for number, told in rounds.items()
            }
            for kind, rounds in value.items()
        }

    def _judge(self, kind: str, now: _Told, silo: str, round: int) -> None:
        before = {n: told for n, told in self._known.get(kind, {}).items() if n < round}
        norms = [_norm(each) for told in before.values() for each in told.values()]
        norm, size = _norm(now), 1 + math.sqrt(now.asked[0] if now.asked else 0.0)
        nothing = AT_REST * size
        if not norm:
            if norms and all(norms) and not _rests(before[max(before)], silo, nothing):
                raise UpdateRejected("zero: the update changes nothing, and states rows")
            return
        for number, told in before.items():
            then = told.get(silo)
            if then is None or norm <= nothing or then.asked == now.asked:
                continue
            if then.update == now.update:
                raise UpdateRejected(f"replayed: the update is that of round {number}")
        limit = _limit([each for each in norms if each], size)
        if norm > limit:
            raise UpdateRejected(
                f"exploding: the update's norm is above {limit:.3g}, the most that the updates "
                "of the rounds before let one expect"
            )


def _norm(told: _Told) -> float:
    return math.sqrt(told.update[0])


def _rests(told: Mapping[str, _Told], silo: str, nothing: float) -> bool:
    """Return whether a round's updates, or this silo's, were too small to tell from none."""
    norms = {name: _norm(each) for name, each in told.items()}
    return min(median(norms.values()), norms.get(silo, math.inf)) <= nothing


def _limit(norms: list[float], size: float) -> float:
    """Return the largest norm that is taken for honest work.

    Args:
        norms: of the updates before, none of them 0.
        size: the model's norm, plus 1.
    """
    if len(norms) < LEAST_KNOWN:
        return FIRST_FACTOR * size
    logs = [math.log(each) for each in norms]
    middle = median(logs)
    spread = 1.4826 * median(abs(each - middle) for each in logs)
    return math.exp(min(middle + max(math.log(LEAST_FACTOR), DEVIATIONS * spread), 700.0))


def _print(arrays: Mapping[str, Any]) -> _Print:
    """Return the print of arrays, block by block in float64."""
    squares, total, check = 0.0, 0.0, 0
    for array in arrays.values():
        flat = np.asarray(array).reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            check = zlib.crc32(np.ascontiguousarray(flat[start : start + _BLOCK]).data, check)
            block = flat[start : start + _BLOCK].astype(np.float64)
            squares += float(block @ block)
            total += float(block.sum())
    return squares, total, check
