"""A part of a federation that dies is started again on its port, and a person is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from consilo.errors import CoordinatorUnreachable, ServiceFailed
from consilo.machine.processes import Service, Supervisor, free_port, listens
from flows.services.watch import LONGEST_PAUSE_S, STEADY_S, Absence, Watch
from tests.flows.commands.test_status import write_addresses

SERVES = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
SERVES += "time.sleep(600)"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def server(supervisor: Supervisor, folder: Path, port: int, **options: object) -> Service:
    command = [sys.executable, "-c", SERVES, str(port)]
    log = folder / "server.log"
    return supervisor.start(
        "the server",
        command,
        log=log,
        port=port,
        healthy=lambda: listens(port),
        lasting=True,
        **options,  # type: ignore[arg-type]
    )


def ends(supervisor: Supervisor, folder: Path, code: str, **options: object) -> Service:
    command = [sys.executable, "-S", "-c", code]
    service = supervisor.start("the server", command, log=folder / "server.log", **options)  # type: ignore[arg-type]
    service.process.wait(30)
    return service


def look_until(watch: Watch, condition: object, seconds: float = 20.0) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        watch.look()
        if condition():  # type: ignore[operator]
            return time.monotonic() - begun
        time.sleep(0.05)
    pytest.fail("it did not happen")


@pytest.mark.parametrize("whom", ["the server", "its guard"])
def test_a_killed_server_is_started_again_on_its_port_and_told(tmp_path, whom):
    said: list[str] = []
    port = free_port()
    with Supervisor() as supervisor:
        service = server(supervisor, tmp_path, port)
        watch = Watch(tmp_path, supervisor, said.append)
        watch.look()
        assert said == []
        before = service.pids()
        os.kill(before[0] if whom == "the server" else service.pid, signal.SIGKILL)
        service.process.wait(10)
        noticed = look_until(watch, lambda: said)
        assert noticed < 2.0  # a promise: a dead part is noticed within 2 s
        assert said[0].startswith("the server ended: killed by SIGKILL; it is started again in 0.5")
        look_until(watch, lambda: len(said) > 1)
        assert said[1].startswith("the server is up again, ")
        (again,) = supervisor.services
        assert again is not service
        assert again.argv == service.argv
        assert listens(port)
        assert not set(before) & set(again.pids())
    assert not listens(port)


def test_what_ends_again_and_again_is_tried_ever_more_rarely_and_for_ever(tmp_path):
    said: list[str] = []
    clock = Clock()
    pauses = []
    with Supervisor() as supervisor:
        ends(supervisor, tmp_path, "raise SystemExit(7)", lasting=True)
        watch = Watch(tmp_path, supervisor, said.append, clock=clock)
        for _ in range(9):
            watch.look()
            pauses.append(float(said[-1].partition("again in ")[2].partition(" s")[0]))
            clock.now += pauses[-1]
            watch.look()  # starts it again
            (service,) = supervisor.services
            service.process.wait(30)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert said[0].startswith("the server ended: exit code 7; ")
    assert said[-1].startswith("the server ended 9 times in ")


def test_one_that_was_steady_begins_anew(tmp_path):
    said: list[str] = []
    clock = Clock()
    with Supervisor() as supervisor:
        ends(supervisor, tmp_path, "raise SystemExit(7)", lasting=True)
        command = ("import time; time.sleep(600)",)
        watch = Watch(tmp_path, supervisor, said.append, clock=clock)
        watch.look()
        (service,) = supervisor.services
        service.argv = (sys.executable, "-S", "-c", *command)
        clock.now += 1
        watch.look()
        watch.look()
        assert said[-1] == "the server is up again, 1.0 s after it ended"
        clock.now += STEADY_S
        watch.look()
        (service,) = supervisor.services
        service.stop(0.1)
        watch.look()
    assert "it is started again in 0.5 s" in said[-1]


def test_one_that_shall_not_go_on_is_left_alone_and_told_once(tmp_path):
    said: list[str] = []
    with Supervisor() as supervisor:
        ended = ends(
            supervisor, tmp_path, "raise SystemExit(3)", lasting=True, for_good=frozenset({3})
        )
        watch = Watch(tmp_path, supervisor, said.append)
        watch.look()
        watch.look()
        assert supervisor.services == (ended,)
    assert said == [f"the server ended for good: exit code 3; log: {ended.log}"]


def test_what_is_to_end_by_itself_is_not_started_again(tmp_path):
    said: list[str] = []
    with Supervisor() as supervisor:
        ended = ends(supervisor, tmp_path, "pass")
        Watch(tmp_path, supervisor, said.append).look()
        assert supervisor.services == (ended,)
    assert said == []


def test_a_port_that_somebody_took_meanwhile_is_told_and_waited_for(tmp_path):
    said: list[str] = []
    port = free_port()
    with Supervisor() as supervisor:
        service = server(supervisor, tmp_path, port)
        os.kill(service.pids()[0], signal.SIGKILL)
        service.process.wait(10)
        watch = Watch(tmp_path, supervisor, said.append)
        with socket.create_server(("127.0.0.1", port)):
            look_until(watch, lambda: len(said) > 1)
            assert f"port {port} is in use" in said[1]
            assert "on until it can" in said[1]
        look_until(watch, lambda: said[-1].startswith("the server is up again"))


def test_an_ended_service_that_cannot_start_keeps_its_place(tmp_path):
    with Supervisor() as supervisor:
        service = ends(supervisor, tmp_path, "pass", lasting=True)
        service.argv = ("/no/such/program",)
        again = supervisor.restart(service)
        assert again.process.wait(30) == 127  # its guard says so; the next look tries again
        service.address = ("127.0.0.1", free_port())
        with socket.create_server(service.address), pytest.raises(ServiceFailed):
            supervisor.restart(service)
        assert supervisor.services == (again,)


def test_who_waits_for_a_run_is_told_that_the_superlink_is_away_and_back(tmp_path):
    # A run was silent for 185 s.
    with pytest.raises(CoordinatorUnreachable):
        Absence(tmp_path, print)
    write_addresses(tmp_path)
    said: list[str] = []
    clock = Clock()
    absence = Absence(tmp_path, said.append, clock=clock)
    for _ in range(2):
        clock.now += 2
        absence.look()
    (line,) = said
    assert "the SuperLink: the run waits for it" in line
    port = int(absence._address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        clock.now += 2
        absence.look()
    assert said[1:] == ["the SuperLink is back after 4 s"]
