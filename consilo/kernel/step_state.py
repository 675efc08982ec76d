"""What a silo carries from step to step of one run: a step asked again sees what it saw before.

A run that died is driven again from its last checkpoint, which is a round's end; by then a silo may
have forgotten what it answered at the round's first steps, and does them once more. So three
versions are kept: the one with which the round began, that of the step before, that of this step.

>>> class Drawer(dict):
...     def kept(self, name): return self.get(name)
...     def keep(self, name, content): self[name] = content
...     def forget(self, name): self.pop(name, None)
>>> drawer = Drawer()
>>> def add_one(number):  # the state counts the rounds that this silo has taken part in
...     state = StepState(drawer, "count", place=(number, 0), mark="00" * 16)
...     value = (state.before() or {"rounds": 0})["rounds"] + 1
...     state.keep({"rounds": value})
...     return value
>>> add_one(1), add_one(2), add_one(2), add_one(5)
(1, 2, 2, 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from consilo.errors import Refused
from consilo.wire.payload import pack, unpack

Place = tuple[int, int]
"""A round, and a step within it."""
_SLOTS = 3
_MARK_BYTES = 16


class Drawer(Protocol):
    """Where a run's state lies: `SiloView` has these."""

    def kept(self, name: str) -> bytes | None:
        """Return what is kept under ``name``; None where there is nothing."""
        ...

    def keep(self, name: str, content: bytes) -> None:
        """Keep ``content`` under ``name``, durably; the old one is gone."""
        ...

    def forget(self, name: str) -> None:
        """Erase what is kept under ``name``."""
        ...


@dataclass(frozen=True)
class _Version:
    """The state after a step.

    Args:
        place: of the step.
        value: the state.
        steps: the round's steps that are done, int64.
        marks: which message asked for each of them, uint8 [steps, 16].
    """

    place: Place
    value: Mapping[str, Any]
    steps: np.ndarray[Any, Any]
    marks: np.ndarray[Any, Any]

    def pack(self) -> bytes:
        """Return the version as bytes."""
        round, step = self.place
        content = {"round": round, "step": step, "steps": self.steps, "marks": self.marks}
        return pack({**content, "value": self.value})

    @classmethod
    def unpack(cls, content: bytes) -> _Version:
        """Return the version that `pack` wrote."""
        fields = unpack(content)
        place = (fields["round"], fields["step"])
        return cls(place, fields["value"], fields["steps"], fields["marks"])


class StepState:
    """A silo's state under one name, as one step sees and leaves it.

    Args:
        drawer: where it lies.
        name: small letters, digits and ``-``.
        place: of the step that is asked now.
        mark: names the message, in 32 hexadecimal digits.
        once: another message about a step that is done, or about a round before the newest, is
            refused: what was answered counts, and a second answer would tell more than was agreed.
            Without it the newest answer counts, as where a round is done anew with other silos.
        step_name: the step's name in messages.
    """

    def __init__(
        self,
        drawer: Drawer,
        name: str,
        *,
        place: Place,
        mark: str,
        once: bool = False,
        step_name: str = "",
    ) -> None:
        self._drawer = drawer
        self._slots = tuple(f"{name}-{number}" for number in range(_SLOTS))
        self._place = place
        self._mark = np.frombuffer(bytes.fromhex(mark), np.uint8)
        self._once = once
        self._step_name = step_name or f"step {place[1]} of round {place[0]}"

    def before(self) -> Mapping[str, Any] | None:
        """Return the state that the silo's step before this one left; None at its first.

        Raises:
            Refused: where it is gone, since the run has gone on beyond this step's round.
        """
        versions = self._versions()
        version = self._before(versions)
        if version is None and (place := self._predecessor(versions)) is not None:
            raise Refused(
                f"this silo no longer holds what it knew before {self._step_name} of this run, "
                f"after step {place[1]} of round {place[0]}",
                code="order",
            )
        return None if version is None else version.value

    def at(self, place: Place) -> Mapping[str, Any] | None:
        """Return the state that the step at ``place`` left; None where it is not kept."""
        versions = [each for each in self._versions().values() if each.place == place]
        return versions[0].value if versions else None

    def keep(self, value: Mapping[str, Any]) -> None:
        """Keep the state that this step leaves, durably; versions that nobody needs any more go.

        Args:
            value: what `consilo.wire.payload.pack` takes: arrays and plain values by name.

        Raises:
            Refused: where the run has gone on beyond this step's round; with ``once``, where
                another message has asked for this step.
        """
        versions = self._versions()
        number, step = self._place
        steps, marks = self._done(versions)
        asked = marks[steps == step]
        if self._once and len(asked) and not np.array_equal(asked[0], self._mark):
            raise Refused(f"this silo has done {self._step_name} of this run already", code="order")
        before = self._before(versions)
        others = steps != step if self._once else steps < step
        made = _Version(
            self._place,
            value,
            np.append(steps[others], np.int64(step)),
            np.concatenate([marks[others], self._mark[None]]),
        )
        begun = _newest([each for each in versions.values() if each.place[0] < number])
        needed = {each.place for each in (before, begun) if each is not None} - {self._place}
        held = {slot for slot, each in versions.items() if each.place in needed}
        mine = [slot for slot, each in versions.items() if each.place == self._place]
        slot = (mine or [each for each in self._slots if each not in held])[0]
        self._drawer.keep(slot, made.pack())
        for each in versions.keys() - held - {slot}:
            self._drawer.forget(each)

    def _before(self, versions: Mapping[str, _Version]) -> _Version | None:
        place = self._predecessor(versions)
        return next((each for each in versions.values() if each.place == place), None)

    def _predecessor(self, versions: Mapping[str, _Version]) -> Place | None:
        """Return the place of the silo's step before this one; None at its first."""
        number, step = self._place
        if any(each.place[0] > number for each in versions.values()):
            raise Refused(
                f"this silo has done {self._step_name} of this run already, in a round "
                "that is over",
                code="order",
            )
        steps, _ = self._done(versions)
        if (steps < step).any():
            return (number, int(steps[steps < step].max()))
        begun = _newest([each for each in versions.values() if each.place[0] < number])
        return None if begun is None else begun.place

    def _done(
        self, versions: Mapping[str, _Version]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the steps of this round that are done, and the messages that asked for them."""
        newest = _newest([v for v in versions.values() if v.place[0] == self._place[0]])
        if newest is None:
            return np.zeros(0, np.int64), np.zeros((0, _MARK_BYTES), np.uint8)
        return newest.steps, newest.marks

    def _versions(self) -> dict[str, _Version]:
        contents = {slot: self._drawer.kept(slot) for slot in self._slots}
        return {slot: _Version.unpack(each) for slot, each in contents.items() if each is not None}


def _newest(versions: list[_Version]) -> _Version | None:
    return max(versions, key=lambda each: each.place, default=None)
