"""What a silo has learnt so far: kept so that an epoch can be begun anew, and no step done twice.

An epoch is what `consilo.kernel.step_state` calls a round: its end is a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from consilo.errors import Refused
from consilo.kernel.step_state import Place, StepState
from consilo.kernel.view import SiloView
from consilo.vertical.blocks import Array


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
        state = self._state(step).at(self._place(step))
        if state is None:
            raise Refused(f"this silo does not stand at step {step} of this run", code="order")
        return np.asarray(state["net"])

    def keep(self, step: int, state: Array) -> None:
        """Keep the state after a step, durably.

        Raises:
            Refused: where another message has asked for the same step before, or a later epoch has
                begun: which messages asked for the steps of the one before is forgotten then.
        """
        self._state(step).keep({"net": state})

    def _state(self, step: int) -> StepState:
        return StepState(
            self.silo,
            "net",
            place=self._place(step),
            mark=self.silo.header.step_id,
            once=True,
            step_name=f"step {step}",
        )

    def _place(self, step: int) -> Place:
        return divmod(step - 1, self.per_epoch)
