"""Tests begin with the signals of a shell in the foreground; workers share out whole files."""

import signal
from pathlib import Path

import pytest

SHARED = ("services", "demo")
"""Session fixtures that start servers: one worker gets every file with tests that use one."""
TIERS = ("federation", "flow")
"""The tiers with long files, which begin first, so that no worker is left alone with one."""


def pytest_configure() -> None:
    # A job that a shell starts in the background inherits an ignored SIGINT, and so would every
    # process that a test starts, of which some test what Ctrl-C does.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in a hook of the same name
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    groups: dict[Path, str] = {}
    for item in items:
        groups.setdefault(item.path, str(item.path.relative_to(config.rootpath)))
        for name in SHARED:
            if name in getattr(item, "fixturenames", ()):
                groups[item.path] = name
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.path]))
    items.sort(key=_tier)


def _tier(item: pytest.Item) -> int:
    return next((n for n, tier in enumerate(TIERS) if item.get_closest_marker(tier)), len(TIERS))
