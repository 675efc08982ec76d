"""Runs that people start take turns, in the order of asking; a full queue says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from consilo.errors import ServiceFailed
from consilo.membership.coordinator import Queue, Reachable
from flows.services.turns import TURNS, tickets, turn

HOLDS = """
import sys, time
from pathlib import Path
from flows.services.turns import turn
with turn(Path(sys.argv[1]), print):
    print("has it", flush=True)
    time.sleep(600)
"""


def settle(home: Path, *, at_once: int, waiting: int) -> None:
    Reachable(port=20_000, queue=Queue(at_once=at_once, waiting=waiting)).save(home)


def test_runs_have_their_turn_in_order_and_never_more_at_once(tmp_path: Path) -> None:
    settle(tmp_path, at_once=2, waiting=10)
    lock, there, most, order = threading.Lock(), 0, 0, list[int]()
    words: dict[int, list[str]] = {number: [] for number in range(6)}

    def run(number: int) -> None:
        nonlocal there, most
        with turn(tmp_path, words[number].append):
            with lock:
                there, most = there + 1, max(most, there + 1)
                order.append(number)
            time.sleep(0.05)
            with lock:
                there -= 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for number, each in enumerate(threads):
        each.start()
        while len(order) <= number and len(tickets(tmp_path)) + len(order) <= number:
            time.sleep(0.001)
    for each in threads:
        each.join()
    assert sorted(order) == list(range(6))
    assert most <= 2
    assert tickets(tmp_path) == []
    assert "2 go at once" in words[5][0]
    assert words[5][-1] == "it is its turn"


def test_a_full_queue_says_since_when_and_what_to_do(tmp_path: Path) -> None:
    settle(tmp_path, at_once=1, waiting=0)
    with turn(tmp_path, print), pytest.raises(ServiceFailed) as full, turn(tmp_path, print):
        pytest.fail("a second one had its turn")
    told = str(full.value)
    assert "the queue is full: 1 runs go on or wait" in told
    assert "1 go at once and 0 may wait ('queue' in coordinator.yaml)" in told
    with turn(tmp_path, print):
        assert len(tickets(tmp_path)) == 1


def test_nobody_waits_for_a_process_that_was_killed(tmp_path: Path) -> None:
    settle(tmp_path, at_once=1, waiting=1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "has it\n"
        assert len(tickets(tmp_path)) == 1
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with turn(tmp_path, print):
        assert [each.stem for each in (tmp_path / TURNS).glob("*.ticket")] == ["1"]
