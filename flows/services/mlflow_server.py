"""The MLflow server in one process: ``python -m flows.services.mlflow_server --home DIR --port N``.

``mlflow server`` keeps its command line's process (207 MiB) beside the one that serves; this does
the same in one. Its metadata are in SQLite, and it proxies the artifacts; both below ``--home``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from consilo.garbage import collect_seldom


def main() -> None:
    """Prepare the stores, then serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="MLflow tracking server, SQLite, one process")
    parser.add_argument("--home", type=Path, required=True, help="directory of its files")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    collect_seldom()
    os.environ.update(server_environment(args.home))

    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    store = f"sqlite:///{args.home / 'mlflow.db'}"
    initialize_backend_stores(store, store, "mlflow-artifacts:/")
    uvicorn.run(
        "mlflow.server.fastapi_app:app", host=args.host, port=args.port, log_level="warning"
    )


def server_environment(home: Path) -> dict[str, str]:
    """Return what ``mlflow server`` hands to the process that serves, by its own constants."""
    from mlflow.server import constants

    store = f"sqlite:///{home / 'mlflow.db'}"
    return {
        constants.BACKEND_STORE_URI_ENV_VAR: store,
        constants.REGISTRY_STORE_URI_ENV_VAR: store,
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(home / "artifacts"),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }


if __name__ == "__main__":
    main()
