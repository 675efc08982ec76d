"""Tests begin with the signals of a shell in the foreground; workers share out whole files."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

TIERS = ("federation", "flow")
"""The tiers with long files, which begin first, so that no worker is left alone with one."""


def pytest_configure(config: pytest.Config) -> None:
    # A job that a shell starts in the background inherits an ignored SIGINT, and so would every
    # process that a test starts, of which some test what Ctrl-C does.
    state = tempfile.mkdtemp(prefix="consilo-state-")
    config.add_cleanup(functools.partial(shutil.rmtree, state, ignore_errors=True))
    os.environ["XDG_STATE_HOME"] = state
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker all files that share servers, or one file; never a part of one.

    ``--dist loadgroup`` would say it by marks, but xdist 3.8 writes them into an attribute that
    pytest 9.2 no longer has, and deals out single tests without a word.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # in the order of `pytest_collection_modifyitems`
    return Units(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=_tier)


@functools.cache
def _unit(file: str) -> str:
    if file.startswith("tests/flows/"):
        return "one Prefect and one MLflow server"
    if "demo: KeptDemo" in Path(__file__).parents[1].joinpath(file).read_text():
        return "one demo"
    return file


def _tier(item: pytest.Item) -> int:
    return next((n for n, tier in enumerate(TIERS) if item.get_closest_marker(tier)), len(TIERS))


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What silos of one user share lies in a folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
