"""What a silo has learnt so far: kept so that an epoch can be begun anew, and no step done twice.

A run that died is driven again from its last checkpoint, which is an epoch's end; by then a silo
has forgotten what it answered at the epoch's first steps, and does them once more. So beside the
newest two states the one with which the epoch began is kept. Every state lists which message asked
for each step of the epoch: another question about a step that is done is refused, since a second
answer would tell more than was agreed, or paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from consilo.errors import Refused
from consilo.kernel.view import SiloView
from consilo.vertical.blocks import Array
from consilo.wire.payload import pack, unpack

_START, _SLOTS = "net-start", ("net-even", "net-odd")
_MARK_BYTES = 16


@dataclass(frozen=True)
class Shelf:
    """A silo's states in one run.

    Args:
        silo: whose; its header names the question.
        per_epoch: steps in an epoch.
    """

    silo: SiloView
    per_epoch: int

    def after(self, step: int) -> Array:
        """Return the state after a step, uint8.

        Raises:
            Refused: where the silo has not done the step, or one of a later epoch already.
        """
        for name in (_SLOTS[step % 2], _START):
            found = self._read(name)
            if found is not None and found["step"] == step:
                return np.asarray(found["state"])
        raise Refused(f"this silo does not stand at step {step} of this run", code="order")

    def keep(self, step: int, state: Array) -> None:
        """Keep the state after a step, durably.

        Raises:
            Refused: where another message has asked for the same step before, or a later epoch has
                begun: which messages asked for the steps of the one before is forgotten then.
        """
        epoch, place = divmod(step - 1, self.per_epoch)
        marks = np.zeros((self.per_epoch, _MARK_BYTES), np.uint8)
        for name in _SLOTS:
            found = self._read(name)
            if found is not None and found["epoch"] > epoch:
                raise Refused(
                    f"this silo has done step {step} of this run already, in an epoch that is over",
                    code="order",
                )
            if found is not None and found["epoch"] == epoch:
                marks |= found["marks"]
        mine = np.frombuffer(bytes.fromhex(self.silo.header.step_id), np.uint8)
        if marks[place].any() and not np.array_equal(marks[place], mine):
            raise Refused(f"this silo has done step {step} of this run already", code="order")
        if place == 0 and step > 1:
            self._begin(step)
        marks[place] = mine
        self._write(_SLOTS[step % 2], step, state, epoch=epoch, marks=marks)

    def _begin(self, step: int) -> None:
        """Keep the state with which an epoch begins; that of the epoch before is gone."""
        start = self._read(_START)
        if start is None or start["step"] != step - 1:
            self._write(_START, step - 1, self.after(step - 1))

    def _write(self, name: str, step: int, state: Array, **more: Any) -> None:
        self.silo.keep(name, pack({"step": step, "state": state, **more}))

    def _read(self, name: str) -> dict[str, Any] | None:
        found = self.silo.kept(name)
        return None if found is None else unpack(found)
