"""Which nodes are there, by their connections; runs in the SuperLink.

Flower knows a node by its heartbeats, and one that was killed counts as online for 20 s more: so
long a run waits for it, and its successor is refused. Yet the kernel closes a killed process's
connections at once. A node that is there always has one open, since it sends a heartbeat before an
idle one is closed. So one whose last connection was closed by its own side is given a moment to
open another, and is offline then; a node that starts while none of its key is open takes over at
once. A machine that loses its power or its line closes nothing: there the heartbeats tell.

A connection is a node's once Flower has checked a signature of it there.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import MutableMapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from consilo.transports.flower.doorbell import COORDINATOR, Application, Bell, Receive, Scope, Send
from consilo.transports.flower.version import require_flower

log = logging.getLogger("consilo.alive")

PATIENCE_S = 3.0
"""For so long a node may be without any connection: its line may have broken."""
IDLE_S = 15.0
"""An idle connection is kept for longer than the time between two heartbeats of a node."""
_ACTIVATE, _GOODBYE = "/v1/fleet/activate-node", "/v1/fleet/deactivate-node"
_SIGNED = (_ACTIVATE, _GOODBYE, "/v1/fleet/send-node-heartbeat")

Peer = tuple[str, int]


class Alive:
    """The nodes' open connections.

    Args:
        bell: rung for the coordinator when a node has gone.
        patience_s: how long a node may be without a connection.
    """

    def __init__(self, bell: Bell, *, patience_s: float = PATIENCE_S) -> None:
        self._bell = bell
        self._patience_s = patience_s
        self._node_of: dict[Peer, bytes] = {}  # empty where nobody's signature was checked yet
        self._open: dict[bytes, set[Peer]] = {}
        self._state: Any = None
        self._doubted: set[asyncio.Task[None]] = set()

    def opened(self, peer: Peer) -> None:
        """Note that there is a connection, of whomever."""
        self._node_of[peer] = b""

    def heard(self, scope: Scope, key_header: str) -> None:
        """Note that a connection is that of the node whose signature was checked on it."""
        peer, key = _peer(scope), _key(scope, key_header)
        if peer not in self._node_of or not key:
            return  # closed meanwhile
        self._state = scope["app"].state.linkstate_factory.state
        self._node_of[peer] = key
        self._open.setdefault(key, set()).add(peer)

    def closed(self, peer: Peer, by_peer: bool) -> None:
        """Forget a connection; doubt its node if it was the last one and its side closed it."""
        key = self._node_of.pop(peer, b"")
        if not key:
            return
        left = self._open[key]
        left.discard(peer)
        if left:
            return
        del self._open[key]
        if by_peer:
            task = asyncio.get_running_loop().create_task(self._doubt(key))
            self._doubted.add(task)
            task.add_done_callback(self._doubted.discard)

    def bids_farewell(self, scope: Scope, key_header: str) -> None:
        """Forget a node that says goodbye itself."""
        for peer in self._open.pop(_key(scope, key_header), set()):
            self._node_of[peer] = b""

    async def make_way(self, scope: Scope, key_header: str) -> None:
        """Let a node that starts take over from its predecessor, if that has no connection."""
        key, peer = _key(scope, key_header), _peer(scope)
        if self._open.get(key, set()) - {peer}:
            return  # two that live with one key: Flower refuses the second
        self._state = scope["app"].state.linkstate_factory.state
        await self._take_offline(key, "its successor starts")

    async def _doubt(self, key: bytes) -> None:
        await asyncio.sleep(self._patience_s)
        if key not in self._open:
            await self._take_offline(key, f"no connection for {self._patience_s:.0f} s")

    async def _take_offline(self, key: bytes, why: str) -> None:
        name, runs = await run_in_threadpool(take_offline, self._state(), key)
        if name:
            log.info("the node of %s has gone: %s", name, why)
        if name or runs:
            self._bell.ring_all(COORDINATOR)


class Attendance:
    """ASGI middleware behind Flower's own check of a node's signature.

    Args:
        app: the SuperLink's.
        alive: told of each call of a node.
        key_header: the header in which a node shows its public key.
    """

    def __init__(self, app: Application, alive: Alive, key_header: str) -> None:
        self._app = app
        self._alive = alive
        self._key_header = key_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note who calls, and pass on."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path in _SIGNED and _is_checked(scope):
            if path == _ACTIVATE:
                await self._alive.make_way(scope, self._key_header)
            if path == _GOODBYE:
                self._alive.bids_farewell(scope, self._key_header)
            else:
                self._alive.heard(scope, self._key_header)
        await self._app(scope, receive, send)


def take_offline(state: Any, key: bytes) -> tuple[str, set[int]]:
    """Take a node offline, and answer in its place what it had taken and will not answer.

    Args:
        state: Flower's ``LinkState``.
        key: the node's public key.

    Returns:
        The node's name, empty where it was not online, and the runs that wait for its answers.
    """
    require_flower()
    from flwr.supercore.constant import NodeStatus

    node_id = state.get_node_id_by_public_key(key)
    if node_id is None:
        return "", set()
    (node,) = state.get_node_info(node_ids=[node_id])
    was_online = node.status == NodeStatus.ONLINE and state.deactivate_node(node_id)
    return (str(node.name) if was_online else ""), _answer_for(state, node_id)


def _answer_for(state: Any, node_id: int) -> set[int]:
    """Say of each message that a node has taken and not answered that the node has gone.

    Flower itself says so while the node is offline, to whoever asks just then.
    """
    from flwr.server.superlink.linkstate.utils import (
        convert_sint64_values_in_dict_to_uint64,
        create_message_error_unavailable_res_message,
        dict_to_message,
    )
    from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
    from flwr.supercore.utils import uint64_to_int64
    from sqlalchemy import select

    taken = select(MessageIns.message_id).where(
        MessageIns.dst_node_id == uint64_to_int64(node_id),
        MessageIns.delivered_at != "",
        MessageIns.message_id.not_in(select(MessageRes.reply_to_message_id)),
    )
    runs = set()
    with state.session() as session:
        for identifier in session.scalars(taken).all():
            row = state.get_valid_message_ins(identifier)
            if row is None:  # it has expired
                continue
            convert_sint64_values_in_dict_to_uint64(row, ["run_id", "src_node_id", "dst_node_id"])
            asked = dict_to_message(row).metadata
            gone = create_message_error_unavailable_res_message(asked, "node_unavail")
            gone.metadata.__dict__["_src_node_id"] = node_id  # in its place
            gone.metadata.__dict__["_message_id"] = gone.object_id
            if state.store_message_res(gone) is not None:
                _keep(state.object_store, gone)
                runs.add(int(asked.run_id))
    return runs


def _keep(store: Any, message: Any) -> None:
    """Keep what a message consists of, as Flower does with those that it writes itself."""
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        no_object_id_recompute,
    )

    with no_object_id_recompute():
        store.preregister(message.metadata.run_id, get_object_tree(message))
        for identifier, part in get_all_nested_objects(message).items():
            store.put(identifier, part.deflate())


def _is_checked(scope: Scope) -> bool:
    """Return whether Flower has read the call, and so checked its signature."""
    state: MutableMapping[str, Any] = scope.get("state", {})
    return "protobuf_request" in state


def _peer(scope: Scope) -> Peer | None:
    client = scope.get("client")
    return None if client is None else (str(client[0]), int(client[1]))


def _key(scope: Scope, header: str) -> bytes:
    wanted = header.encode("latin-1")
    shown = next((value for name, value in scope["headers"] if name == wanted), b"")
    return b64decode(shown)
