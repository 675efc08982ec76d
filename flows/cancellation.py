"""Stop a run when somebody cancels its flow run in Prefect.

A flow run that a worker started is told by SIGTERM. One that runs in its own process, such as the
demo's, is not told at all: it has to look.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

from consilo.errors import RunCancelled
from consilo.wire.parcel import Arrival, Parcel, Transport

POLL_S = 2.0
_REASON = "somebody cancelled the flow run"


@contextmanager
def watching(
    flow_run_id: UUID, cancelled: threading.Event, *, poll_s: float = POLL_S
) -> Iterator[None]:
    """Set ``cancelled`` as soon as the flow run's state says so, while the block runs."""
    over = threading.Event()

    def look() -> None:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            while not over.wait(poll_s) and not cancelled.is_set():
                try:
                    state = client.read_flow_run(flow_run_id).state
                except Exception:  # the server may be away for a while; the run goes on
                    continue
                if state is not None and (state.is_cancelled() or state.is_cancelling()):
                    cancelled.set()

    # Prefect keeps its settings in context variables, which a new thread does not inherit.
    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(look,), name="cancellation", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=poll_s + 5.0)


class Cancellable:
    """A transport that stops between two arrivals once ``cancelled`` is set.

    Args:
        inner: moves the parcels.
        cancelled: somebody asked the run to stop.
    """

    def __init__(self, inner: Transport, cancelled: threading.Event) -> None:
        self._inner = inner
        self._cancelled = cancelled

    def online(self) -> tuple[str, ...]:
        """Return the names of the silos that can be asked now.

        Raises:
            RunCancelled: once somebody cancelled.
        """
        self._stop_if_cancelled()
        return self._inner.online()

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Yield what the inner transport yields.

        Raises:
            RunCancelled: once somebody cancelled.
        """
        self._stop_if_cancelled()
        for arrival in self._inner.exchange(parcels, deadline_s=deadline_s):
            self._stop_if_cancelled()
            yield arrival

    def close(self) -> None:
        """Let go of whatever the inner transport holds."""
        self._inner.close()

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise RunCancelled(_REASON)
