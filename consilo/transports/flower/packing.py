"""How a parcel becomes a Flower message and back.

Flower splits a message into content-addressed objects and makes some HTTP calls for each. A small
parcel is one record (three objects). A large body is cut into chunks of 4 MiB, one record each; the
chunk records are made once per body, so that a body for N silos is hashed, sent and stored once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from consilo.errors import ReplyInvalid
from consilo.parcel import Fault, Parcel
from consilo.transports.flower.version import require_flower

require_flower()

from flwr.app.message import ConfigRecord, RecordDict  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import (  # noqa: E402
    ObjectUnavailableError,
    inflate_object_from_contents,
)

CHUNK_BYTES = 4 * 1024 * 1024
INLINE_BYTES = 64 * 1024
PARALLEL = 3  # transfers at once, per message: one waits for the network while others hash
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5

Body = tuple[Any, ...]


def pack_body(body: bytes) -> Body:
    """Return the chunk records of a body; empty if it is small enough to travel with its header."""
    if len(body) <= INLINE_BYTES:
        return ()
    view = memoryview(body)
    return tuple(
        ConfigRecord({"data": bytes(view[start : start + CHUNK_BYTES])})
        for start in range(0, len(body), CHUNK_BYTES)
    )


def pack_parcel(parcel: Parcel, chunks: Body) -> Any:
    """Return a record dictionary; ``chunks`` is `pack_body` of the parcel's body."""
    head: dict[str, Any] = {"header": parcel.header, "chunks": len(chunks)}
    if not chunks:
        head["body"] = parcel.body
    records = {"parcel": ConfigRecord(head)}
    records.update((f"body-{index:06d}", chunk) for index, chunk in enumerate(chunks))
    return RecordDict(records)


def pack_fault(fault: Fault) -> Any:
    """Return a record dictionary that says why the node did not ask its silo."""
    return RecordDict({"fault": ConfigRecord({"code": fault.code, "reason": fault.reason})})


def unpack_content(content: Any) -> Parcel | Fault:
    """Return what a record dictionary carries.

    Raises:
        ReplyInvalid: where it carries neither a parcel nor a fault.
    """
    try:
        if "fault" in content:
            record = content["fault"]
            return Fault(str(record["code"])[:64], str(record["reason"])[:500])
        head = content["parcel"]
        header, count = head["header"], int(head["chunks"])
        if count == 0:
            body = head["body"]
        else:
            body = b"".join([content.pop(f"body-{i:06d}")["data"] for i in range(count)])
        if not isinstance(header, bytes) or not isinstance(body, bytes):
            raise TypeError("header and body are bytes")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ReplyInvalid("a message arrived that carries no parcel") from None
    return Parcel(header, body)


def pull_message(tree: Any, pull: Callable[[str], bytes], *, give_up: Callable[[], None]) -> Any:
    """Fetch the objects of a message and put it together.

    Flower's own loop waits one second (`PULL_INITIAL_BACKOFF`) before it asks again for an object
    that its sender is still pushing, which a small message nearly always meets; ours waits 5 ms.

    Args:
        tree: the message's object tree.
        pull: fetches one object; raises Flower's ``ObjectUnavailableError`` while it is not there.
        give_up: called between tries; raises when there is no point in waiting any more.
    """
    identifiers = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))

    def fetch(identifier: str) -> bytes:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return pull(identifier)
            except ObjectUnavailableError:
                give_up()
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    contents = run_parallel(fetch, identifiers)
    return inflate_object_from_contents(tree.object_id, contents)


def run_parallel(call: Callable[[str], bytes], identifiers: list[str]) -> dict[str, bytes]:
    """Return ``call`` of each identifier, a few at a time; without threads for small messages."""
    if len(identifiers) <= 4:
        return {identifier: call(identifier) for identifier in identifiers}
    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(zip(identifiers, pool.map(call, identifiers), strict=True))


def push_objects(
    objects: Mapping[str, Any], wanted: set[str], push: Callable[[str, bytes], None]
) -> None:
    """Send the wanted objects, in order, a few at a time; each is serialised in its turn."""

    def send(identifier: str) -> None:
        push(identifier, objects[identifier].deflate())

    identifiers = [identifier for identifier in objects if identifier in wanted]
    if len(identifiers) <= 4:
        for identifier in identifiers:
            send(identifier)
        return
    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in pool.map(send, identifiers):
            pass
