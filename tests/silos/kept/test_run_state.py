import os
import stat

import pytest

from silos.kept.run_state import RunState


@pytest.fixture
def state(tmp_path):
    return RunState(tmp_path / "runs")


def test_what_one_message_keeps_the_next_process_finds(state, tmp_path):
    assert state.kept("run", "keys") is None
    state.keep("run", "keys", b"old")
    state.keep("run", "keys", b"new")
    assert RunState(tmp_path / "runs").kept("run", "keys") == b"new"
    assert state.kept("other", "keys") is None


def test_it_is_for_the_owner_only(state, tmp_path):
    state.keep("../run", "keys", b"x")
    (place,) = (tmp_path / "runs").iterdir()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "keys").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "../keys", "A", ".hidden", "a/b"])
def test_a_name_stays_inside_its_run(state, name):
    with pytest.raises(ValueError, match="cannot name"):
        state.keep("run", name, b"x")


def test_the_end_of_a_run_erases_before_it_deletes(state, tmp_path):
    state.keep("run", "keys", b"secret")
    state.keep("other", "keys", b"stays")
    (file,) = [
        each for each in (tmp_path / "runs").glob("*/keys") if each.read_bytes() == b"secret"
    ]
    os.link(file, tmp_path / "seen")  # what a deleted file's blocks still hold
    state.end("run")
    state.end("run")
    assert (tmp_path / "seen").read_bytes() == bytes(6)
    assert state.kept("run", "keys") is None
    assert state.kept("other", "keys") == b"stays"


def test_one_part_is_forgotten(state):
    state.keep("run", "a", b"1")
    state.keep("run", "b", b"2")
    state.forget("run", "a")
    state.forget("run", "a")
    assert (state.kept("run", "a"), state.kept("run", "b")) == (None, b"2")


def test_a_run_whose_end_nobody_told_lapses(state, tmp_path):
    state.keep("old", "keys", b"x")
    (place,) = (tmp_path / "runs").iterdir()
    os.utime(place, (0, 0))
    state.keep("new", "keys", b"x")
    assert state.kept("old", "keys") is None
