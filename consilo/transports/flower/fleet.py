"""The silo's end: a node's connection to the SuperLink.

Flower's own SuperNode serves a local HTTP API without a login to processes that it starts per
message, and sleeps 3 s and 0.5 s between looks. A Consilo node needs none of that: it speaks the
fleet API itself, through Flower's client, authentication and message classes, and answers in the
same process. So nothing in a silo listens on a port.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from consilo.errors import CoordinatorUnreachable, Refused, RunCancelled, TransportError
from consilo.membership.calls import certificate_headers
from consilo.transports.flower.calls import (
    NotAuthorised,
    Showing,
    call,
    connect,
    trusting,
)
from consilo.transports.flower.carrier import Carrier, Stored
from consilo.transports.flower.doorbell import MAX_WAIT_S, Waiter
from consilo.transports.flower.mail import delivery, taking
from consilo.transports.flower.packing import (
    INLINE_BYTES,
    objects_of,
    pack_fault,
    pack_parcel,
    pull_record,
    record_in,
    unpack,
)
from consilo.transports.flower.version import require_flower
from consilo.wire.buffers import Spool
from consilo.wire.parcel import Fault, Parcel

require_flower()

from flwr.app.message import Message, remove_content_from_message  # noqa: E402
from flwr.common.serde import message_from_proto, message_to_proto  # noqa: E402
from flwr.proto.fab_pb2 import GetFabRequest  # noqa: E402
from flwr.proto.fleet_pb2 import (  # noqa: E402
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest  # noqa: E402
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest  # noqa: E402
from flwr.proto.node_pb2 import Node  # noqa: E402
from flwr.proto.run_pb2 import GetRunRequest  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # noqa: E402
    make_pull_object_fn_protobuf,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: E402
from flwr.supercore.protobuf.client import ProtobufRequestContext  # noqa: E402
from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: E402
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor  # noqa: E402

log = logging.getLogger("consilo.node")

# The shortest interval a SuperLink accepts; a lost node counts as offline after twice as long.
_HEARTBEAT_INTERVAL_S = 10.0
_HEARTBEAT_EVERY_S = 8.0  # one may get lost
_BACK_WITHIN_S = 1.0  # after a line that broke: meanwhile the SuperLink may take us for gone
_RETRY_S = 120.0
_HOLD_S = 24.0
_OBJECTS_S = 300.0


@dataclass(frozen=True)
class Request:
    """A message that arrived for this silo; a large body is still at the SuperLink.

    Args:
        run_id: Flower's number of the run.
        bundle_hash: the code that the run asks us to execute, as the SuperLink states it.
    """

    run_id: int
    bundle_hash: str
    _message: Any
    _tree: Any
    _record: bytes


class FleetLink:
    """A node's authenticated connection to its SuperLink."""

    def __init__(
        self,
        address: str,
        ca_certificate: Path,
        key: ec.EllipticCurvePrivateKey,
        certificate: Path,
    ) -> None:
        self._address = address
        self._shown = Showing(certificate_headers(certificate))
        self._trust = trusting(ca_certificate)
        self._public = public_key_to_bytes(key.public_key())
        self._waiter = Waiter()
        signer = NodeAuthHttpInterceptor(key, key.public_key())
        self._client = connect(
            FleetHttpClient,
            address,
            ca_certificate,
            component="SuperNode",
            interceptors=(signer, self._shown, self._waiter),
            trust=self._trust,
        )
        self._carrier = Carrier(
            address,
            ca_certificate,
            "fleet",
            identify=lambda: {**_headers_of(signer), **self._shown.headers},
        )
        self._node: Any = None
        self._hashes: dict[int, str] = {}
        self._closed = threading.Event()
        self._refused = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_alive, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, certificate: Path) -> None:
        """Show a renewed certificate of the same key from now on."""
        self._shown.headers = certificate_headers(certificate)

    def trust(self, ca_certificate: Path) -> None:
        """Trust the authorities in a file too, for every connection from now on."""
        authorities = ca_certificate.read_text(encoding="ascii")
        self._trust.load_verify_locations(cadata=authorities)
        self._carrier.trust(authorities)

    def activate(self) -> int:
        """Say that this silo is online; return its node id.

        Raises:
            CoordinatorUnreachable: where nobody answers.
            TransportError: where the SuperLink does not know our key, or believes that this node
                is still online: another process has it, or its machine was lost less than 20 s
                ago. Try again.
        """
        request = ActivateNodeRequest(
            public_key=self._public, heartbeat_interval=_HEARTBEAT_INTERVAL_S
        )
        answer = call(self._client.ActivateNode, request, address=self._address)
        self._node = Node(node_id=answer.node_id)
        self._waiter.who = str(answer.node_id)
        self._heartbeat.start()
        return int(answer.node_id)

    def receive(self) -> Request | None:
        """Wait for a message; return None where none came within some seconds.

        Raises:
            NotAuthorised: where the coordinator has struck this silo off.
        """
        if self._refused.is_set():
            raise NotAuthorised(f"the coordinator at {self._address} has struck this silo off")
        if self._waiter.drained:
            self._waiter.expect(min(_HOLD_S, MAX_WAIT_S))
        else:
            self._waiter.look()
        found = self._call(taking(self._client, "fleet"), PullMessagesRequest(node=self._node))
        if not found:
            self._waiter.found_nothing()
            return None
        self._waiter.took()
        head, tree, record = found[0]
        message = message_from_proto(head)
        run_id = int(message.metadata.run_id)
        try:
            return Request(run_id, self._hash_of(run_id), message, tree, record)
        except (NotAuthorised, RunCancelled):
            return None  # the run has ended meanwhile

    def _hash_of(self, run_id: int) -> str:
        if run_id not in self._hashes:
            request = GetRunRequest(node=self._node, run_id=run_id)
            run = self._call(self._client.GetRun, request).run
            while len(self._hashes) >= 64:
                self._hashes.pop(next(iter(self._hashes)))
            self._hashes[run_id] = str(run.fab_hash)
        return self._hashes[run_id]

    def bundle(self, request: Request) -> bytes:
        """Fetch the code of a run; only bytes whose hash is what the request stated come back.

        Raises:
            Refused: where they are not.
        """
        message = GetFabRequest(
            node=self._node, run_id=request.run_id, hash_str=request.bundle_hash
        )
        content = bytes(self._call(self._client.GetFab, message).fab.content)
        if hashlib.sha256(content).hexdigest() != request.bundle_hash:
            raise Refused("the bundle that arrived has another hash than announced", code="bundle")
        return content

    def fetch(self, request: Request) -> Parcel | Fault:
        """Return a message's content; a large body comes in a `Spool`."""

        def body(stored: Stored) -> Spool:
            spool = Spool.make()
            self._carrier.get(request.run_id, stored, spool)
            return spool

        if request._record:
            return unpack(record_in(request._record), body)
        deadline = time.monotonic() + _OBJECTS_S

        def give_up() -> None:
            if time.monotonic() > deadline:
                raise TransportError("a message was announced but did not arrive")

        pull = make_pull_object_fn_protobuf(
            lambda item: self._call(self._client.PullObject, item), self._node, request.run_id
        )
        result = unpack(pull_record(request._tree, pull, give_up=give_up), body)
        self._call(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=request.run_id, message_object_id=request._tree.object_id
            ),
        )
        return result

    def answer(self, request: Request, result: Parcel | Fault, *, seconds: float) -> None:
        """Send the answer to a message.

        Args:
            request: what is answered.
            result: the silo's parcel, or why there is none.
            seconds: what it took.
        """
        to = str(request._message.metadata.message_id)
        if isinstance(result, Fault):
            content = pack_fault(result, to=to)
        else:
            small = len(result.body) <= INLINE_BYTES
            body = bytes(result.body) if small else self._carrier.put(request.run_id, result.body)
            content = pack_parcel(result.header, body, to=to)
        with no_object_id_recompute():
            message = Message(content, reply_to=request._message)
            message.metadata.__dict__["_message_id"] = message.object_id
            self._call(
                delivery(self._client, "fleet", objects_of(message), self._node),
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(remove_content_from_message(message))],
                    message_object_trees=[get_object_tree(message)],
                    clientapp_runtime_list=[seconds],
                ),
            )

    def close(self) -> None:
        """Say goodbye, so that the coordinator knows at once, and let go of the connection."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._node is not None:
            goodbye = threading.Thread(target=self._say_goodbye, daemon=True)
            goodbye.start()
            goodbye.join(timeout=2.0)  # a coordinator that hangs does not keep us
        self._client.close()
        self._carrier.close()

    def _say_goodbye(self) -> None:
        request = DeactivateNodeRequest(node_id=self._node.node_id)
        with contextlib.suppress(Exception):
            call(self._client.DeactivateNode, request, address=self._address)

    def _keep_alive(self) -> None:
        request = SendNodeHeartbeatRequest(
            node=self._node, heartbeat_interval=_HEARTBEAT_INTERVAL_S
        )
        wait_s = _HEARTBEAT_EVERY_S
        while not self._closed.wait(wait_s):
            wait_s = _HEARTBEAT_EVERY_S
            try:
                call(self._client.SendNodeHeartbeat, request, address=self._address)
            except NotAuthorised:
                if not self._closed.is_set():
                    self._refused.set()
            except CoordinatorUnreachable:
                wait_s = _BACK_WITHIN_S
            except Exception as cause:
                if not self._closed.is_set():
                    log.warning("heartbeat failed: %s", type(cause).__name__)

    def _call(self, method: Callable[[Any], Any], request: Any) -> Any:
        return call(method, request, address=self._address, retry_s=_RETRY_S)


def _headers_of(signer: Any) -> dict[str, str]:
    """Return the headers with which Flower's interceptor signs a call."""
    request = httpx.Request("GET", "https://superlink")
    signer.intercept(ProtobufRequestContext("", None, request), lambda _: None)
    return {name: value for name, value in request.headers.items() if name != "host"}
