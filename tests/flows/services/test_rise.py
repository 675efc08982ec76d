"""What a person looks at comes up first; what imports beside it begins once Prefect answers."""

from pathlib import Path

import pytest

from consilo.errors import ServiceFailed
from consilo.membership.coordinator import Reachable
from flows.services import federation, services


class _Starting:
    def __init__(self, done, name, *, fails=False):
        self.url = f"http://{name}"
        self._done, self._name, self._fails = done, name, fails
        done.append(f"{name} starts")

    def wait(self):
        if self._fails:
            raise ServiceFailed(f"{self._name} died")
        self._done.append(f"{self._name} answers")


@pytest.fixture
def done(monkeypatch):
    """What was done, in order; services and nodes are none."""
    done = []
    monkeypatch.setattr(
        services, "start_prefect", lambda *_, **__: _Starting(done, "prefect", fails="bad" in done)
    )
    monkeypatch.setattr(services, "start_mlflow", lambda *_, **__: _Starting(done, "mlflow"))
    monkeypatch.setattr(services, "start_page", lambda *_, **__: _Starting(done, "page"))
    monkeypatch.setattr(services, "prepare_prefect", lambda _: None)
    monkeypatch.setattr(federation, "await_free", lambda *_: None)

    def link(*_):
        done.append("superlink")
        return "127.0.0.1:1", "ca.pem"

    monkeypatch.setattr(federation, "start_link", link)
    monkeypatch.setattr(federation, "start_node", lambda _, name, __: done.append(f"node {name}"))
    return done


def rise(tmp_path, silos):
    place = Reachable(port=20_000, prefect_port=20_001, mlflow_port=20_002)
    return federation.rise(None, tmp_path, silos, say=lambda _: None, place=place)


def test_nodes_start_once_prefect_answers(done, tmp_path):
    rising = rise(tmp_path, {"north": Path("north"), "south": Path("south")})
    assert done == [
        "prefect starts",
        "mlflow starts",
        "superlink",
        "prefect answers",
        "node north",
        "node south",
        "page starts",
    ]
    assert rising.addresses.superlink == "127.0.0.1:1"
    assert not (tmp_path / "federation.json").exists()  # no flow finds it before it is whole


def test_no_node_starts_beside_a_prefect_that_died(done, tmp_path):
    done.append("bad")
    with pytest.raises(ServiceFailed, match="prefect died"):
        rise(tmp_path, {"north": Path("north")})
    assert not [each for each in done if each.startswith("node")]
