"""A promotion that dies at any step of the disk or the registry is decided once, and done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, Any

import pytest
from decided import (
    MODEL,
    FileRegistry,
    coordinators_key,
    deciding,
    enrolled,
    pointing,
    proposed,
    trained,
    way_back,
    word,
)

from consilo.decisions.deciding import Deciding
from consilo.decisions.promotions import Promotions
from consilo.machine.files import Disk, on


class Died(BaseException):
    """The process is gone."""


class Steps:
    """Dies before its n-th step; 0 lives."""

    def __init__(self, last: int = 0) -> None:
        self.done = 0
        self.last = last

    def step(self) -> None:
        self.done += 1
        if self.done == self.last:
            raise Died


class DyingDisk(Disk):
    """A disk whose process dies at a step."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        self.steps.step()
        super().write(file, data)

    def sync(self, file: IO[bytes]) -> None:
        self.steps.step()
        super().sync(file)

    def connect(self, path: Path, timeout_s: float) -> Any:
        self.steps.step()
        return super().connect(path, timeout_s)


class DyingRegistry(FileRegistry):
    """A registry whose caller dies at a step."""

    def __init__(self, path: Path, steps: Steps) -> None:
        super().__init__(path)
        self.steps = steps

    def point(self, model: str, alias: str, version: int | None) -> None:
        self.steps.step()
        super().point(model, alias, version)

    def mark(self, model: str, head: str) -> None:
        self.steps.step()
        super().mark(model, head)


def work_of(home: Path, steps: Steps) -> Deciding:
    registry = DyingRegistry(home / "registry.json", steps)
    return Deciding(home, MODEL, coordinators_key(home), aliases=registry, now=lambda: 1.8e9)


@pytest.mark.parametrize("deed", ["promote", "rollback"])
def test_whoever_dies_at_any_step_leaves_one_decision_that_is_done(tmp_path, deed):
    base = tmp_path / "base"
    keys = enrolled(base, "bea")
    for version in (1, 2):
        trained(base, version)
        deciding(base).sign(word(proposed(base, version), keys["bea"])) if version == 1 else None
    envelope = word(proposed(base, 2), keys["bea"])
    if deed == "rollback":
        deciding(base).sign(envelope)
        envelope = way_back(base, keys["bea"])
    after = {"promote": {"champion": 2, "previous": 1}, "rollback": {"champion": 1}}[deed]
    kind = {"promote": "decided", "rollback": "rolled_back"}[deed]

    def act(home: Path, steps: Steps) -> None:
        with on(DyingDisk(steps)):
            if deed == "promote":
                work_of(home, steps).sign(envelope)
            else:
                work_of(home, steps).roll_back(1, envelope=envelope)

    number, undecided = 1, 0
    while True:
        home = tmp_path / "home"
        shutil.copytree(base, home)
        steps, before = Steps(number), pointing(home)
        try:
            act(home, steps)
        except Died:
            found = Promotions.open(home, MODEL)
            lasts = len([e for e in found.entries if e["kind"] == kind])
            begun = len([e for e in Promotions.open(base, MODEL).entries if e["kind"] == kind])
            if pointing(home) != before:
                assert lasts == begun + 1, "an alias without a decision"
            deciding(home).settle()  # what `consilo up` does
            found = Promotions.open(home, MODEL)
            made = len([e for e in found.entries if e["kind"] == kind]) - begun
            assert made in (0, 1)
            undecided += not made
            assert pointing(home) == (after if made else before)
            assert not found.unmoved
            if not made:  # nobody was told that it was decided: it is said again
                act(home, Steps())
            assert pointing(home) == after
            shutil.rmtree(home)
            number += 1
            continue
        break
    assert number > 15
    assert undecided < number - 5
