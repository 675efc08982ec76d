"""A Flower run of ours: submitted, and its task claimed, as Flower's ServerApp process would."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from consilo.errors import CoordinatorUnreachable, TransportError
from consilo.machine.locks import file_lock
from consilo.transports.flower.bundle import bundle_hash
from consilo.transports.flower.calls import connect
from consilo.transports.flower.carrier import Carrier
from consilo.transports.flower.doorbell import Waiter
from consilo.transports.flower.version import require_flower

require_flower()

from flwr.common.constant import SubStatus  # noqa: E402
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest  # noqa: E402
from flwr.proto.fab_pb2 import Fab  # noqa: E402
from flwr.proto.runtime_pb2 import (  # noqa: E402
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.constant import TASK_TOKEN_HEADER  # noqa: E402
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor  # noqa: E402
from flwr.supercore.runtime import RuntimeHttpClient  # noqa: E402

RETRY_S = 600.0
"""How long a run waits for a SuperLink that is away."""
_OPEN_S = 30.0


@dataclass
class Claimed:
    """A Flower run that is ours, with the connections that its token opens.

    Args:
        run_id: Flower's.
        client: of the runtime API.
        carrier: of large bodies.
    """

    run_id: int
    client: Any
    carrier: Carrier

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()
        self.carrier.close()


class Claims:
    """Claims Flower runs at one SuperLink, one after the other.

    Args:
        address: the SuperLink, ``host:port``.
        ca_certificate: trusts its certificate.
        bundle: what the silos are asked to execute.
        home: the coordinator's folder, shared by all flows of one SuperLink.
        control: a client of the control API.
        waiter: rings at the door for whoever holds the run.
        ask: calls a method with a request, and waits for a SuperLink that is away.
        check: raises where the run shall stop.
    """

    def __init__(
        self,
        address: str,
        ca_certificate: Path,
        bundle: bytes,
        home: Path,
        *,
        control: Any,
        waiter: Waiter,
        ask: Callable[[Any, Any], Any],
        check: Callable[[], None],
    ) -> None:
        self._address = address
        self._ca_certificate = ca_certificate
        self._bundle = bundle
        self._home = home
        self._control = control
        self._waiter = waiter
        self._call = ask
        self._check = check

    def claim(self) -> Claimed:
        """Submit a run and claim its task; one at a time, since a claim takes the oldest task."""
        self._home.mkdir(parents=True, exist_ok=True)
        with self._alone(self._home / "claim.lock"):
            fab = Fab(hash_str=bundle_hash(self._bundle), content=self._bundle)
            run_id = int(self._call(self._control.StartRun, StartRunRequest(fab=fab)).run_id)
            if run_id == 0:
                raise TransportError(f"the SuperLink at {self._address} did not accept the run")
            token = self._acquire(run_id)
        self._waiter.who = str(run_id)
        client = self._runtime(token)
        carrier = Carrier(
            self._address,
            self._ca_certificate,
            "runtime",
            identify=lambda: {TASK_TOKEN_HEADER: token},
            give_up=self._check,
            retry_s=RETRY_S,
        )
        self._call(client.PullTaskInput, PullTaskInputRequest())
        return Claimed(run_id, client, carrier)

    def was_stopped(self, run_id: int) -> bool:
        """Return whether somebody stopped a run; one that the SuperLink gave up has failed."""
        try:
            answer = self._call(self._control.ListRuns, ListRunsRequest(run_id=run_id))
        except CoordinatorUnreachable:
            raise
        except TransportError:  # it knows no such run
            return False
        run = answer.run_dict.get(run_id)
        return run is not None and str(run.status.sub_status) == SubStatus.STOPPED

    def _alone(self, path: Path) -> contextlib.AbstractContextManager[object]:
        def check() -> bool:
            self._check()
            return False

        try:
            return file_lock(path, timeout_s=_OPEN_S).acquire(cancel_check=check)
        except Timeout:
            raise TransportError("another flow holds the claim lock; try again") from None

    def _acquire(self, run_id: int) -> str:
        """Return our task's token; tasks of flows that died before they claimed are closed."""
        with contextlib.closing(self._runtime(None)) as client:
            request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
            deadline = time.monotonic() + _OPEN_S
            while time.monotonic() < deadline:
                answer = self._call(client.AcquireTask, request)
                if not answer.token:
                    time.sleep(0.02)
                elif answer.task.run_id == run_id:
                    return str(answer.token)
                else:
                    self._fail_stale(answer.token)
        raise TransportError(f"the SuperLink at {self._address} did not hand out run {run_id}")

    def _fail_stale(self, token: str) -> None:
        with (
            contextlib.closing(self._runtime(token)) as client,
            contextlib.suppress(TransportError),
        ):
            request = PushTaskOutputRequest(
                sub_status=SubStatus.FAILED, details="its flow ended before it began"
            )
            self._call(client.PushTaskOutput, request)

    def _runtime(self, token: str | None) -> Any:
        extra = (RuntimeTokenHttpInterceptor(token), self._waiter) if token else ()
        component = "flwr-serverapp" if token else "SuperExec"
        return connect(
            RuntimeHttpClient,
            self._address,
            self._ca_certificate,
            component=component,
            interceptors=extra,
        )
