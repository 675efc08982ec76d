"""A message and its content in one call, each way.

Flower takes four calls to put a message in (its head, then three objects) and three to take one out
(head, object, confirmation); each costs the SuperLink some 8 ms of CPU, most of it for passing its
layers and for SQLite transactions. Between the head and the last object the message is announced
but not there, and whoever it is for asks again and again: with N silos that are sent something
together, the last of them asks for as long as the others are served.

Our SuperLink has two routes for a side, ``fleet`` (a node, with its signature) and ``runtime`` (a
flow, with its task's token):

- ``/v1/consilo/SIDE/deliver``: heads with the objects that they are made of;
- ``/v1/consilo/SIDE/take``: what Flower's own pull gives, each with its record; what came with its
  record counts as received. It waits at the door, see `consilo.transports.flower.doorbell`.

All that a call does is Flower's: its authentication, then its handlers, in one transaction. So a
message is there whole or not at all, and then the bell rings for the one that it is for. Flower's
own routes stay as they are, and a message whose objects come by them is taken head first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from consilo.errors import ReplyInvalid
from consilo.transports.flower.doorbell import (
    COORDINATOR,
    SILOS,
    TAKE,
    Application,
    Bell,
    Receive,
    Scope,
    Send,
)
from consilo.transports.flower.version import require_flower

DELIVER = {"fleet": "/v1/consilo/fleet/deliver", "runtime": "/v1/consilo/runtime/deliver"}
MAX_DELIVERY_BYTES = 16 * 1024**2
_LARGEST_RECORD_BYTES = 1024**2  # larger ones are taken by themselves
_LARGEST_TAKE_BYTES = 8 * 1024**2
_ROUTES = {
    path: (side, verb)
    for verb, paths in (("deliver", DELIVER), ("take", TAKE))
    for side, path in paths.items()
}


class Mail:
    """ASGI middleware around the SuperLink's application, behind the door.

    Args:
        app: the SuperLink's.
        bell: rung for whoever something was put in for.
        heard: told of each call of a node whose signature was checked.
    """

    def __init__(
        self, app: Application, bell: Bell, heard: Callable[[Scope], None] = lambda scope: None
    ) -> None:
        self._app = app
        self._bell = bell
        self._heard = heard
        # SQLite has one writer at a time, and who meets another one sleeps.
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Deliver, hand out, or pass on."""
        route = _ROUTES.get(scope.get("path", "")) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        from fastapi import HTTPException
        from flwr.supercore.error.http import http_error_translator
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import ClientDisconnect, Request
        from starlette.responses import Response

        side, verb = route
        request = Request(scope, receive)
        rung: list[tuple[str, int]] = []

        async def serve(_: Any) -> Any:
            if scope["method"] != "POST":
                raise HTTPException(405)
            try:
                body = await _body(request)
            except ClientDisconnect:  # before anything was put in or taken out
                return Response(status_code=400)
            work = {"deliver": _deliver, "take": _take}[verb]
            async with self._turn:
                answer, ringing = await run_in_threadpool(work, request, side, body)
            rung.extend(ringing)
            if side == "fleet":
                self._heard(scope)
            return Response(answer, media_type="application/x-protobuf")

        response = await http_error_translator(request, serve)
        for whose, number in rung:
            self._bell.ring(whose, str(number))
        await response(scope, receive, send)


async def _body(request: Any) -> bytes:
    from fastapi import HTTPException

    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_DELIVERY_BYTES:
            raise HTTPException(413)
    return bytes(body)


def _deliver(request: Any, side: str, body: bytes) -> tuple[bytes, list[tuple[str, int]]]:
    """Put messages in; return Flower's answer, and who is to be told."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from flwr.proto.message_pb2 import PushObjectRequest
    from flwr.proto.runtime_pb2 import PushAppMessagesRequest

    kind = PushMessagesRequest if side == "fleet" else PushAppMessagesRequest
    try:
        head, *rest = _framed(body)
        heads = kind.FromString(head)
        objects = [PushObjectRequest.FromString(each) for each in rest]
        if not heads.messages_list:
            raise ValueError("no message")
    except Exception:
        raise _malformed() from None
    with _serving(request, side, heads) as (state, handlers, who):
        answer = handlers.push_messages(heads, state, **who)
        wanted = set(answer.objects_to_push)
        for each in objects:
            if each.object_id in wanted:
                each.session_id = answer.session_id
                if not handlers.push_object(each, state, **who).stored:
                    raise RuntimeError("an object was not stored")
                wanted.discard(each.object_id)
        if wanted:
            raise RuntimeError("a message came without its objects")
        if side == "fleet":
            ringing = [(COORDINATOR, int(heads.messages_list[0].metadata.run_id))]
        else:
            stored = zip(answer.message_ids, heads.messages_list, strict=True)
            ringing = [(SILOS, int(each.metadata.dst_node_id)) for known, each in stored if known]
        return answer.SerializeToString(), ringing


def _take(request: Any, side: str, body: bytes) -> tuple[bytes, list[tuple[str, int]]]:
    """Hand out what is there: Flower's answer, then each message's record or nothing."""
    from flwr.proto.fleet_pb2 import PullMessagesRequest
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest
    from flwr.supercore.error import FlowerError

    kind = PullMessagesRequest if side == "fleet" else PullAppMessagesRequest
    try:
        asked = kind.FromString(body)
    except Exception:
        raise _malformed() from None
    with _serving(request, side, asked) as (state, handlers, who):
        store = {"store": state.object_store} if side == "fleet" else {}
        answer = handlers.pull_messages(asked, state, **store, **who)
        node = _node_of(side, asked)
        frames, total = [answer.SerializeToString()], 0
        for head, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            record = b""
            run_id = head.metadata.run_id
            identifier = record_of(tree)
            with contextlib.suppress(FlowerError):  # its run has ended: the head alone says that
                if identifier and total < _LARGEST_TAKE_BYTES:
                    pull = PullObjectRequest(node=node, run_id=run_id, object_id=identifier)
                    found = handlers.pull_object(pull, state, **who).object_content
                    if 0 < len(found) <= _LARGEST_RECORD_BYTES:
                        received = ConfirmMessageReceivedRequest(
                            node=node, run_id=run_id, message_object_id=tree.object_id
                        )
                        handlers.confirm_message_received(received, state, **store, **who)
                        record = found
                        total += len(record)
            frames.append(record)
        return (_frames(frames) if answer.messages_list else b""), []


def record_of(tree: Any) -> str:
    """Return the identifier of a message's only record; empty where its tree is another one."""
    if len(tree.children) != 1 or len(tree.children[0].children) != 1:
        return ""
    return str(tree.children[0].children[0].object_id)


