"""The narrow way between the process that holds a silo's secrets and the one that runs job code.

Frames over a pair of sockets: a byte for what it is, a length, a content. The worker believes what
it is told, so that comes as Python objects; the guard believes nothing, so what the worker says is
a packed payload (`consilo.wire.payload`) of plain values, arrays and the few kinds named here, and
is read into memory of the guard's own before it is looked at.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import ReplyInvalid
from consilo.jobs.job import Job
from consilo.kernel.headers import Header
from consilo.kernel.verbs import Asked, AskedField, Disclosure, FromRows
from consilo.privacy.account import Charge
from consilo.wire.payload import pack, unpack
from consilo.wire.piecewise import Parts

MOST_BYTES = 8 << 30
_KINDS = {"bytes", "number", "call", "contract", "job", "header", "asked", "charge", "frame", "map"}


class Closed(Exception):
    """The other side has ended."""


class Channel:
    """One end; reads and writes block.

    Args:
        descriptor: of the socket.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Send one frame.

        Raises:
            Closed: where nobody reads it.
        """
        for part in (kind + len(content).to_bytes(8, "little"), content):
            rest = memoryview(part)
            while rest:
                try:
                    rest = rest[os.write(self.descriptor, rest) :]
                except OSError:
                    raise Closed from None

    def receive(self) -> tuple[bytes, bytes]:
        """Return the next frame's kind and content.

        Raises:
            Closed: where there is none, or it is larger than any may be.
        """
        head = self._read(9)
        size = int.from_bytes(head[1:], "little")
        if size > MOST_BYTES:
            raise Closed
        return head[:1], self._read(size)

    def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            try:
                part = os.read(self.descriptor, min(size - len(found), 1 << 20))
            except OSError:
                raise Closed from None
            if not part:
                raise Closed
            found += part
        return bytes(found)


def trusted(value: Any) -> bytes:
    """Return what the guard tells the worker."""
    return pickle.dumps(value, protocol=5)


def believed(content: bytes) -> Any:
    """Return what the guard told; for the worker alone."""
    return pickle.loads(content)


def said(value: Any, calls: list[Callable[..., Any]]) -> bytes:
    """Return what the worker says.

    Args:
        value: plain values, arrays, and what `heard` knows; anything else is an error.
        calls: gets the functions in it, which the guard may call back.
    """
    return pack({"value": _encoded(value, calls)})


def heard(content: bytes, call: Callable[[int], Callable[..., Any]]) -> Any:
    """Return what the worker has said, as far as it can be true.

    Args:
        content: of a frame; objects in it are made anew and hold plain values only.
        call: number of a function → what calls it in the worker.

    Raises:
        ReplyInvalid: where it is of no form that a worker has.
    """
    try:
        return _decoded(unpack(content)["value"], call)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
        raise ReplyInvalid(f"the worker's words have no form: {type(cause).__name__}") from None


def _encoded(value: Any, calls: list[Callable[..., Any]]) -> Any:
    if isinstance(value, Parts):
        return np.asarray(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$number": repr(value)}
    if value is None or isinstance(value, bool | int | float | str | np.ndarray):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": np.frombuffer(bytes(value), np.uint8)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Contract | Job):
        kind = "$contract" if isinstance(value, Contract) else "$job"
        return {kind: {"value": _encoded(value.to_json(), calls)}}
    if isinstance(value, Header):
        return {"$header": value.step_id}
    if isinstance(value, Asked):
        fields = [
            [
                each.name,
                sorted(map(str, each.disclosures)),
                str(each.rows),
                each.optional,
                each.held_out,
            ]
            for each in value.fields
        ]
        return {"$asked": [value.name, fields]}
    if isinstance(value, Charge):
        return {"$charge": _encoded(dataclasses.asdict(value), calls)}
    if isinstance(value, Mapping):
        return {"$map": {str(key): _encoded(each, calls) for key, each in value.items()}}
    if isinstance(value, list | tuple):
        return [_encoded(each, calls) for each in value]
    if hasattr(value, "columns") and hasattr(value, "to_dict"):
        columns = {str(name): value[name].tolist() for name in value.columns}
        return {"$frame": _encoded(columns, calls)}
    if callable(value):
        calls.append(value)
        return {"$call": len(calls) - 1}
    raise ValueError(f"a {type(value).__name__} does not pass")


def _decoded(value: Any, call: Callable[[int], Callable[..., Any]]) -> Any:
    if isinstance(value, list):
        return [_decoded(each, call) for each in value]
    if not isinstance(value, dict):
        return value
    ((mark, content),) = value.items()
    kind = mark.removeprefix("$")
    if kind not in _KINDS:
        raise ValueError(mark)
    if kind == "bytes":
        return np.asarray(content, np.uint8).tobytes()
    if kind == "number":
        return float(content)
    if kind == "call":
        return call(int(content))
    if kind == "header":
        return Named(str(content))
    if kind == "asked":
        return Asked(str(content[0]), tuple(_asked_field(*each) for each in content[1]))
    if kind == "contract":
        return Contract.from_json(_decoded(content["value"], call))
    if kind == "job":
        return Job.from_json(_decoded(content["value"], call))
    plain = {name: _decoded(each, call) for name, each in _decoded_map(content)}
    if kind == "charge":
        return Charge(**plain)
    if kind == "frame":
        import pandas as pd

        return pd.DataFrame(plain)
    return plain


def _asked_field(name: Any, classes: Any, rows: Any, optional: Any, held_out: Any) -> AskedField:
    return AskedField(
        str(name),
        frozenset(map(Disclosure, classes)),
        FromRows(rows),
        optional=bool(optional),
        held_out=bool(held_out),
    )


def _decoded_map(content: Any) -> Any:
    """Return the entries of a mapping, whether marked as one or not."""
    return (content["$map"] if set(content) == {"$map"} else content).items()


@dataclasses.dataclass(frozen=True)
class Named:
    """A request's header, of which the worker says no more than its step.

    Args:
        step_id: the step.
    """

    step_id: str
