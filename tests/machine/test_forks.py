"""A fork does its work and ends; what happens in it stays there."""

import os
import socket
import time

import pytest

from consilo.machine.forks import CRASHED_EXIT, exit_code, fork


def _ended(child: int) -> int:
    while (code := exit_code(child)) is None:
        time.sleep(0.005)
    return code


@pytest.mark.parametrize("fault", [None, ValueError("a fault"), SystemExit(3), KeyboardInterrupt()])
def test_a_fork_does_its_work_without_the_channel_and_never_returns(capfd, fault):
    here, there = socket.socketpair()
    reader, writer = os.pipe()

    def work() -> None:
        os.write(writer, b"closed" if here.fileno() == -1 else b"open")
        if fault is not None:
            raise fault

    with here, there:
        code = _ended(fork(here, work))
    assert os.read(reader, 16) == b"closed"
    assert code == (0 if fault is None else CRASHED_EXIT)
    assert (type(fault).__name__ in capfd.readouterr().err) == (fault is not None)
    os.close(reader)
    os.close(writer)


def test_a_child_that_lives_has_no_exit_code_and_one_that_is_not_ours_has_crashed():
    reader, writer = os.pipe()
    here, there = socket.socketpair()
    with here, there:
        child = fork(here, lambda: os.read(reader, 1) and None)
    assert exit_code(child) is None
    os.write(writer, b"x")
    assert _ended(child) == 0
    assert exit_code(child) == CRASHED_EXIT
    os.close(reader)
    os.close(writer)
