"""The coordinator's servers: one process each, on loopback, and clear about a taken port."""

from __future__ import annotations

import socket

import httpx
import pytest

from consilo.errors import ServiceFailed
from consilo.processes import Supervisor
from flows.services import start_mlflow, start_prefect

pytestmark = pytest.mark.flow


def test_each_server_is_one_process(services):
    assert [len(each.pids()) for each in services.supervisor.services] == [1, 1]


def test_both_answer_for_people_too(services):
    for page in (services.prefect_api.removesuffix("/api"), services.tracking_uri):
        answer = httpx.get(page, follow_redirects=True, timeout=30)
        assert answer.status_code == 200
        assert "<html" in answer.text.lower()


def test_the_mlflow_server_keeps_its_files_below_the_home(services):
    assert (services.home / "mlflow" / "mlflow.db").is_file()


def test_the_prefect_server_keeps_its_files_below_the_home(services):
    # Its memo lay in ~/.prefect, whatever PREFECT_HOME said, with a warning where that is not.
    place = services.home / "prefect"
    assert (place / "prefect.db").is_file()
    assert (place / "memo_store.toml").is_file()
    told = (services.home / "logs" / "prefect.log").read_text()
    assert "WARNING" not in told, told


@pytest.mark.parametrize("start", [start_prefect, start_mlflow])
def test_a_port_in_use_is_refused_with_its_number(start, tmp_path):
    with socket.socket() as taken, Supervisor() as supervisor:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceFailed, match=f"port {port} is in use"):
            start(supervisor, tmp_path, port=port)
        assert supervisor.services == ()
