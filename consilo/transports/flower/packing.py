"""How a parcel becomes a Flower message and back.

Flower splits a message into content-addressed objects and makes some HTTP calls for each. A small
parcel is one record (three objects). A large body is cut into chunks of 4 MiB, one record each; the
chunk records are made once per body, so that a body for N silos is hashed, sent and stored once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from consilo.errors import ReplyInvalid, TransportError
from consilo.parcel import Fault, Parcel
from consilo.transports.flower.version import require_flower

require_flower()

from flwr.app.message import ConfigRecord, RecordDict  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import (  # noqa: E402
    ObjectPushError,
    ObjectUnavailableError,
)

CHUNK_BYTES = 4 * 1024 * 1024
INLINE_BYTES = 64 * 1024
PARALLEL = 3  # transfers at once, per message: one waits for the network while others hash
_SEQUENTIAL = 4  # so few objects are not worth a pool of threads
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5

Body = tuple[Any, ...]


def pack_body(body: bytes) -> Body:
    """Return the chunk records of a body; empty if it is small enough to travel with its header."""
    if len(body) <= INLINE_BYTES:
        return ()
    view = memoryview(body)
    starts = range(0, len(body), CHUNK_BYTES)
    return tuple(
        ConfigRecord({"index": index, "data": bytes(view[start : start + CHUNK_BYTES])})
        for index, start in enumerate(starts)
    )


def pack_parcel(parcel: Parcel, chunks: Body, *, to: str) -> Any:
    """Return a record dictionary.

    Args:
        parcel: what travels.
        chunks: `pack_body` of its body.
        to: receiver or message that is answered: makes the head unlike that of any other message,
            so that the receiver cannot have all records before this message has been sent.
    """
    head: dict[str, Any] = {"to": to, "header": parcel.header, "chunks": len(chunks)}
    if not chunks:
        head["body"] = parcel.body
    records = {"parcel": ConfigRecord(head)}
    records.update((f"body-{index:06d}", chunk) for index, chunk in enumerate(chunks))
    return RecordDict(records)


def pack_fault(fault: Fault, *, to: str) -> Any:
    """Return a record dictionary that says why the node did not ask its silo."""
    record = ConfigRecord({"to": to, "code": fault.code, "reason": fault.reason})
    return RecordDict({"fault": record})


def unpack(records: Iterable[Any]) -> Parcel | Fault:
    """Return what the records of a message carry, in whatever order they come.

    Raises:
        ReplyInvalid: where they carry neither a parcel nor a fault.
    """
    try:
        head: Any = None
        chunks: dict[int, bytes] = {}
        for record in records:
            if "code" in record:
                return Fault(str(record["code"])[:64], str(record["reason"])[:500])
            if "index" in record:
                chunks[int(record["index"])] = record["data"]
            else:
                head = record
        header, count = head["header"], int(head["chunks"])
        body = b"".join([chunks.pop(index) for index in range(count)]) if count else head["body"]
        if not isinstance(header, bytes) or not isinstance(body, bytes):
            raise TypeError("header and body are bytes")
    except (KeyError, TypeError, ValueError):
        raise ReplyInvalid("a message arrived that carries no parcel") from None
    return Parcel(header, body)


def pull_records(
    tree: Any, pull: Callable[[str], bytes], *, give_up: Callable[[], None]
) -> Iterable[Any]:
    """Fetch the records of a message.

    Only the records: the two objects above them, the message and its dictionary, say nothing that
    the pull of the message has not said.

    Flower's own loop waits one second (`PULL_INITIAL_BACKOFF`) before it asks again for an object
    that its sender is still pushing, which a small message nearly always meets; ours waits 5 ms.

    Args:
        tree: the message's object tree.
        pull: fetches one object; raises Flower's ``ObjectUnavailableError`` while it is not there.
        give_up: called between tries; raises when there is no point in waiting any more.

    Raises:
        ReplyInvalid: where the message has no content.
    """
    if len(tree.children) != 1:
        raise ReplyInvalid("a message arrived without content")
    identifiers = list(dict.fromkeys(node.object_id for node in tree.children[0].children))

    def fetch(identifier: str) -> Any:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return ConfigRecord.inflate(pull(identifier))
            except ObjectUnavailableError:
                give_up()
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    if len(identifiers) <= _SEQUENTIAL:
        return [fetch(identifier) for identifier in identifiers]
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(fetch, identifiers))


def in_order(message: Any) -> dict[str, Any]:
    """Return a message's objects by identifier, each before those that it is made of.

    The receiver confirms, and the SuperLink then deletes, as soon as the records have arrived; so
    what stands above them must have been sent before, and the head, which no other message has,
    goes last.
    """
    return dict(reversed(get_all_nested_objects(message).items()))


def push_objects(
    objects: Mapping[str, Any], wanted: set[str], push: Callable[[str, bytes], None]
) -> None:
    """Send the wanted objects, each serialised in its turn.

    Records go a few at a time if there are many; the objects above them go first (see `in_order`).

    Raises:
        TransportError: where the SuperLink no longer wants them.
    """

    def send(identifier: str) -> None:
        push(identifier, objects[identifier].deflate())

    identifiers = [identifier for identifier in objects if identifier in wanted]
    records = [each for each in identifiers if isinstance(objects[each], ConfigRecord)]
    try:
        if len(records) <= _SEQUENTIAL:
            for identifier in identifiers:
                send(identifier)
            return
        for identifier in identifiers:
            if not isinstance(objects[identifier], ConfigRecord):
                send(identifier)
        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(send, records):
                pass
    except ObjectPushError as cause:
        raise TransportError(
            "the SuperLink no longer wants what we send: the receiver or the run has gone"
        ) from cause
