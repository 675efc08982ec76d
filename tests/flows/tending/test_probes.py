"""A part that lives and does nothing is noticed, told of, ended and started again."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from consilo.machine.processes import Service, Supervisor, free_port, listens
from consilo.membership.keys import load_or_create_authority
from consilo.transports.flower.superlink import start_superlink
from flows.services.watch import Watch
from flows.tending.probes import SILENT_S, STOPPED_S, Probes

SERVES = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def answers(port: int) -> Callable[[], bool]:
    def ask() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=0.5) as answer:
            return bool(answer.status == 200)

    return ask


def server(supervisor: Supervisor, folder: Path) -> Service:
    port = free_port()
    return supervisor.start(
        "the server",
        [*SERVES, str(port)],
        log=folder / "log",
        cwd=folder,
        port=port,
        lasting=True,
        healthy=answers(port),
        answers=answers(port),
    )


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stopped_part_is_told_ended_and_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    clock = Clock()
    with Supervisor() as supervisor:
        service = server(supervisor, tmp_path)
        probes, watch = Probes(said.append, clock=clock), Watch(tmp_path, supervisor, said.append)
        probes.look(supervisor.services)
        assert said == []
        os.kill(service.pids()[0], signal.SIGSTOP)
        wait_until(service.is_stopped)
        assert listens(service.address[1])  # the kernel still takes connections
        watch.look()
        probes.look(supervisor.services)
        assert said == [
            "the server stands still, stopped by a signal; if it goes on for 15 s it is started "
            "again"
        ]
        clock.now = STOPPED_S - 1
        probes.look(supervisor.services)
        assert len(said) == 1
        assert service.returncode is None
        clock.now = STOPPED_S
        probes.look(supervisor.services)
        service.process.wait(20)

        def is_again() -> bool:
            watch.look()
            return "is up again" in said[-1]

        wait_until(is_again)
        assert "killed by SIGKILL; it is started again" in said[2]
        (again,) = supervisor.services
        assert again.pid != service.pid
        probes.look(supervisor.services)
        assert "is up again" in said[-1]


def test_one_that_goes_on_in_time_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []
    clock = Clock()
    with Supervisor() as supervisor:
        service = server(supervisor, tmp_path)
        probes = Probes(said.append, clock=clock)
        main = service.pids()[0]
        os.kill(main, signal.SIGSTOP)
        wait_until(service.is_stopped)
        probes.look(supervisor.services)
        os.kill(main, signal.SIGCONT)
        clock.now = STOPPED_S * 2
        wait_until(lambda: not service.is_stopped())
        probes.look(supervisor.services)
        assert said[-1] == "the server does its work again"
        assert service.returncode is None


def test_one_that_answers_nobody_any_more_is_ended_and_one_on_its_way_up_is_not(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    clock = Clock()
    does = {"answer": False}
    with Supervisor() as supervisor:
        service = supervisor.start(
            "the server",
            ["sleep", "60"],
            log=tmp_path / "log",
            lasting=True,
            answers=lambda: does["answer"],
        )
        probes = Probes(said.append, clock=clock)
        probes.look(supervisor.services)
        clock.now = SILENT_S * 2
        probes.look(supervisor.services)
        assert said == []
        does["answer"] = True
        probes.look(supervisor.services)
        does["answer"] = False
        probes.look(supervisor.services)
        assert said == ["the server does not answer; if it goes on for 90 s it is started again"]
        clock.now += SILENT_S
        probes.look(supervisor.services)
        service.process.wait(20)
        assert service.signal_number == signal.SIGKILL


def test_a_superlink_answers_while_it_goes_and_not_while_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consilo.transports.flower.superlink._HANDSHAKE_S", 1.0)
    authority = load_or_create_authority(tmp_path / "keys")
    with Supervisor() as supervisor:
        link = start_superlink(supervisor, tmp_path / "superlink", authority, port=free_port())
        assert link.service.answers is not None
        assert link.service.answers()
        os.kill(link.service.pids()[0], signal.SIGSTOP)
        wait_until(link.service.is_stopped)
        with pytest.raises(OSError, match="timed out"):
            link.service.answers()
