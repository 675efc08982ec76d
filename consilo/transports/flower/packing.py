"""How a parcel becomes a Flower message and back.

Flower splits a message into content-addressed objects. Ours is one record (three objects), which
travels with the message's head, see `consilo.transports.flower.mail`. A body above 64 KiB does not
travel in it: the record says where it lies, see `consilo.transports.flower.bodies`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenacity import Retrying, retry_if_exception_type, wait_exponential

from consilo.errors import ReplyInvalid
from consilo.transports.flower.carrier import Stored
from consilo.transports.flower.mail import record_of
from consilo.transports.flower.version import require_flower
from consilo.wire.parcel import Fault, Parcel

require_flower()

from flwr.app.message import ConfigRecord, RecordDict  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError  # noqa: E402

INLINE_BYTES = 64 * 1024
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5


def pack_parcel(header: bytes, body: bytes | Stored, *, to: str) -> Any:
    """Return a record dictionary.

    Args:
        header: the parcel's.
        body: the parcel's, or where it lies.
        to: receiver or message that is answered: makes the record unlike that of any other message,
            so that the receiver cannot have it before this message has been sent.
    """
    head: dict[str, Any] = {"to": to, "header": header}
    head["stored" if isinstance(body, Stored) else "body"] = (
        str(body) if isinstance(body, Stored) else body
    )
    return RecordDict({"parcel": ConfigRecord(head)})


def pack_fault(fault: Fault, *, to: str) -> Any:
    """Return a record dictionary that says why the node did not ask its silo."""
    record = ConfigRecord({"to": to, "code": fault.code, "reason": fault.reason})
    return RecordDict({"fault": record})


def unpack(record: Any, fetch: Callable[[Stored], Any]) -> Parcel | Fault:
    """Return what a message's record carries.

    Args:
        record: the message's.
        fetch: brings a body from where it lies.

    Raises:
        ReplyInvalid: where it carries neither a parcel nor a fault.
    """
    try:
        if "code" in record:
            return Fault(str(record["code"])[:64], str(record["reason"])[:500])
        header = record["header"]
        body = Stored.parse(record["stored"]) if "stored" in record else record["body"]
        if not isinstance(header, bytes) or not isinstance(body, bytes | Stored):
            raise TypeError("header and body are bytes")
    except (KeyError, TypeError, ValueError):
        raise ReplyInvalid("a message arrived that carries no parcel") from None
    return Parcel(header, fetch(body) if isinstance(body, Stored) else body)


def record_in(content: bytes) -> Any:
    """Return the record that came with a message's head."""
    return ConfigRecord.inflate(content)


def pull_record(tree: Any, pull: Callable[[str], bytes], *, give_up: Callable[[], None]) -> Any:
    """Fetch the record of a message that came as a head alone.

    Only the record: the two objects above it, the message and its dictionary, say nothing that the
    pull of the message has not said.

    Flower's own loop waits one second (`PULL_INITIAL_BACKOFF`) before it asks again for an object
    that its sender is still pushing, which a small message nearly always meets; ours waits 5 ms.

    Args:
        tree: the message's object tree.
        pull: fetches one object; raises Flower's ``ObjectUnavailableError`` while it is not there.
        give_up: called between tries; raises when there is no point in waiting any more.

    Raises:
        ReplyInvalid: where the message has no content, or more than one record.
    """
    identifier = record_of(tree)
    if not identifier:
        raise ReplyInvalid("a message arrived that carries no parcel")
    pulling = Retrying(
        retry=retry_if_exception_type(ObjectUnavailableError),
        wait=wait_exponential(multiplier=_FIRST_PAUSE_S, exp_base=1.5, max=_LONGEST_PAUSE_S),
        before_sleep=lambda _: give_up(),
    )
    return ConfigRecord.inflate(pulling(pull, identifier))


def objects_of(message: Any) -> dict[str, bytes]:
    """Return the content of the objects that a message is made of, by identifier."""
    return {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
