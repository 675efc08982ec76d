import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from isolated import interpreter

from consilo.errors import ConfigInvalid, ServiceFailed
from consilo.transports.flower.bundle import build_bundle, keep_bundle
from consilo.wire.parcel import Fault, Parcel
from silos.node import node
from silos.node.node import Warm, main
from silos.node_config import NodeConfig

ANSWERER = """
import os, sys, time
from consilo.wire.parcel import Parcel

def answerer(silo, bundle, elsewhere=None):
    def answer(parcel):
        order = parcel.header.decode()
        if order == "echo":
            return Parcel(parcel.header, parcel.body)
        if order == "where":
            return Parcel(str(os.getpid()).encode(), str(silo).encode())
        if order == "module":
            from consilo.learners.modules import resolve
            return Parcel(resolve("brought:name", [bundle])().encode(), b"")
        if order == "path":
            return Parcel("\\n".join(sys.path).encode(), b"")
        if order == "raise":
            raise ValueError("patient 4711 has diabetes")
        if order == "exit":
            os._exit(9)
        if order == "grow":
            hoard = bytearray(b"x") * (400 << 20)
            time.sleep(60)
        if order == "sleep":
            if os.fork() == 0:
                os.setsid()
                time.sleep(60)
            time.sleep(60)
        if order == "state":
            sys.modules["__main__"].marker = getattr(sys.modules["__main__"], "marker", 0) + 1
            return Parcel(str(sys.modules["__main__"].marker).encode(), b"")
        raise AssertionError(order)
    return answer
"""


@pytest.fixture
def silo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = tmp_path / "library"
    library.mkdir()
    (library / "order_answerer.py").write_text(ANSWERER)
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path / "python", library))
    monkeypatch.setenv("CONSILO_TEST_MARK", str(library))
    folder = tmp_path / "silo"
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit('a file of the silo was imported')\n")
    (folder / "policy.yaml").write_text("limits: {memory_mib: 100, wall_s: 3}\n")
    return folder


def config(**changes: object) -> NodeConfig:
    values: dict[str, object] = {
        "name": "a",
        "superlink": "127.0.0.1:1",
        "preload": (),
    }
    return NodeConfig.model_validate({**values, **changes})


@pytest.fixture
def warm(silo: Path) -> Iterator[Warm]:
    with Warm(silo, config(), answerer="order_answerer:answerer") as process:
        process.start()
        yield process
    assert not below(silo)


def below(silo: Path) -> list[psutil.Process]:
    """Return the processes that this test has started; other tests keep some of their own."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if child.environ().get("CONSILO_TEST_MARK") == str(silo.parent / "library"):
                found.append(child)
    return found


def ask(warm: Warm, silo: Path, order: str, body: bytes = b"") -> Parcel | Fault:
    modules = {"brought.py": b"def name():\n    return 'brought along'\n"}
    return warm.answer(
        Parcel(order.encode(), body), keep_bundle(build_bundle(modules), silo / "bundles")
    )


def test_each_message_is_answered_by_a_process_of_its_own(warm: Warm, silo: Path) -> None:
    body = os.urandom(3_000_000)
    assert ask(warm, silo, "echo", body) == Parcel(b"echo", body)
    first, second = ask(warm, silo, "where"), ask(warm, silo, "where")
    assert isinstance(first, Parcel)
    assert isinstance(second, Parcel)
    assert first.body == str(silo).encode()
    assert first.header != second.header
    assert ask(warm, silo, "state") == ask(warm, silo, "state") == Parcel(b"1", b"")


def test_the_bundle_is_there_for_the_resolver_and_on_no_path(warm: Warm, silo: Path) -> None:
    assert ask(warm, silo, "module") == Parcel(b"brought along", b"")
    path = ask(warm, silo, "path")
    assert isinstance(path, Parcel)
    assert not [each for each in path.header.decode().split("\n") if each in ("", ".", str(silo))]
    assert str(silo / "bundles") not in path.header.decode()


@pytest.mark.parametrize("order", ["raise", "exit"])
def test_a_child_that_dies_is_a_fault_without_its_words(warm: Warm, silo: Path, order: str) -> None:
    begin = time.monotonic()
    fault = ask(warm, silo, order)
    assert isinstance(fault, Fault)
    assert fault.code == "crashed"
    assert "4711" not in fault.reason
    assert time.monotonic() - begin < 30  # stock Flower takes about 60 s to tell
    assert ask(warm, silo, "echo") == Parcel(b"echo", b"")


@pytest.mark.parametrize(
    ("order", "word", "wall_s"), [("grow", "memory", 120), ("sleep", "time", 3)]
)
def test_a_child_is_ended_at_its_limits_with_all_it_started(
    warm: Warm, silo: Path, order: str, word: str, wall_s: int
) -> None:
    (silo / "policy.yaml").write_text(f"limits: {{memory_mib: 100, wall_s: {wall_s}}}\n")
    fault = ask(warm, silo, order)
    assert isinstance(fault, Fault)
    assert word in fault.reason
    assert len(below(silo)) == 1
    assert ask(warm, silo, "echo") == Parcel(b"echo", b"")


def test_a_warm_process_that_dies_is_started_again(warm: Warm, silo: Path) -> None:
    (child,) = below(silo)
    child.kill()
    child.wait()
    assert ask(warm, silo, "echo") == Parcel(b"echo", b"")


def test_a_preload_that_fails_is_said(silo: Path) -> None:
    with (
        Warm(silo, config(preload=("no_such_module",))) as process,
        pytest.raises(ServiceFailed, match="no_such_module"),
    ):
        process.start()


def test_a_wrong_configuration_is_an_error_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dir", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "node.yaml").write_text(
        yaml.safe_dump({"name": "a", "superlink": "h:1", "preloads": ["x"]})
    )
    with pytest.raises(ConfigInvalid, match="did you mean 'preload'"):
        NodeConfig.load(tmp_path)


def test_a_key_of_a_former_release_is_passed_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The number of threads was the node's; now it is the job's, within the policy."""
    (tmp_path / "node.yaml").write_text("name: anna\nsuperlink: h:1\nthreads: 2\n")
    assert NodeConfig.load(tmp_path).name == "anna"
    assert "limits.threads in policy.yaml" in caplog.text


def test_no_file_of_a_silo_names_what_answers_in_its_guards_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A key ``answerer`` of node.yaml, which no page told of, did, and not a word was logged."""
    (tmp_path / "node.yaml").write_text(
        yaml.safe_dump({"name": "a", "superlink": "h:1", "answerer": "flows.rehearsal.poison:x"})
    )
    with pytest.raises(ConfigInvalid, match="answerer"):
        NodeConfig.load(tmp_path)
    (tmp_path / "node.yaml").write_text(yaml.safe_dump({"name": "a", "superlink": "h:1"}))
    started: list[str] = []
    monkeypatch.setattr(node, "Node", lambda *given: _Noted(started, given[-1]))
    monkeypatch.setattr(node, "become_subreaper", lambda: None)
    with caplog.at_level("WARNING"):
        node.run_node(tmp_path)
        assert not caplog.records
        node.run_node(tmp_path, answerer="somebody:else")
    assert started == [node.ANSWERER, "somebody:else"]
    assert "NOTHING THAT ITS POLICY SAYS HOLDS" in caplog.text
    assert "somebody:else" in caplog.text


class _Noted:
    """In a node's place: notes what would answer."""

    def __init__(self, started: list[str], answerer: str) -> None:
        self._started, self._answerer = started, answerer

    def run(self) -> None:
        self._started.append(self._answerer)
