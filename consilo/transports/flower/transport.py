"""The coordinator's end: a flow opens a Flower run and holds it until it is finished.

The caller stands where Flower's ServerApp process would: it submits the run, claims its task and
keeps the task's heartbeat; messages go through the SuperLink's runtime API.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from filelock import Timeout

from consilo.errors import (
    CoordinatorUnreachable,
    ReplyInvalid,
    RunCancelled,
    TransportError,
)
from consilo.machine.locks import file_lock
from consilo.transports.flower.calls import NotAuthorised, call, cancelled_check, connect
from consilo.transports.flower.carrier import Carrier, Stored
from consilo.transports.flower.doorbell import Waiter
from consilo.transports.flower.mail import delivery, taking
from consilo.transports.flower.packing import (
    INLINE_BYTES,
    objects_of,
    pack_parcel,
    pull_record,
    record_in,
    unpack,
)
from consilo.transports.flower.version import require_flower
from consilo.wire.buffers import Body
from consilo.wire.parcel import Arrival, Fault, Parcel

require_flower()

from flwr.app import Metadata  # noqa: E402
from flwr.app.message import make_message, remove_content_from_message  # noqa: E402
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SubStatus  # noqa: E402
from flwr.common.serde import message_from_proto, message_to_proto  # noqa: E402
from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest  # noqa: E402
from flwr.proto.fab_pb2 import Fab  # noqa: E402
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest  # noqa: E402
from flwr.proto.node_pb2 import Node  # noqa: E402
from flwr.proto.runtime_pb2 import (  # noqa: E402
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TASK_TOKEN_HEADER  # noqa: E402
from flwr.supercore.control import ControlHttpClient  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # noqa: E402
    make_pull_object_fn_protobuf,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor  # noqa: E402
from flwr.supercore.runtime import RuntimeHttpClient  # noqa: E402

from consilo.transports.flower.bundle import bundle_hash  # noqa: E402

_HEARTBEAT_S = 10.0
_OPEN_S = 30.0
_HOLD_S = 0.8  # a cancelled run is noticed within this
_LOOK_S = 2.0  # every so often look past the door: Flower marks lost nodes only when asked
_RETRY_S = 90.0  # a SuperLink that restarts with its database takes the run up again
_DELIVERED_AT_ONCE = 4  # messages per call: the first silo does not wait for the last
_TTL_MARGIN_S = 60.0
_REPLY_GRACE_S = 60.0  # a reply that was announced before the deadline may take this long to fetch


class _Replies:
    """What came back in one exchange: heads and small contents, until their turn comes.

    Args:
        sent: silo → message.
    """

    def __init__(self, sent: Mapping[str, str]) -> None:
        self.out = set(sent.values())
        self.arrived: dict[str, tuple[Any, Any, bytes, float]] = {}

    def note(self, head: Any, tree: Any, record: bytes, at: float) -> None:
        """Keep what came of a reply under the message that it answers."""
        message_id = str(head.metadata.reply_to_message_id)
        if message_id in self.out:
            self.out.discard(message_id)
            self.arrived[message_id] = (head, tree, record, at)


class FlowerTransport:
    """Moves parcels through a SuperLink; satisfies `consilo.wire.parcel.Transport`.

    Make one with `open`. Exchanges may run in several threads at once. Leaving the ``with`` block
    by an exception finishes the run as failed.
    """

    takes_pieces = True

    def __init__(
        self, address: str, ca_certificate: Path, bundle: bytes, cancelled: threading.Event | None
    ) -> None:
        self._address = address
        self._ca_certificate = ca_certificate
        self.bundle_hash = bundle_hash(bundle)
        self._cancelled = cancelled or threading.Event()
        self._closed = threading.Event()
        self._ended = threading.Event()
        self._finished = False
        self._waiter = Waiter()
        self._node = Node(node_id=SUPERLINK_NODE_ID)
        self._control = connect(ControlHttpClient, address, ca_certificate, component="flwr CLI")
        self._client: Any = None
        self._carrier: Any = None
        self._heartbeat: threading.Thread | None = None
        self.run_id = 0
        self._names: dict[str, int] = {}

    @classmethod
    def open(
        cls,
        address: str,
        ca_certificate: Path,
        bundle: bytes,
        *,
        home: Path,
        cancelled: threading.Event | None = None,
    ) -> Self:
        """Submit a run and claim it.

        Args:
            address: the SuperLink, ``host:port``.
            ca_certificate: trusts its certificate.
            bundle: what the silos are asked to execute; see `consilo.transports.flower.bundle`.
            home: the coordinator's folder, shared by all flows of one SuperLink.
            cancelled: once set, whatever waits raises `RunCancelled` within a second.

        Raises:
            CoordinatorUnreachable: where nobody answers at ``address``.
        """
        transport = cls(address, ca_certificate, bundle, cancelled)
        try:
            transport._claim(bundle, home)
        except BaseException:
            transport.close()
            raise
        return transport

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(TransportError):
            self.finish(ok=kind is None, detail="" if kind is None else kind.__name__)
        self.close()

    # Opening: submit, claim, keep alive.

    def _claim(self, bundle: bytes, home: Path) -> None:
        """Submit the run and claim its task; one at a time, since a claim takes the oldest task."""
        home.mkdir(parents=True, exist_ok=True)
        with self._alone(home / "claim.lock"):
            fab = Fab(hash_str=self.bundle_hash, content=bundle)
            self.run_id = int(self._call(self._control.StartRun, StartRunRequest(fab=fab)).run_id)
            if self.run_id == 0:
                raise TransportError(f"the SuperLink at {self._address} did not accept the run")
            self._waiter.who = str(self.run_id)
            token = self._acquire()
        self._client = self._runtime(token)
        self._carrier = Carrier(
            self._address,
            self._ca_certificate,
            "runtime",
            identify=lambda: {TASK_TOKEN_HEADER: token},
            give_up=self._check,
        )
        self._call(self._client.PullTaskInput, PullTaskInputRequest())
        self._heartbeat = threading.Thread(
            target=self._keep_alive, name=f"heartbeat-{self.run_id}", daemon=True
        )
        self._heartbeat.start()

    def _alone(self, path: Path) -> contextlib.AbstractContextManager[object]:
        def check() -> bool:
            self._check()
            return False

        try:
            return file_lock(path, timeout_s=_OPEN_S).acquire(cancel_check=check)
        except Timeout:
            raise TransportError("another flow holds the claim lock; try again") from None

    def _acquire(self) -> str:
        """Return our task's token; tasks of flows that died before they claimed are closed."""
        with contextlib.closing(self._runtime(None)) as client:
            request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
            deadline = time.monotonic() + _OPEN_S
            while time.monotonic() < deadline:
                answer = self._call(client.AcquireTask, request)
                if not answer.token:
                    time.sleep(0.02)
                elif answer.task.run_id == self.run_id:
                    return str(answer.token)
                else:
                    self._fail_stale(answer.token)
        raise TransportError(f"the SuperLink at {self._address} did not hand out run {self.run_id}")

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

    def _keep_alive(self) -> None:
        while not self._closed.wait(_HEARTBEAT_S):
            try:
                answer = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
                if not answer.success:
                    self._ended.set()
            except Exception:  # the next exchange says what is wrong
                continue

    # The transport.

    def online(self) -> tuple[str, ...]:
        """Return the names of the silos that can be asked now, sorted.

        The names are those the coordinator registered the silos' public keys under.
        """
        return tuple(sorted(self._online()))

    def _online(self) -> dict[str, int]:
        answer = self._call(self._client.GetNodes, GetNodesRequest())
        # A silo that changes its key has two nodes for a while: the newer one is asked.
        nodes = sorted(answer.nodes, key=lambda node: str(node.registered_at))
        names = {str(node.name): int(node.node_id) for node in nodes if node.name}
        self._names.update(names)
        return names

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Send every parcel now, then yield one arrival per silo in the order of ``parcels``.

        Raises:
            RunCancelled: where the run was cancelled or stopped.
            CoordinatorUnreachable: where the SuperLink has gone and does not come back.
        """
        started = time.monotonic()
        bodies: dict[int, bytes | Stored] = {}
        sent = self._send(parcels, bodies, deadline_s)
        lying = [each for each in bodies.values() if isinstance(each, Stored)]
        return self._arrivals(list(parcels), sent, lying, started, started + deadline_s)

    def _send(
        self,
        parcels: Mapping[str, Parcel],
        bodies: dict[int, bytes | Stored],
        deadline_s: float,
    ) -> dict[str, str]:
        if any(silo not in self._names for silo in parcels):
            self._online()
        sent: dict[str, str] = {}
        known = [silo for silo in parcels if silo in self._names]
        for start in range(0, len(known), _DELIVERED_AT_ONCE):
            some = known[start : start + _DELIVERED_AT_ONCE]
            objects: dict[str, bytes] = {}
            request = PushAppMessagesRequest()
            with no_object_id_recompute():
                for silo in some:
                    parcel, node_id = parcels[silo], self._names[silo]
                    body = bodies.get(id(parcel.body))
                    if body is None:
                        body = bodies[id(parcel.body)] = self._put(parcel.body)
                    content = pack_parcel(parcel.header, body, to=str(node_id))
                    message = make_message(self._metadata(node_id, deadline_s), content)
                    message.metadata.__dict__["_message_id"] = message.object_id
                    objects |= objects_of(message)
                    bare = message_to_proto(remove_content_from_message(message))
                    request.messages_list.append(bare)
                    request.message_object_trees.append(get_object_tree(message))
            answer = self._call(delivery(self._client, "runtime", objects, self._node), request)
            for silo, identifier in zip(some, answer.message_ids, strict=True):
                if identifier:
                    sent[silo] = identifier
                else:
                    self._names.pop(silo, None)  # struck off, or admitted again as another node
        return sent

    def _put(self, body: Body) -> bytes | Stored:
        """Return a small body, or where a large one lies from now on."""
        if len(body) <= INLINE_BYTES:
            return bytes(body)
        try:
            stored: Stored = self._carrier.put(self.run_id, body)
        except NotAuthorised as cause:
            self._check()
            raise RunCancelled(f"Flower run {self.run_id} has ended: {cause}") from None
        return stored

    def _metadata(self, node_id: int, deadline_s: float) -> Any:
        return Metadata(
            run_id=self.run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node_id,
            reply_to_message_id="",
            group_id="",
            created_at=time.time(),
            ttl=deadline_s + _TTL_MARGIN_S,
            message_type="query",
        )

    def _arrivals(
        self,
        silos: list[str],
        sent: Mapping[str, str],
        lying: list[Stored],
        started: float,
        deadline: float,
    ) -> Iterator[Arrival]:
        replies = _Replies(sent)
        try:
            for silo in silos:
                if silo in sent:
                    self._await(sent[silo], replies, deadline)
                    result, at = self._fetch(sent[silo], replies)
                else:
                    result, at = Fault("unreachable", "the silo is not connected"), time.monotonic()
                parcel, fault = (None, result) if isinstance(result, Fault) else (result, None)
                del result
                yield Arrival(silo, parcel, fault, at - started)
                del parcel
        finally:
            for stored in lying:
                self._carrier.drop(self.run_id, stored)

    def _await(self, message_id: str, replies: _Replies, deadline: float) -> None:
        """Wait until the reply to a message is there, or the deadline; note all that come."""
        looked = time.monotonic()
        while message_id not in replies.arrived:
            now = time.monotonic()
            left_s = deadline - now
            if left_s <= 0 or now - looked > _LOOK_S:
                self._waiter.look()
                looked = now
            else:
                self._waiter.expect(min(_HOLD_S, left_s))
            request = PullAppMessagesRequest(message_ids=sorted(replies.out))
            found = self._call(taking(self._client, "runtime"), request)
            at = time.monotonic()
            for proto, tree, record in found:
                replies.note(message_from_proto(proto), tree, record, at)
            if left_s <= 0:
                return

    def _fetch(self, message_id: str, replies: _Replies) -> tuple[Parcel | Fault, float]:
        """Return the reply's content and when it was there."""
        if message_id not in replies.arrived:
            return Fault("deadline", "no answer before the deadline"), time.monotonic()
        head, tree, record, at = replies.arrived.pop(message_id)
        if head.has_error():
            return _fault_of(head.error.code), at
        give_up_at = time.monotonic() + _REPLY_GRACE_S

        def give_up() -> None:
            self._check()
            if time.monotonic() > give_up_at:
                raise ReplyInvalid("the reply was announced but did not arrive")

        pull = make_pull_object_fn_protobuf(
            lambda item: self._call(self._client.PullObject, item), self._node, self.run_id
        )

        def fetch(stored: Stored) -> Body:
            body: Body = self._carrier.get(self.run_id, stored)
            self._carrier.drop(self.run_id, stored)
            return body

        try:
            if record:
                result = unpack(record_in(record), fetch)
            else:
                result = unpack(pull_record(tree, pull, give_up=give_up), fetch)
                request = ConfirmMessageReceivedRequest(
                    node=self._node, run_id=self.run_id, message_object_id=tree.object_id
                )
                self._call(self._client.ConfirmMessageReceived, request)
        except ReplyInvalid as cause:
            result = Fault("invalid_reply", str(cause))
        except (CoordinatorUnreachable, RunCancelled):
            raise
        except NotAuthorised as cause:
            raise RunCancelled(f"Flower run {self.run_id} has ended: {cause}") from None
        except Exception as cause:  # a silo can send anything; an odd reply drops that silo only
            result = Fault("invalid_reply", f"the reply cannot be read ({type(cause).__name__})")
        return result, time.monotonic()

    # Ending.

    def finish(self, *, ok: bool, detail: str = "") -> None:
        """Say how the run ended; the first call counts."""
        if self._finished or self._client is None:
            return
        self._finished = True
        status = SubStatus.COMPLETED if ok else SubStatus.FAILED
        request = PushTaskOutputRequest(sub_status=status, details=detail)
        with contextlib.suppress(NotAuthorised):  # stopped from outside: it has ended already
            call(self._client.PushTaskOutput, request, address=self._address, retry_s=2.0)

    def stop(self) -> None:
        """Stop the Flower run; whatever waits raises `RunCancelled`."""
        self._finished = True
        self._ended.set()
        with contextlib.suppress(TransportError):
            request = StopRunRequest(run_id=self.run_id)
            call(self._control.StopRun, request, address=self._address)

    def close(self) -> None:
        """Let go of the connections; a run that is not finished counts as failed."""
        if self._closed.is_set():
            return
        with contextlib.suppress(TransportError):
            self.finish(ok=False, detail="closed before it was finished")
        self._closed.set()
        if self._heartbeat is not None:
            self._heartbeat.join(timeout=6.0)
        for client in (self._client, self._carrier, self._control):
            if client is not None:
                client.close()

    def _check(self) -> None:
        cancelled_check(self._cancelled.is_set)()
        if self._ended.is_set():
            raise RunCancelled(f"Flower run {self.run_id} was stopped")

    def _call(self, method: Any, request: Any) -> Any:
        retry_s = _RETRY_S if self._client is not None else 0.0
        try:
            return call(
                method, request, address=self._address, retry_s=retry_s, give_up=self._check
            )
        except NotAuthorised as cause:
            self._check()
            raise RunCancelled(f"Flower run {self.run_id} has ended: {cause}") from None


def _fault_of(code: int) -> Fault:
    if code == ErrorCode.NODE_UNAVAILABLE:
        return Fault("unreachable", "the silo's node has gone")
    if code == ErrorCode.MESSAGE_UNAVAILABLE:
        return Fault("deadline", "the message expired before the silo took it")
    if code == ErrorCode.CLIENT_APP_CRASHED:
        return Fault("crashed", "the silo's process ended without an answer")
    return Fault("failed", f"the silo's node answered with Flower error {code}")
