"""Run one flow in a process of its own and leave its summary in a file; the command line's child.

Its imports (Prefect, MLflow, torch) take seconds, so it is started before the services answer and
waits for ``federation.json``. Standard output stays empty. When all is written it leaves without
taking apart what it has imported, which would take seconds as well.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from consilo.errors import ConsiloError, ServiceFailed
from consilo.garbage import collect_seldom
from consilo.machine.environment import quieten
from consilo.machine.files import write_atomic
from consilo.machine.leases import is_held
from flows.tending.servers import ask

_WAIT_S = 300.0
_PREFECT_S = 120.0


def main() -> int:
    """Run the pipeline; return 0 unless it failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.runner", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the coordinator's directory")
    parser.add_argument("--run-id", required=True, help="what the run is called")
    parser.add_argument("--parameters", required=True, help="the flow's parameters, as JSON")
    parser.add_argument("--result", type=Path, required=True, help="where the summary goes")
    options = parser.parse_args()
    quieten()
    collect_seldom()
    summary = _run(options.home, options.run_id, json.loads(options.parameters))
    write_atomic(options.result, json.dumps(summary, indent=1).encode())
    return 0 if summary.get("status") != "failed" else 1


def _run(home: Path, run_id: str, parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        _import_early()
        addresses = _addresses(home)
        _await_prefect(addresses.prefect_api, home)
        from flows.services.services import prefect_environment

        os.environ.update(prefect_environment(home, addresses.prefect_api))
        from flows.pipeline import run_pipeline

        return run_pipeline(home=home, run_id=run_id, **parameters)
    except ConsiloError as error:
        return {"run_id": run_id, "status": "failed", "reason": f"{type(error).__name__}: {error}"}
    except OSError as error:  # a full disk, say; the log has where
        traceback.print_exc()
        return {"run_id": run_id, "status": "failed", "reason": f"{type(error).__name__}: {error}"}


def _import_early() -> None:
    """Import what is slow and does not look at Prefect's settings."""
    import mlflow  # noqa: F401
    import torch  # noqa: F401

    import consilo.runs.horizontal
    import consilo.transports.flower.transport  # noqa: F401


def _addresses(home: Path) -> Any:
    from flows.services.federation import Addresses

    deadline = time.monotonic() + _WAIT_S
    while not (home / "federation.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return Addresses.load(home)


def _await_prefect(api: str, home: Path) -> None:
    """Wait for a Prefect that is away, where a process looks after it and starts it again.

    Raises:
        ServiceFailed: where it stays away.
    """
    deadline = time.monotonic() + _PREFECT_S
    while True:
        try:
            ask(f"{api}/health")
            return
        except OSError as cause:
            if not is_held(home / "up.lock") or time.monotonic() > deadline:
                raise ServiceFailed(
                    f"Prefect does not answer at {api} ({cause}); is 'consilo up --dir {home}' "
                    "still running?"
                ) from None
        time.sleep(0.5)


def _leave(code: int) -> NoReturn:
    """End as an interpreter does, threads and exit functions first, but leave memory as it is."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
