"""A coordinator's directory with made-up runs, and the pages of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dashboards.reading.reading import Reading
from dashboards.site import site_here

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import page_data

HERE = "http://127.0.0.1:8410"
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def past_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Five runs of four silos, the fourth degraded, the others complete; nothing is up."""
    home = tmp_path_factory.mktemp("past") / "home"
    past = page_data.Past(runs=5, silos=4, rounds=4)
    return home, page_data.write_past(home, past, until=NOW)


@pytest.fixture
def reading(past_home: tuple[Path, list[Any]]) -> Iterator[Reading]:
    made = Reading(past_home[0], now=lambda: NOW)
    yield made
    made.close()


@pytest.fixture
def client(reading: Reading) -> TestClient:
    app = site_here(reading, port=8410).application()
    return TestClient(app, base_url=HERE, follow_redirects=False)
