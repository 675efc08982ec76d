"""The pool: in order, bounded, every death accounted for, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from isolated import interpreter

from consilo.errors import ServiceFailed
from consilo.transports import pool as pool_module
from consilo.transports.pool import PoolTransport
from consilo.wire.parcel import Parcel, Transport

SUPPORT = Path(__file__).parents[1] / "support"
OPENER = "echo_silos:open_silos"
NAMES = tuple(f"silo-{place:02}" for place in range(30))


@pytest.fixture(autouse=True)
def _support_is_importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path / "python", SUPPORT))


@pytest.fixture
def pool() -> Iterator[PoolTransport]:
    odd = ("dies", "hangs", "slow-1", "slow-2", "slow-3")
    with PoolTransport([*NAMES, *odd], OPENER, "given", workers=2) as made:
        yield made


def _parcels(*names: str, body: bytes = b"model") -> dict[str, Parcel]:
    return {name: Parcel(f"to {name}".encode(), body) for name in names}


def _gone(pids: tuple[int, ...], within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_answers_come_in_the_order_asked_from_a_few_processes(pool: PoolTransport) -> None:
    assert isinstance(pool, Transport)
    asked = tuple(reversed(NAMES))
    arrivals = list(pool.exchange(_parcels(*asked), deadline_s=30))
    assert tuple(each.silo for each in arrivals) == asked
    for each in arrivals:
        assert each.parcel is not None
        argument, silo, pid, _, header = each.parcel.header.decode().split("|")
        assert (argument, silo, header) == ("given", each.silo, f"to {each.silo}")
        assert int(pid) in pool.pids[1:]
        assert each.parcel.body == b"model"
    assert set(pool.online()) >= set(NAMES)


def test_each_silo_can_have_a_body_of_its_own_and_an_empty_one(pool: PoolTransport) -> None:
    parcels = {name: Parcel(b"h", name.encode() * (place % 2)) for place, name in enumerate(NAMES)}
    for arrival in pool.exchange(parcels, deadline_s=30):
        assert arrival.parcel is not None
        assert arrival.parcel.body == parcels[arrival.silo].body


def test_large_bodies_travel_whole(pool: PoolTransport) -> None:
    body = os.urandom(3 << 20)
    for arrival in pool.exchange(_parcels(*NAMES[:5], body=body), deadline_s=30):
        assert arrival.parcel is not None
        assert arrival.parcel.body == body


def test_a_shared_body_is_sent_once_per_worker(
    pool: PoolTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    real = pool_module.anonymous_file
    monkeypatch.setattr(
        pool_module, "anonymous_file", lambda *parts: (sent.extend(parts), real(*parts))[1]
    )
    list(pool.exchange(_parcels(*NAMES), deadline_s=30))
    assert 1 <= sent.count(b"model") <= 2


def test_no_more_than_a_window_is_sent_ahead(pool: PoolTransport) -> None:
    taken = 0

    def counted() -> Iterator[tuple[str, Parcel]]:
        nonlocal taken
        for item in _parcels(*NAMES).items():
            taken += 1
            yield item

    class Counting(dict[str, Parcel]):
        def items(self):  # type: ignore[no-untyped-def]
            return counted()

    arrivals = pool.exchange(Counting(), deadline_s=30)
    next(arrivals)
    time.sleep(0.3)
    assert taken <= 2 * pool_module._AHEAD
    arrivals.close()
    assert len(list(pool.exchange(_parcels(*NAMES), deadline_s=30))) == len(NAMES)


def test_a_death_costs_the_silo_that_caused_it_and_no_other(pool: PoolTransport) -> None:
    before = pool.pids
    asked = (*NAMES[:4], "dies", *NAMES[4:])
    arrivals = {each.silo: each for each in pool.exchange(_parcels(*asked), deadline_s=30)}
    fault = arrivals["dies"].fault
    assert fault is not None
    assert fault.code == "crashed"
    assert all(arrivals[name].parcel is not None for name in NAMES)
    assert tuple(arrivals) == asked
    assert pool.pids != before
    assert all(_lives(pid) for pid in pool.pids)


def test_a_silo_that_hangs_is_late_and_its_worker_is_replaced(pool: PoolTransport) -> None:
    asked = (*NAMES[:3], "hangs", *NAMES[3:6])
    arrivals = {each.silo: each for each in pool.exchange(_parcels(*asked), deadline_s=1.0)}
    fault = arrivals["hangs"].fault
    assert fault is not None
    assert fault.code == "deadline"
    assert all(arrivals[name].parcel is not None for name in NAMES[:6])


def test_an_answer_after_the_deadline_counts_as_dropped(pool: PoolTransport) -> None:
    (arrival,) = pool.exchange(_parcels("slow-1"), deadline_s=0.1)
    assert arrival.fault is not None
    assert arrival.fault.code == "deadline"
    assert arrival.seconds >= 0.1


def test_time_in_the_queue_does_not_count(pool: PoolTransport) -> None:
    asked = ("slow-1", "slow-2", "slow-3")
    arrivals = list(pool.exchange(_parcels(*asked), deadline_s=5))
    assert all(0.3 <= each.seconds < 1.0 for each in arrivals)


def test_a_silo_nobody_knows_is_unreachable(pool: PoolTransport) -> None:
    first, second = pool.exchange(_parcels("nobody", NAMES[0]), deadline_s=30)
    assert first.fault is not None
    assert first.fault.code == "unreachable"
    assert second.parcel is not None


def test_threads_may_ask_at_once(pool: PoolTransport) -> None:
    found: dict[int, list[str]] = {}

    def ask(place: int) -> None:
        arrivals = pool.exchange(_parcels(*NAMES[place::4]), deadline_s=30)
        found[place] = [each.silo for each in arrivals if each.parcel is not None]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert found == {place: list(NAMES[place::4]) for place in range(4)}


def test_an_abandoned_exchange_leaves_nothing_behind(pool: PoolTransport) -> None:
    arrivals = pool.exchange(_parcels(*NAMES), deadline_s=30)
    next(arrivals)
    arrivals.close()
    again = list(pool.exchange(_parcels(*NAMES, body=b"other"), deadline_s=30))
    assert [each.silo for each in again] == list(NAMES)
    assert all(each.parcel is not None and each.parcel.body == b"other" for each in again)


def test_workers_are_replaced_after_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_MOST_ANSWERS", 5)
    with PoolTransport(NAMES, OPENER, workers=2) as pool:
        first = set(pool.pids)
        arrivals = list(pool.exchange(_parcels(*NAMES), deadline_s=30))
        assert [each.silo for each in arrivals] == list(NAMES)
        counts = [int(each.parcel.header.split(b"|")[3]) for each in arrivals if each.parcel]
        assert max(counts) <= 5
        assert len(pool.pids) == 3
        pids = pool.pids
        assert _gone(tuple(first - set(pids)))
    assert _gone(pids)


def test_closing_ends_every_process_even_one_that_hangs() -> None:
    pool = PoolTransport(["hangs"], OPENER, workers=2)
    pids = pool.pids
    arrivals = pool.exchange(_parcels("hangs"), deadline_s=60)
    found: list[str] = []

    def ask() -> None:
        with pytest.raises(ServiceFailed):
            found.append(next(arrivals).silo)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    pool.close()
    pool.close()
    asking.join(10)
    assert not asking.is_alive()
    assert _gone(pids)


def test_an_opener_that_cannot_be_imported_is_said_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ServiceFailed, match="cannot be imported"):
        PoolTransport(["a"], "no_such_module:open", log=log)
    assert "no_such_module" in log.read_text()


def test_an_opener_that_fails_costs_every_silo_and_ends(tmp_path: Path) -> None:
    with PoolTransport(NAMES[:3], "echo_silos:broken", workers=1, log=tmp_path / "log") as pool:
        arrivals = list(pool.exchange(_parcels(*NAMES[:3]), deadline_s=30))
    assert [each.fault.code for each in arrivals if each.fault] == ["crashed"] * 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nobody_outlives_the_process_that_made_the_pool(number: int) -> None:
    program = (
        "import sys\n"
        "from consilo.wire.parcel import Parcel\n"
        "from consilo.transports.pool import PoolTransport\n"
        f"with PoolTransport(['hangs'], '{OPENER}', workers=2) as pool:\n"
        "    print(*pool.pids, flush=True)\n"
        "    list(pool.exchange({'hangs': Parcel(b'', b'')}, deadline_s=60))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    pids = tuple(int(each) for each in child.stdout.readline().split())
    child.stdout.close()
    assert len(pids) == 3
    time.sleep(0.3)
    child.send_signal(number)
    child.wait(10)
    assert _gone(pids)
