"""Every schedule of faults that a seed draws leaves a federation that holds what it promises.

How many are played: 400 here, 5,000 with ``SCHEDULES=5000`` as in CI, more with ``make soak``.
"""

import os
import random
from pathlib import Path

import pytest
from sim_checks import twin
from sim_disk import Died, MachineDisk
from sim_faults import Fault, Scenario, drawn, shrunk
from sim_plants import PLANTS
from sim_run import first_failure, play, play_seed, smallest

from consilo.machine import files
from consilo.machine.database import open_database

SCHEDULES = int(os.environ.get("SCHEDULES", "400"))
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_of_faults_breaks_what_is_promised(part):
    failed = {
        seed: played.violation
        for seed in range(part, SCHEDULES, PARTS)
        if (played := play_seed(seed)).violation
    }
    assert not failed, f"python tests/simulation --seed {min(failed)} tells: {failed}"


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_mistake_is_noticed(name):
    seed = first_failure(PLANTS[name], most=20_000)
    assert seed is not None
    assert not play_seed(seed).violation  # it is the mistake


def test_a_seed_is_the_same_schedule_each_time_and_most_go_through():
    stories = [[play_seed(seed) for seed in range(60)] for _ in range(2)]
    assert stories[0] == stories[1]
    assert len({drawn(seed) and str(drawn(seed)) for seed in range(60)}) > 55
    ended = [each.status for each in stories[0]]
    assert {"complete", "degraded", "failed"} <= set(ended)
    assert ended.count("complete") > 20


def test_a_failure_is_made_small():
    plant = PLANTS["spends_after_the_reply"]
    seed = next(s for s in range(2000) if len(drawn(s)[1]) > 2 and play_seed(s, plant).violation)
    scenario, faults, played = smallest(seed, plant)
    assert 1 <= len(faults) < len(drawn(seed)[1])
    assert played.violation
    for each in faults:
        fewer = [other for other in faults if other is not each]
        assert not play(seed, scenario, fewer, plant).violation


def test_shrinking_leaves_what_is_needed():
    needed = [Fault("kill", "east", 3), Fault("lose", "", 2)]
    faults = [Fault("full", "east", 9), *needed, Fault("clock", "east", 1, 60.0)]
    assert shrunk(faults, lambda some: set(needed) <= set(some)) == needed


def test_silos_and_rounds_make_another_twin_each():
    twins = {twin(Scenario(silos, rounds, False)) for silos in (1, 2) for rounds in (1, 2, 3)}
    assert len(twins) == 6
    assert twin(Scenario(2, 3, True)) == twin(Scenario(2, 3, False))


# The disk itself: what it loses is what was not synced.


def machine(folder: Path, seed: int) -> MachineDisk:
    disk = MachineDisk(folder, random.Random(seed))
    disk.settle({})
    return disk


def after_power_is_lost(tmp_path, work) -> set[bytes | None]:
    """Return what may be in the file ``it`` afterwards; None where it is gone."""
    found = set()
    for seed in range(40):
        folder = tmp_path / str(seed)
        folder.mkdir()
        disk = machine(folder, seed)
        with files.on(disk):
            work(folder / "it")
        disk.ending = "power"
        disk.come_back()
        found.add((folder / "it").read_bytes() if (folder / "it").exists() else None)
    return found


def test_a_file_that_was_written_whole_is_there_after_power_is_lost(tmp_path):
    assert after_power_is_lost(tmp_path, lambda it: files.write_atomic(it, b"all")) == {b"all"}


def test_a_file_that_nobody_synced_may_be_there_torn_empty_or_gone(tmp_path):
    found = after_power_is_lost(tmp_path, lambda it: it.write_bytes(b"all"))
    assert {None, b"", b"all"} <= found
    assert found & {b"a", b"al"}


def test_a_name_that_was_not_synced_may_be_the_old_one(tmp_path):
    def work(it):
        files.write_atomic(it, b"old")
        made = it.with_name("made")
        files.write_atomic(made, b"new")
        files.disk().replace(made, it)

    assert after_power_is_lost(tmp_path, work) == {b"old", b"new"}


@pytest.mark.parametrize("lasting", [True, False])
def test_a_commit_is_taken_back_where_it_need_not_last(tmp_path, lasting):
    left = set()
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        disk = machine(folder, seed)
        with files.on(disk):
            with open_database(folder / "a.db", lasting=True, schema="CREATE TABLE t (x)"):
                pass
            with open_database(folder / "a.db", lasting=lasting) as database:
                database.execute("INSERT INTO t VALUES (1)")
            disk.ending = "power"
            disk.come_back()
            database = open_database(folder / "a.db", lasting=True)
            left.add(database.execute("SELECT count(*) FROM t").fetchone()[0])
        disk.close()
    assert left == ({1} if lasting else {0, 1})


def test_a_process_that_died_does_nothing_more(tmp_path):
    disk = MachineDisk(tmp_path, random.Random(0))
    disk.settle({2: "kill"})
    with files.on(disk):
        with pytest.raises(Died):
            files.write_atomic(tmp_path / "it", b"all")
        with pytest.raises(Died):
            files.write_atomic(tmp_path / "other", b"all")
    assert disk.steps == 2
    disk.come_back()
    assert not [each for each in tmp_path.iterdir() if each.name[0] != "."]
