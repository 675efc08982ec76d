"""What a process may still do that has locked itself in, tried in a child."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from consilo.machine import sandbox


def locked_in(work: Callable[[], object], *, readable: tuple[Path, ...] = (), **settings) -> str:
    """What became of ``work`` in a child that is locked in: its answer, or the error's name."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            sandbox.confine(readable, keep=(writer,), **settings)
            said = str(work())
        except BaseException as cause:
            said = f"{type(cause).__name__}: {cause}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def test_this_machine_can_lock_a_process_in() -> None:
    assert sandbox.fault() == ""


def test_it_reads_what_it_was_told_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("text")
    (tmp_path / "other").write_text("secret")
    given, other = tmp_path / "given", tmp_path / "other"
    assert locked_in(given.read_text, readable=(given,)) == "text"
    assert "PermissionError" in locked_in(other.read_text, readable=(given,))
    assert "PermissionError" in locked_in(lambda: given.write_text("x"), readable=(given,))
    assert "PermissionError" in locked_in(lambda: os.listdir(tmp_path), readable=(given,))
    assert "PermissionError" in locked_in(lambda: os.truncate(given, 0), readable=(given,))
    assert given.read_text() == "text"


def test_its_environment_is_empty_and_nothing_else_is_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret")
    with open(tmp_path / "file") as file:
        assert "Bad file descriptor" in locked_in(lambda: os.read(file.fileno(), 1))
    assert locked_in(lambda: dict(os.environ)) == "{}"
    assert locked_in(lambda: os.write(1, b"x")) == "1"  # to nowhere


def test_a_folder_that_must_be_hidden_is_not_among_what_it_reads(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "silo"
    inside.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "a", inside):
        said = locked_in(os.getpid, readable=(place,), hidden=inside)
        assert said.startswith("SandboxUnavailable"), said
    assert locked_in(lambda: "ok", readable=(tmp_path / "a",), hidden=tmp_path) == "ok"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_ends_and_jumps_within_itself(machine: str) -> None:
    """A wrong jump is refused by the kernel on this machine, and by nobody on the other one."""
    program = sandbox._program(machine)
    assert len(program) < 4096
    for at, (code, yes, no, _) in enumerate(program):
        assert code in (0x20, 0x15, 0x35, 0x45, 0x06)
        assert at + 1 + max(yes, no) < len(program) or code == 0x06
    assert program[-1] == (0x06, 0, 0, 0x7FFF0000)


def run(machine: str, number: int, first: int = 0, *, arch: int | None = None) -> int:
    """What the filter says of a call: the kernel's interpreter in ten lines."""
    own = sandbox._MACHINES[machine][1]
    data = {0: number, 4: own if arch is None else arch, 16: first & 0xFFFFFFFF, 20: first >> 32}
    program, at, value = sandbox._program(machine), 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = data[operand]
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}
            at += yes if holds[code] else no


@pytest.mark.parametrize(("machine", "side"), [("x86_64", 0), ("aarch64", 1)])
def test_what_a_filter_says_on_either_machine(machine: str, side: int) -> None:
    allow, eperm, enosys, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    for numbers in sandbox._FORBIDDEN.values():
        if numbers[side] is not None:
            assert run(machine, numbers[side]) == eperm
    clone, prctl, limits = (sandbox._NUMBERS[n][side] for n in ("clone", "prctl", "prlimit64"))
    thread = 0x3D0F00
    assert run(machine, clone, thread) == allow
    assert run(machine, clone, 17) == eperm  # a process
    assert run(machine, clone, thread | 0x10000000) == eperm  # with a namespace
    assert run(machine, prctl, 15) == allow
    assert run(machine, prctl, 4) == eperm
    assert run(machine, limits, 0) == allow
    assert run(machine, limits, 4711) == eperm
    assert [run(machine, each) for each in (425, 435, 438, 451, 999)] == [enosys] * 5
    assert run(machine, 0x40000000 + 41) in (kill, enosys)
    assert run(machine, 0, arch=0x40000003) == kill
    read, write = ((0, 1), (63, 64))[side]
    assert (run(machine, read), run(machine, write)) == (allow, allow)
