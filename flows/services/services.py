"""The coordinator's services on one machine: Prefect, MLflow, the worker, the federation's page.

All bind to loopback. Both servers keep their state in SQLite below one directory, and call nobody.
Neither has a login of its own: whoever reaches them can run flows and read every run.
"""

from __future__ import annotations

import contextlib
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from consilo.machine.environment import child_environment
from consilo.machine.processes import Service, Supervisor, free_port, wait_healthy
from consilo.membership.coordinator import Keep
from flows.registry import names
from flows.services.prefect_log import LOGGING

_HEALTHY_WITHIN_S = 120.0


@dataclass(frozen=True)
class Starting:
    """A service on its way up, so that several can start side by side.

    Args:
        url: where it will answer.
        service: its process.
    """

    url: str
    service: Service
    _healthy: Callable[[], bool]

    def wait(self, timeout_s: float = _HEALTHY_WITHIN_S) -> str:
        """Wait until the service is healthy and return its address.

        Raises:
            ServiceFailed: where it dies or is not healthy in time.
        """
        wait_healthy(self.service, self._healthy, timeout_s)
        return self.url


def start_prefect(
    supervisor: Supervisor, home: Path, *, port: int | None = None, keep: Keep | None = None
) -> Starting:
    """Start a Prefect server; `Starting.url` is its API's address.

    Once an hour it deletes flow runs that have ended, with their task runs, states, logs and
    artifacts, once they are older than they are kept; what it calls events goes after a week.

    Args:
        supervisor: ends it.
        home: the coordinator's directory; the server keeps its state in ``prefect`` below it.
        port: None takes a free one.
        keep: for how long flow runs are kept.

    Raises:
        ServiceFailed: where the port is taken.
    """
    chosen = free_port() if port is None else port
    url = f"http://127.0.0.1:{chosen}/api"
    argv = [sys.executable, "-m", "flows.services.prefect_server", "--port", str(chosen)]
    environment = {**child_environment(), **prefect_environment(home, url), **LOGGING}
    environment |= {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(
            (keep or Keep()).flow_runs_days * 86_400
        ),
    }
    service = supervisor.start(
        "the Prefect server",
        argv,
        log=prefect_log(home),
        env=environment,
        cwd=_directory(home),
        port=chosen,
        lasting=True,
        answers=lambda: _answers(f"{url}/health"),
    )
    return Starting(url, service, lambda: _answers(f"{url}/health"))


def prefect_log(home: Path) -> Path:
    """Return the log of the Prefect server of the coordinator in ``home``."""
    return home / "logs" / "prefect.log"


def start_mlflow(supervisor: Supervisor, home: Path, *, port: int | None = None) -> Starting:
    """Start an MLflow server; `Starting.url` is its tracking URI.

    Args:
        supervisor: ends it.
        home: the coordinator's directory; the server keeps its state in ``mlflow`` below it.
        port: None takes a free one.

    Raises:
        ServiceFailed: where the port is taken.
    """
    chosen = free_port() if port is None else port
    url = f"http://127.0.0.1:{chosen}"
    folder = _directory(home / "mlflow")
    argv = [sys.executable, "-m", "flows.services.mlflow_server"]
    argv += ["--home", str(folder), "--port", str(chosen)]
    service = supervisor.start(
        "the MLflow server",
        argv,
        log=home / "logs" / "mlflow.log",
        # Jobs are for evaluating language models; their runner is three more processes.
        env=child_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
        cwd=folder,
        port=chosen,
        lasting=True,
        answers=lambda: _answers(f"{url}/health"),
    )
    return Starting(url, service, lambda: _answers(f"{url}/health"))


def start_page(supervisor: Supervisor, home: Path, *, port: int | None = None) -> Starting:
    """Start the federation's page; `Starting.url` is its address. It reads, and changes nothing.

    Args:
        supervisor: ends it.
        home: the coordinator's directory.
        port: None takes a free one.

    Raises:
        ServiceFailed: where the port is taken.
    """
    chosen = free_port() if port is None else port
    url = f"http://127.0.0.1:{chosen}"
    argv = [sys.executable, "-m", "dashboards", "--dir", str(home.resolve()), "--port", str(chosen)]
    service = supervisor.start(
        "the federation's page",
        argv,
        log=home / "logs" / "page.log",
        env=child_environment(home=home / "superlink" / "flwr"),
        cwd=_directory(home),
        port=chosen,
        lasting=True,
        answers=lambda: _answers(f"{url}/healthz"),
    )
    return Starting(url, service, lambda: _answers(f"{url}/healthz"))


def start_worker(supervisor: Supervisor, home: Path, api_url: str) -> Service:
    """Start a process worker that runs the deployments of the pool `names.POOL`.

    Args:
        supervisor: ends it, and the flow runs below it.
        home: the coordinator's directory; flows find their federation there.
        api_url: of the Prefect server.
    """
    argv = [_binary("prefect"), "worker", "start", "--pool", names.POOL, "--name", names.WORKER]
    argv += ["--type", "process"]
    environment = {
        **child_environment(),
        **prefect_environment(home, api_url),
        names.HOME_VARIABLE: str(home.resolve()),
    }
    return supervisor.start(
        "the Prefect worker",
        argv,
        log=home / "logs" / "worker.log",
        env=environment,
        cwd=_directory(home),
        lasting=True,
    )


def prefect_environment(home: Path, api_url: str) -> dict[str, str]:
    """Return the variables of a process that talks to our Prefect server; set before its import.

    Args:
        home: the coordinator's directory.
        api_url: of the Prefect server.
    """
    place = (home / "prefect").resolve()
    return {
        "PREFECT_HOME": str(place),
        # These two do not follow PREFECT_HOME, whatever Prefect's settings say: without them they
        # lie in ~/.prefect, and several servers share them.
        "PREFECT_SERVER_MEMO_STORE_PATH": str(place / "memo_store.toml"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(place / "storage"),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        # Each try waits twice as long as the one before: some four minutes for a server that died.
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        # The UI's page that advertises the hosted product loads from its maker's site.
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def prepare_prefect(api_url: str, *, runs_at_once: int = 1) -> None:
    """Create the work pool that deployments name, or bring it up to date; safe to call again.

    The pool holds all flows to ``runs_at_once`` together. Each deployment's own limit comes with
    `prefect deploy`; a limit by name that nobody created would be skipped with a warning, so there
    is none.

    Args:
        api_url: of the Prefect server.
        runs_at_once: how many deployed runs may use the federation at the same time.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.settings import PREFECT_API_URL, temporary_settings

    description = "Runs Consilo's flows."
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(
                WorkPoolCreate(name=names.POOL, type="process", description=description)
            )
        client.update_work_pool(
            names.POOL, WorkPoolUpdate(description=description, concurrency_limit=runs_at_once)
        )


def _binary(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2.0) as answer:
        return bool(answer.status == 200)
