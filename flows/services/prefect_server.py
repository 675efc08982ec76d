"""The Prefect server in one process: ``python -m flows.services.prefect_server --port N``.

It is what ``prefect server start`` runs, but for how a transaction begins. Prefect's tasks of one
poll of a worker (`mark_work_queues_ready`, `mark_deployments_ready`) each read, then write; begun
as readers, the one that writes second is refused by SQLite ("database is locked"), at once and
whatever the time-out, since its snapshot is old. Prefect 3.7.7 did that every 10 s. Here a
transaction takes the write lock at its start, and the second one waits.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from consilo.garbage import collect_seldom
from consilo.machine.environment import quieten
from flows.services.prefect_log import started


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Prefect server, SQLite, one process")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    quieten()
    collect_seldom()
    print(started(), flush=True)

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.server.database.dependencies import set_database_config
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    set_database_config(write_locked(PREFECT_API_DATABASE_CONNECTION_URL.value()))
    uvicorn.run(create_app(final=True), host=options.host, port=options.port, log_level="warning")


def write_locked(connection_url: str) -> Any:
    """Return Prefect's configuration for SQLite whose transactions begin as writers.

    Lift it with a Prefect whose `mark_deployments_ready` begins so itself (from 3.8.6 on).
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    class WriteLocked(AioSqliteConfiguration):
        @asynccontextmanager
        async def begin_transaction(
            self, session: Any, with_for_update: bool = False
        ) -> AsyncGenerator[Any, None]:
            async with super().begin_transaction(session, with_for_update=True) as transaction:
                yield transaction

    return WriteLocked(connection_url=connection_url)


if __name__ == "__main__":
    main()
