"""Large bodies: files at the SuperLink, beside its database, instead of objects within it.

Flower cuts what travels into objects that pass through protobuf and SQLite, each with HTTP calls of
its own: 100 MB cost it seconds of CPU. Our SuperLink keeps a large body as one file and streams it;
the message only names it. What stays Flower's is who may do so: every call passes Flower's own
check of the node's signature or of the run's token, and of the run being under way.

``/v1/consilo/SIDE/RUN/NAME``, where SIDE is ``fleet`` (signed by a node) or ``runtime`` (with the
token of the run's task) and NAME are 128 random bits that only the message tells:

- PUT appends what follows the bytes that are there already; `OFFSET_HEADER` says how many the
  caller believes that to be, `SIZE_HEADER` how long the body will be;
- HEAD says how many bytes are there, and ends an upload that hangs;
- GET sends a complete body, from the byte that ``Range`` names;
- DELETE (``runtime`` only) removes it.

A silo may have so many bodies of a run there, and so many bytes (`Quota`); what is over is answered
with 507 until some were fetched.

A complete body never changes. Bodies survive the SuperLink's death as its database does
(``synchronous = NORMAL``: the process's death always, the machine's perhaps not; a torn file is
noticed by the hash that the message states). They are deleted once they have arrived, and all of a
run's when it ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
import time
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.machine.files import is_full
from consilo.transports.flower.doorbell import Application, Receive, Scope, Send
from consilo.transports.flower.version import require_flower

log = logging.getLogger("consilo.bodies")

PREFIX = "/v1/consilo/"
OFFSET_HEADER = "x-consilo-offset"
SIZE_HEADER = "x-consilo-size"
HAVE_HEADER = "x-consilo-have"
MAX_BODY_BYTES = 16 * 1024**3
RUNTIME = 0
"""Stands for the run's own task, where a silo has the number of its node."""
_BLOCK_BYTES = 512 * 1024
_FORGOTTEN_S = 24 * 3600.0
_PLACE = re.compile(r"/v1/consilo/(fleet|runtime)/(\d{1,20})/([0-9a-f]{32})")
_ENDS_A_RUN = {"/v1/runtime/push-task-output", "/v1/control/stop-run"}


@dataclass(frozen=True)
class Quota:
    """What a silo may leave lying of one run.

    Args:
        bodies: how many, complete or not.
        bytes: of them all, with what is announced of the one that comes.
    """

    bodies: int = 64
    bytes: int = 2 * MAX_BODY_BYTES


class _Answer(Exception):
    """What to answer instead of going on."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(status)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Bodies:
    """ASGI middleware around the SuperLink's application.

    Args:
        app: the SuperLink's.
        folder: for the bodies, ``RUN/NAME`` and ``RUN/NAME.part``.
        quota: what one silo may leave there of a run, and what the run's own task may.
    """

    def __init__(self, app: Application, folder: Path, quota: Quota | None = None) -> None:
        self._app = app
        self._folder = folder
        self._quota = quota or Quota()
        self._uploads: dict[Path, object] = {}
        self._owners: dict[Path, tuple[int, int]] = {}  # node, announced size
        self._sweeping = threading.Lock()
        self._admitting = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a body, or pass on."""
        from starlette.concurrency import run_in_threadpool

        path = scope.get("path", "")
        if scope["type"] == "lifespan":
            await run_in_threadpool(self._sweep, scope["app"])
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or not path.startswith(PREFIX):
            await self._app(scope, receive, send)
            if path in _ENDS_A_RUN:
                await run_in_threadpool(self._sweep, scope["app"])
        else:
            try:
                await self._serve(scope, receive, send)
            except _Answer as answer:
                await _reply(send, answer.status, answer.headers)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request

        match = _PLACE.fullmatch(scope["path"])
        if match is None:
            raise _Answer(404)
        side, run_id, name = match[1], int(match[2]), match[3]
        request = Request(scope)
        node = await run_in_threadpool(_authorise, request, side, run_id)
        place = self._folder / str(run_id) / name
        if scope["method"] == "PUT":
            await run_in_threadpool(self._admit, place, node, _number(request, SIZE_HEADER))
            size = await self._put(place, request, receive)
            await _reply(send, 200, {})
            await run_in_threadpool(_count, request, side, run_id, received=size)
        elif scope["method"] == "HEAD":
            self._uploads.pop(place, None)
            await _reply(send, 200, {HAVE_HEADER: str(_have(place))})
        elif scope["method"] == "GET":
            size = await _get(place, request, send)
            await run_in_threadpool(_count, request, side, run_id, sent=size)
        elif scope["method"] == "DELETE" and side == "runtime":
            place.unlink(missing_ok=True)
            await _reply(send, 200, {})
        else:
            raise _Answer(405)

    def _admit(self, place: Path, node: int, size: int) -> None:
        """Note whose a body is, if its owner may leave one more there.

        Whose the bodies from before this process are is not known any more: they are nobody's.
        """
        with self._admitting:
            for each in [each for each in self._owners if each not in self._uploads]:
                if not _have(each):
                    del self._owners[each]
            held = [
                announced
                for each, (owner, announced) in self._owners.items()
                if owner == node and each.parent == place.parent and each != place
            ]
            if node != RUNTIME and (
                len(held) >= self._quota.bodies or sum(held) + size > self._quota.bytes
            ):
                raise _Answer(507, connection="close")
            self._owners[place] = (node, size)

    async def _put(self, place: Path, request: Any, receive: Receive) -> int:
        """Write an upload down; return how many bytes came."""
        offset, size = _number(request, OFFSET_HEADER), _number(request, SIZE_HEADER)
        if size > MAX_BODY_BYTES or place.exists():
            raise _Answer(413 if size > MAX_BODY_BYTES else 409, connection="close")
        part = place.with_suffix(".part")
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        mine = self._uploads[place] = object()
        at = offset
        try:
            if os.fstat(file).st_size != offset:
                raise _Answer(409, connection="close")
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request" or self._uploads.get(place) is not mine:
                    raise _Answer(409, connection="close")  # cut off, or begun anew elsewhere
                more = message.get("more_body", False)
                rest = memoryview(message.get("body", b""))
                at += len(rest)
                if at > size:
                    part.unlink()
                    raise _Answer(413, connection="close")
                while rest:
                    rest = rest[os.write(file, rest) :]
            if at == size:
                os.rename(part, place)
        except OSError as cause:
            full = is_full(cause)
            raise _Answer(507 if full else 500, connection="close") from None
        finally:
            os.close(file)
            if self._uploads.get(place) is mine:
                del self._uploads[place]
        return at - offset

    def _sweep(self, app: Any) -> None:
        """Delete the bodies of runs that have ended, and what nobody has fetched in a day."""
        from flwr.common.constant import Status

        with self._sweeping:
            folders = list(self._folder.glob("[0-9]*"))
            state = app.state.linkstate_factory.state()
            for folder in folders:
                status = state.get_run_status({int(folder.name)}).get(int(folder.name))
                if status is None or status.status == Status.FINISHED:
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                for file in folder.iterdir():
                    with contextlib.suppress(OSError):
                        if time.time() - file.stat().st_mtime > _FORGOTTEN_S:
                            file.unlink()