@contextlib.contextmanager
def _serving(request: Any, side: str, message: Any) -> Any:
    """Hold Flower's checks of the caller, then give its state and handlers within a transaction."""
    from fastapi import HTTPException
    from flwr.common.constant import Status
    from flwr.server.superlink.utils import check_abort
    from flwr.supercore.constant import TASK_TOKEN_HEADER
    from flwr.supercore.dependencies.task import authenticate_task
    from flwr.supercore.error import FlowerError
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.routers.fleet.node_auth import authenticate_node
    from flwr.superlink.servicer.fleet import fleet_handlers
    from flwr.superlink.servicer.runtime import runtime_handlers

    state = get_linkstate(request)
    who: dict[str, Any] = {}
    if side == "runtime":
        who["task"] = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), state)
    elif not request.app.state.enable_supernode_auth:
        raise HTTPException(403)
    else:
        request.state.protobuf_request = message
        authenticate_node(request)
    try:
        with state.session():
            yield state, fleet_handlers if side == "fleet" else runtime_handlers, who
    except FlowerError:
        # Flower clears a run away when somebody asks for it after its end; not within a
        # transaction that is rolled back.
        for each in getattr(message, "messages_list", ()):
            with contextlib.suppress(KeyError):
                check_abort(each.metadata.run_id, [Status.FINISHED], state)
        raise


def _node_of(side: str, asked: Any) -> Any:
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.proto.node_pb2 import Node

    return asked.node if side == "fleet" else Node(node_id=SUPERLINK_NODE_ID)


def _malformed() -> Exception:
    from fastapi import HTTPException

    return HTTPException(400)


def _frames(parts: Sequence[bytes]) -> bytes:
    from flwr.proto.recorddict_pb2 import BytesList

    framed: bytes = BytesList(vals=parts).SerializeToString()
    return framed


def _framed(body: bytes) -> list[bytes]:
    from flwr.proto.recorddict_pb2 import BytesList

    return list(BytesList.FromString(body).vals)


# The caller's side.


def delivery(client: Any, side: str, objects: Mapping[str, bytes], node: Any) -> Callable[..., Any]:
    """Return a method that delivers messages, as Flower's client has them.

    Args:
        client: one of Flower's.
        side: ``fleet`` or ``runtime``.
        objects: identifier → content, of all that the messages are made of.
        node: who sends.
    """
    require_flower()
    from flwr.proto.fleet_pb2 import PushMessagesResponse
    from flwr.proto.message_pb2 import PushObjectRequest
    from flwr.proto.recorddict_pb2 import BytesList
    from flwr.proto.runtime_pb2 import PushAppMessagesResponse

    def deliver(heads: Any) -> Any:
        run_id = heads.messages_list[0].metadata.run_id
        parts = [heads.SerializeToString()]
        for identifier, content in objects.items():
            one = PushObjectRequest(
                node=node, run_id=run_id, object_id=identifier, object_content=content
            )
            parts.append(one.SerializeToString())
        return client._unary_unary(
            path=DELIVER[side],
            rpc_method=f"/consilo/{side}/Deliver",
            request=BytesList(vals=parts),
            response_type=PushMessagesResponse if side == "fleet" else PushAppMessagesResponse,
        )

    return deliver


def taking(client: Any, side: str) -> Callable[[Any], list[tuple[Any, Any, bytes]]]:
    """Return a method that takes what is there: head, object tree, and record or nothing.

    Raises (the method):
        ReplyInvalid: where the SuperLink's answer is none.
    """
    require_flower()
    from flwr.proto.fleet_pb2 import PullMessagesResponse
    from flwr.proto.recorddict_pb2 import BytesList
    from flwr.proto.runtime_pb2 import PullAppMessagesResponse

    kind = PullMessagesResponse if side == "fleet" else PullAppMessagesResponse

    def take(asked: Any) -> list[tuple[Any, Any, bytes]]:
        frames = client._unary_unary(
            path=TAKE[side],
            rpc_method=f"/consilo/{side}/Take",
            request=asked,
            response_type=BytesList,
        ).vals
        if not frames:
            return []
        heads = kind.FromString(frames[0])
        try:
            return list(
                zip(heads.messages_list, heads.message_object_trees, frames[1:], strict=True)
            )
        except ValueError:
            raise ReplyInvalid("the SuperLink's answer has not as many parts as it says") from None

    return take
