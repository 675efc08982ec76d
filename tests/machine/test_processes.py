import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from consilo.errors import ServiceFailed
from consilo.machine.environment import QUIET, child_environment
from consilo.machine.processes import Supervisor, free_port, listens

# A service that starts a grandchild which leaves for a session of its own and ignores SIGTERM.
# It is up only once the grandchild is there: the child that made it has ended by then.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(120)
    os._exit(0)
os.waitpid(child, 0)
print("up", flush=True)
time.sleep(120)
"""


def marked(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CONSILO_TEST_MARK") == mark:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def gone(mark: str, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not marked(mark)


def come(mark: str, number: int, within_s: float = 10.0) -> bool:
    """Whether that many processes bear the mark; one between its fork and its exec has none yet."""
    deadline = time.monotonic() + within_s
    while len(marked(mark)) < number and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(marked(mark)) >= number


def environment(mark: str) -> dict[str, str]:
    return child_environment(CONSILO_TEST_MARK=mark)


def up(log: Path) -> bool:
    return "up" in log.read_text()


def test_what_a_service_writes_is_its_users_alone(tmp_path: Path) -> None:
    writes = "from pathlib import Path; Path('made').mkdir(); Path('made/file').write_text('')"
    with Supervisor() as supervisor:
        service = supervisor.start(
            "writer", [sys.executable, "-c", writes], log=tmp_path / "log", cwd=tmp_path
        )
        service.process.wait(20)
    modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.rglob("*")}
    assert modes == {"log": 0o600, "made": 0o700, "file": 0o600}


def test_nothing_is_left_of_a_service_that_ignores_sigterm_and_has_daemons(tmp_path: Path) -> None:
    log, mark = tmp_path / "log", tmp_path.name
    with Supervisor() as supervisor:
        service = supervisor.start(
            "stubborn",
            [sys.executable, "-c", STUBBORN],
            log=log,
            env=environment(mark),
            healthy=lambda: up(log),
        )
        assert len(service.pids()) >= 2
        begin = time.monotonic()
        service.stop(grace_s=0.3)
        assert time.monotonic() - begin < 3
    assert gone(mark, 0.5)


def test_whoever_got_the_number_of_a_guard_that_ended_is_left_alone(tmp_path: Path) -> None:
    """Started again a minute after it ended, a service could kill a stranger's session."""
    with Supervisor() as supervisor:
        command = [sys.executable, "-S", "-c", ""]
        service = supervisor.start("short", command, log=tmp_path / "log")
        service.process.wait(30)
        stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
        try:
            service.process.pid = stranger.pid
            supervisor.restart(service)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait(10)


def test_nothing_is_left_when_the_supervising_process_is_killed(tmp_path: Path) -> None:
    mark = tmp_path.name
    program = (
        "import sys, time, pathlib\n"
        "from consilo.machine.processes import Supervisor\n"
        "log = pathlib.Path(sys.argv[1])\n"
        "with Supervisor() as s:\n"
        f"    s.start('x', [sys.executable, '-c', {STUBBORN!r}], log=log,\n"
        "            healthy=lambda: 'up' in log.read_text())\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(120)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        env=environment(mark),
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        try:
            assert out.readline() == b"ready\n"
            # The supervising process, its watcher, the service and the service's daemon.
            assert come(mark, 4)
        finally:
            parent.kill()
            parent.wait()
    assert gone(mark, 9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_block_and_its_services(tmp_path: Path, number: int) -> None:
    mark = tmp_path.name
    program = (
        "import sys, time, pathlib\n"
        "from consilo.machine.processes import Supervisor\n"
        "with Supervisor() as s:\n"
        "    s.start('x', ['sleep', '100'], log=pathlib.Path(sys.argv[1]))\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(120)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        env=environment(mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        out.readline()
    parent.send_signal(number)
    assert parent.wait(10) in (143, 130, -signal.SIGINT)
    assert gone(mark, 0.5)


def test_a_service_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        Supervisor() as supervisor,
        pytest.raises(ServiceFailed, match=r"(?s)code 3.*no such table"),
    ):
        supervisor.start(
            "broken",
            [sys.executable, "-c", "import sys; print('no such table'); sys.exit(3)"],
            log=tmp_path / "log",
            healthy=lambda: False,
        )


def test_a_service_that_never_answers_is_stopped_at_its_deadline(tmp_path: Path) -> None:
    mark = tmp_path.name
    with Supervisor() as supervisor, pytest.raises(ServiceFailed, match="within 0 s"):
        supervisor.start(
            "slow",
            ["sleep", "60"],
            log=tmp_path / "log",
            env=environment(mark),
            healthy=lambda: False,
            timeout_s=0.3,
        )
    assert gone(mark, 0.5)


def test_a_port_in_use_and_a_missing_program_are_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as holder, Supervisor() as supervisor:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert listens(port)
        with pytest.raises(ServiceFailed, match=f"port {port} is in use"):
            supervisor.start("web", ["sleep", "1"], log=tmp_path / "log", port=port)
        with pytest.raises(ServiceFailed, match="cannot start no-such-program"):
            supervisor.start("x", ["no-such-program"], log=tmp_path / "log", healthy=lambda: False)


def test_a_free_port_is_none_that_an_outgoing_connection_is_given() -> None:
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if given < 32_768:
        pytest.skip(f"this machine gives outgoing connections ports from {given}")
    for _ in range(20):
        port = free_port()
        assert not listens(port)
        assert port < given


def test_the_environment_of_a_child_is_quiet_and_finds_our_interpreter_first() -> None:
    environment = child_environment(home=Path("/somewhere"), EXTRA="1")
    assert QUIET.items() <= environment.items()
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["FLWR_HOME"] == "/somewhere"
    assert environment["EXTRA"] == "1"