def _authorise(request: Any, side: str, run_id: int) -> int:
    """Hold Flower's own checks: as for an object of this run; return whose call it is."""
    require_flower()
    from fastapi import HTTPException
    from flwr.common.constant import Status
    from flwr.proto.message_pb2 import PullObjectRequest
    from flwr.proto.node_pb2 import Node
    from flwr.server.superlink.utils import check_abort
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, TASK_TOKEN_HEADER
    from flwr.supercore.dependencies.task import authenticate_task
    from flwr.supercore.error import FlowerError
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.routers.fleet.node_auth import authenticate_node

    state = get_linkstate(request)
    try:
        if side == "runtime":
            task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), state)
            if int(task.run_id) != run_id:
                raise _Answer(403, connection="close")
            return RUNTIME
        if not request.app.state.enable_supernode_auth:
            raise _Answer(403, connection="close")
        public = b64decode(request.headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""), validate=True)
        node = Node(node_id=state.get_node_id_by_public_key(public) or 0)
        request.state.protobuf_request = PullObjectRequest(node=node, run_id=run_id)
        authenticate_node(request)
        if check_abort(run_id, [Status.PENDING, Status.STARTING, Status.FINISHED], state):
            raise _Answer(403, connection="close")
        return int(node.node_id)
    except (HTTPException, FlowerError, ValueError):
        raise _Answer(401, connection="close") from None
    except KeyError:
        raise _Answer(403, connection="close") from None


def _count(request: Any, side: str, run_id: int, *, sent: int = 0, received: int = 0) -> None:
    """Add to the run's traffic, of which Flower counts what passes between it and the nodes."""
    if side == "fleet" and sent + received:
        from flwr.superlink.dependencies.linkstate import get_linkstate

        with contextlib.suppress(ValueError):
            get_linkstate(request).store_traffic(run_id, bytes_sent=sent, bytes_recv=received)


async def _get(place: Path, request: Any, send: Send) -> int:
    """Send a body from where the caller wants it; return how many bytes went."""
    try:
        file = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        raise _Answer(404) from None
    try:
        size = os.fstat(file).st_size
        start = re.fullmatch(r"bytes=(\d{1,20})-", request.headers.get("range", "bytes=0-"))
        if start is None or int(start[1]) > size:
            raise _Answer(416)
        at = first = int(start[1])
        headers = [(b"content-length", str(size - first).encode())]
        await send({"type": "http.response.start", "status": 206, "headers": headers})
        while at < size:
            block = os.pread(file, _BLOCK_BYTES, at)
            at += len(block)
            more = at < size and bool(block)
            await send({"type": "http.response.body", "body": block, "more_body": more})
            if not more:
                break
        else:
            await send({"type": "http.response.body", "body": b""})
        return at - first
    finally:
        os.close(file)


def _have(place: Path) -> int:
    for path in (place, place.with_suffix(".part")):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
    return 0


def _number(request: Any, header: str) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"\d{1,20}", text):
        raise _Answer(400, connection="close")
    return int(text)


async def _reply(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", b"0"))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b""})
