"""The coordinator's end: a flow opens a Flower run and holds it until it is finished.

The caller stands where Flower's ServerApp process would: it submits the run, claims its task and
keeps the task's heartbeat; messages go through the SuperLink's runtime API.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NoReturn, Self

from consilo.errors import (
    CoordinatorUnreachable,
    MessagesLost,
    ReplyInvalid,
    RunCancelled,
    TransportError,
)
from consilo.transports.flower.calls import NotAuthorised, call, cancelled_check, connect
from consilo.transports.flower.carrier import Stored
from consilo.transports.flower.claim import RETRY_S, Claimed, Claims
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
from flwr.proto.control_pb2 import StopRunRequest  # noqa: E402
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest  # noqa: E402
from flwr.proto.node_pb2 import Node  # noqa: E402
from flwr.proto.runtime_pb2 import (  # noqa: E402
    GetNodesRequest,
    PullAppMessagesRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.control import ControlHttpClient  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # noqa: E402
    make_pull_object_fn_protobuf,
)

from consilo.transports.flower.bundle import bundle_hash  # noqa: E402

_HEARTBEAT_S = 10.0
_HOLD_S = 0.8  # a cancelled run is noticed within this
_LOOK_S = 2.0  # every so often look past the door: Flower marks lost nodes only when asked
_SLOW_S = 5.0  # a call that takes so much longer than it may be held found no SuperLink at first
_COME_BACK_S = 30.0  # after the SuperLink, the silos: their nodes try again within 10 s
_SILOS_BACK_S = 60.0  # for so long after an absence a silo that is gone is gone because of it
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

    A SuperLink that is away is waited for, ten minutes, and no deadline runs meanwhile. One that
    comes back and knows nothing of our Flower run, or has given it up, gets another one: what was
    under way is lost then (`MessagesLost`), and its Flower run has another id.
    """

    takes_pieces = True

    def __init__(
        self,
        address: str,
        ca_certificate: Path,
        bundle: bytes,
        home: Path,
        cancelled: threading.Event | None,
        wait_s: float = 0.0,
    ) -> None:
        self._address = address
        self._wait_s = wait_s
        self._ca_certificate = ca_certificate
        self.bundle_hash = bundle_hash(bundle)
        self._cancelled = cancelled or threading.Event()
        self._closed = threading.Event()
        self._ended = threading.Event()
        self._finished = False
        self._waiter = Waiter()
        self._node = Node(node_id=SUPERLINK_NODE_ID)
        self._control = connect(ControlHttpClient, address, ca_certificate, component="flwr CLI")
        self._claimed: Claimed | None = None
        self._opening = threading.Lock()
        self._claims = Claims(
            address,
            ca_certificate,
            bundle,
            home,
            control=self._control,
            waiter=self._waiter,
            ask=self._call,
            check=self._check,
        )
        self._heartbeat: threading.Thread | None = None
        self._names: dict[str, int] = {}
        self._there: frozenset[str] = frozenset()
        self._back_at = -math.inf

    @classmethod
    def open(
        cls,
        address: str,
        ca_certificate: Path,
        bundle: bytes,
        *,
        home: Path,
        cancelled: threading.Event | None = None,
        wait_s: float = 0.0,
    ) -> Self:
        """Submit a run and claim it.

        Args:
            address: the SuperLink, ``host:port``.
            ca_certificate: trusts its certificate.
            bundle: what the silos are asked to execute; see `consilo.transports.flower.bundle`.
            home: the coordinator's folder, shared by all flows of one SuperLink.
            cancelled: once set, whatever waits raises `RunCancelled` within a second.
            wait_s: for how long a SuperLink that is away is waited for before there is a run.

        Raises:
            CoordinatorUnreachable: where nobody answers at ``address``.
        """
        transport = cls(address, ca_certificate, bundle, home, cancelled, wait_s)
        try:
            transport._claimed = transport._claims.claim()
            transport._keep_alive_from_now()
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

    @property
    def run_id(self) -> int:
        """Flower's number of the run; another one after the SuperLink has lost it."""
        return 0 if self._claimed is None else self._claimed.run_id

    @property
    def _ours(self) -> Claimed:
        if self._claimed is None:
            raise TransportError("the transport is not open")
        return self._claimed

    def _keep_alive_from_now(self) -> None:
        self._heartbeat = threading.Thread(
            target=self._keep_alive, name=f"heartbeat-{self.run_id}", daemon=True
        )
        self._heartbeat.start()

    def _open_again(self, lost: Claimed, cause: Exception) -> NoReturn:
        """Claim another run in place of one that the SuperLink has lost or given up.

        Raises:
            RunCancelled: where somebody has stopped it.
            MessagesLost: where another one is open now, and the silos had time to come back.
        """
        with self._opening:  # several threads may find out at once
            if self._claimed is lost:
                self._check()
                if self._claims.was_stopped(lost.run_id):
                    self._ended.set()
                    raise RunCancelled(f"Flower run {lost.run_id} was stopped: {cause}") from None
                known = set(self._names)
                self._names.clear()
                self._claimed = self._claims.claim()
                lost.close()
                self._await_silos(known)
        raise MessagesLost(
            f"the SuperLink at {self._address} has lost Flower run {lost.run_id}; its successor is "
            f"{self.run_id}"
        )

    def _await_silos(self, wanted: Set[str]) -> None:
        """Wait until silos that were there are there again, or had the time to be."""
        deadline = time.monotonic() + _COME_BACK_S
        while not wanted <= set(self._online()) and time.monotonic() < deadline:
            self._check()
            time.sleep(_HOLD_S / 2)

    def _awaited(self, silos: frozenset[str]) -> bool:
        """Return whether the SuperLink was away of late; if so, wait for these silos, once.

        Their nodes found nobody meanwhile, and are on their way back; an answer to what was asked
        before may never come.
        """
        if time.monotonic() - self._back_at > _SILOS_BACK_S:
            return False
        self._back_at = -math.inf
        self._await_silos(silos)
        return True

    def _keep_alive(self) -> None:
        while not self._closed.wait(_HEARTBEAT_S):
            with contextlib.suppress(Exception):  # the next exchange says what is wrong
                self._ours.client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    # The transport.

    def online(self) -> tuple[str, ...]:
        """Return the names of the silos that can be asked now, sorted.

        The names are those the coordinator registered the silos' public keys under.
        """
        known = self._there
        try:
            found = self._online()
        except MessagesLost:  # it is open again; nothing of this question was under way
            found = self._online()
        if known - set(found) and self._awaited(known):
            found = self._online()
        return tuple(sorted(found))

    def _online(self) -> dict[str, int]:
        ours = self._ours
        answer = self._asked(ours, ours.client.GetNodes, GetNodesRequest())
        # A silo that changes its key has two nodes for a while: the newer one is asked.
        nodes = sorted(answer.nodes, key=lambda node: str(node.registered_at))
        names = {str(node.name): int(node.node_id) for node in nodes if node.name}
        self._names.update(names)
        self._there = frozenset(names)
        return names

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Send every parcel now, then yield one arrival per silo in the order of ``parcels``.

        Raises:
            RunCancelled: where the run was cancelled or stopped.
            MessagesLost: where the SuperLink came back without the run, or without the silos, or an
                answer was lost on its way.
            CoordinatorUnreachable: where the SuperLink has gone and does not come back.
        """
        ours, started = self._ours, time.monotonic()
        bodies: dict[int, bytes | Stored] = {}
        sent = self._send(ours, parcels, bodies, deadline_s)
        lying = [each for each in bodies.values() if isinstance(each, Stored)]
        deadline = time.monotonic() + deadline_s
        return self._arrivals(ours, list(parcels), sent, lying, started, deadline)

    def _send(
        self,
        ours: Claimed,
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
                        body = bodies[id(parcel.body)] = self._put(ours, parcel.body)
                    content = pack_parcel(parcel.header, body, to=str(node_id))
                    about = self._metadata(ours.run_id, node_id, deadline_s)
                    message = make_message(about, content)
                    message.metadata.__dict__["_message_id"] = message.object_id
                    objects |= objects_of(message)
                    bare = message_to_proto(remove_content_from_message(message))
                    request.messages_list.append(bare)
                    request.message_object_trees.append(get_object_tree(message))
            answer = self._asked(
                ours, delivery(ours.client, "runtime", objects, self._node), request
            )
            for silo, identifier in zip(some, answer.message_ids, strict=True):
                if identifier:
                    sent[silo] = identifier
                else:
                    self._names.pop(silo, None)  # struck off, or admitted again as another node
        return sent

    def _put(self, ours: Claimed, body: Body) -> bytes | Stored:
        """Return a small body, or where a large one lies from now on."""
        if len(body) <= INLINE_BYTES:
            return bytes(body)
        try:
            return ours.carrier.put(ours.run_id, body)
        except NotAuthorised as cause:
            self._open_again(ours, cause)

    def _metadata(self, run_id: int, node_id: int, deadline_s: float) -> Any:
        return Metadata(
            run_id=run_id,
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
        ours: Claimed,
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
                    deadline = self._await(ours, sent[silo], replies, deadline)
                    result, at = self._fetch(ours, sent[silo], replies, deadline)
                else:
                    result, at = Fault("unreachable", "the silo is not connected"), time.monotonic()
                parcel, fault = (None, result) if isinstance(result, Fault) else (result, None)
                del result
                yield Arrival(silo, parcel, fault, at - started)
                del parcel
        finally:
            for stored in lying:
                ours.carrier.drop(ours.run_id, stored)

    def _await(self, ours: Claimed, message_id: str, replies: _Replies, deadline: float) -> float:
        """Wait until the reply to a message is there, or the deadline; note all that come.

        Returns:
            The deadline, later by the time that the SuperLink was away, and its silos with it.
        """
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
            found = self._asked(ours, taking(ours.client, "runtime"), request)
            at = time.monotonic()
            if at - now > _HOLD_S + _SLOW_S:
                deadline += at - now + _COME_BACK_S
                self._back_at = at
            for proto, tree, record in found:
                replies.note(message_from_proto(proto), tree, record, at)
            if left_s <= 0 and at >= deadline:
                break
        return deadline

    def _fetch(
        self, ours: Claimed, message_id: str, replies: _Replies, deadline: float
    ) -> tuple[Parcel | Fault, float]:
        """Return the reply's content and when it was there."""
        if message_id not in replies.arrived:
            return Fault("deadline", "no answer before the deadline"), time.monotonic()
        head, tree, record, at = replies.arrived.pop(message_id)
        if head.has_error():
            if head.error.code == ErrorCode.NODE_UNAVAILABLE and self._awaited(self._there):
                # Its heartbeats found nobody, and Flower took it for gone.
                raise MessagesLost("the SuperLink was away, and what a silo was asked is lost")
            if head.error.code == ErrorCode.MESSAGE_UNAVAILABLE and at < deadline:
                # It cannot have expired: the answer was handed out, and got lost on its way to us.
                raise MessagesLost("what a silo answered is lost")
            return _fault_of(head.error.code), at
        give_up_at = time.monotonic() + _REPLY_GRACE_S

        def give_up() -> None:
            self._check()
            if time.monotonic() > give_up_at:
                raise ReplyInvalid("the reply was announced but did not arrive")

        pull = make_pull_object_fn_protobuf(
            lambda item: self._asked(ours, ours.client.PullObject, item), self._node, ours.run_id
        )

        def fetch(stored: Stored) -> Body:
            body: Body = ours.carrier.get(ours.run_id, stored)
            ours.carrier.drop(ours.run_id, stored)
            return body

        try:
            if record:
                result = unpack(record_in(record), fetch)
            else:
                result = unpack(pull_record(tree, pull, give_up=give_up), fetch)
                request = ConfirmMessageReceivedRequest(
                    node=self._node, run_id=ours.run_id, message_object_id=tree.object_id
                )
                self._asked(ours, ours.client.ConfirmMessageReceived, request)
        except ReplyInvalid as cause:
            result = Fault("invalid_reply", str(cause))
        except (CoordinatorUnreachable, MessagesLost, RunCancelled):
            raise
        except NotAuthorised as cause:
            self._open_again(ours, cause)
        except Exception as cause:  # a silo can send anything; an odd reply drops that silo only
            result = Fault("invalid_reply", f"the reply cannot be read ({type(cause).__name__})")
        return result, time.monotonic()

    # Ending.

    def finish(self, *, ok: bool, detail: str = "") -> None:
        """Say how the run ended; the first call counts."""
        if self._finished or self._claimed is None:
            return
        self._finished = True
        status = SubStatus.COMPLETED if ok else SubStatus.FAILED
        request = PushTaskOutputRequest(sub_status=status, details=detail)
        with contextlib.suppress(NotAuthorised):  # stopped from outside: it has ended already
            client = self._claimed.client
            call(client.PushTaskOutput, request, address=self._address, retry_s=2.0)

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
        for each in (self._claimed, self._control):
            if each is not None:
                each.close()

    def _check(self) -> None:
        cancelled_check(self._cancelled.is_set)()
        if self._ended.is_set():
            raise RunCancelled(f"Flower run {self.run_id} was stopped")

    def _asked(self, ours: Claimed, method: Any, request: Any) -> Any:
        """Call a method for our run; see `_open_again` for what happens where it is lost."""
        try:
            return self._call(method, request)
        except NotAuthorised as cause:
            self._open_again(ours, cause)

    def _call(self, method: Any, request: Any) -> Any:
        retry_s, tries = RETRY_S if self._claimed is not None else self._wait_s, 0

        def try_again() -> None:
            nonlocal tries
            tries += 1
            self._check()

        answer = call(method, request, address=self._address, retry_s=retry_s, give_up=try_again)
        if tries > 1:
            self._back_at = time.monotonic()
        return answer


def _fault_of(code: int) -> Fault:
    if code == ErrorCode.NODE_UNAVAILABLE:
        return Fault("unreachable", "the silo's node has gone")
    if code == ErrorCode.MESSAGE_UNAVAILABLE:
        return Fault("deadline", "the message expired before the silo took it")
    if code == ErrorCode.CLIENT_APP_CRASHED:
        return Fault("crashed", "the silo's process ended without an answer")
    return Fault("failed", f"the silo's node answered with Flower error {code}")
