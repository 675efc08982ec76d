"""The pipeline's process waits for a Prefect that is restarted, and says why it cannot begin."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consilo.errors import ServiceFailed
from consilo.machine.leases import leased
from consilo.machine.processes import free_port
from flows import runner


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(True).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def prefect(port: int) -> Iterator[None]:
    with http.server.HTTPServer(("127.0.0.1", port), _Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_a_prefect_that_comes_back_is_waited_for_where_somebody_starts_it_again(
    tmp_path: Path,
) -> None:
    port, done = free_port(), threading.Event()
    api = f"http://127.0.0.1:{port}/api"
    with leased(tmp_path / "up.lock"):
        waits = threading.Thread(
            target=lambda: (runner._await_prefect(api, tmp_path), done.set()), daemon=True
        )
        waits.start()
        assert not done.wait(1.0)
        with prefect(port):
            assert done.wait(30)
            waits.join(30)


def test_where_nobody_does_it_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match=r"Prefect does not answer at .*'consilo up --dir"):
        runner._await_prefect(f"http://127.0.0.1:{free_port()}/api", tmp_path)


def test_a_disk_without_room_is_the_reason_and_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "_import_early", full)
    said = runner._run(tmp_path, "a-run", {})
    assert said["status"] == "failed"
    assert said["run_id"] == "a-run"
    assert said["reason"] == "OSError: [Errno 28] No space left on device"
    assert "Traceback" in capsys.readouterr().err
