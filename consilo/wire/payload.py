"""The wire format: a payload of plain values and arrays, packed into bytes without pickle.

A packed payload is one safetensors file whose metadata entry ``payload`` holds the plain values as
canonical JSON, with ``{"$array": i}`` where array ``i`` belongs. The same payload always packs into
the same bytes, so a hash of the bytes identifies it and a repeated step can answer the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.wire.buffers import Body, Pieces, Spool, sha256, whole
from consilo.wire.json_text import read_json

_MARK = "$array"
MAX_HEAD_BYTES = 1024 * 1024
"""Of the names, shapes and plain values of a payload; what is large travels as an array."""
_VIEW_BYTES = 64 * 1024
_SIZES = (1, 2, 4, 8)
_NOT_A_PAYLOAD = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
_KINDS = {
    "BOOL": np.dtype("bool"),
    **{f"{kind}{8 * size}": np.dtype(f"<{kind.lower()}{size}") for kind in "UI" for size in _SIZES},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in _SIZES[1:]},
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def pack(payload: Mapping[str, Any]) -> bytes:
    """Return ``payload`` as bytes.

    Args:
        payload: nested mappings (string keys) and lists of None, bool, int, float, str and numpy
            arrays of any shape with a dtype among bool, (u)int8..64 and float16..64.

    Raises:
        ValueError: for a value that cannot travel: another type, a float that is NaN or infinite
            outside an array, a key that is not a string; or where all but the arrays has more
            than `MAX_HEAD_BYTES`.

    >>> unpack(pack({"params": {"w": np.ones(2, np.float32)}, "round": 3}))
    {'params': {'w': array([1., 1.], dtype=float32)}, 'round': 3}
    """
    return bytes(pack_pieces(payload))


def pack_pieces(payload: Mapping[str, Any]) -> Pieces:
    """Return what `pack` returns without a copy of the arrays, which must not change meanwhile."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    plain = _strip(payload, arrays, "")
    head: dict[str, Any] = {"__metadata__": {"payload": canonical_json(plain).decode()}}
    end, parts = 0, []
    # The widest first, so that every array is aligned; safetensors does the same.
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, int(name))):
        value = arrays[name]
        span = [end, end := end + value.nbytes]
        head[name] = {"dtype": _NAMES[value.dtype], "shape": value.shape, "data_offsets": span}
        parts.append(value.reshape(-1).view(np.uint8))
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEAD_BYTES:
        raise ValueError(
            f"names, shapes and plain values of {len(text)} bytes cannot travel, at most "
            f"{MAX_HEAD_BYTES}; put what is large into arrays"
        )
    return Pieces(len(text).to_bytes(8, "little") + text, *parts)


def unpack(body: Body) -> dict[str, Any]:
    """Return the payload that `pack` made; the inverse, exactly.

    Large arrays are read-only views of ``body``; small ones are copies, so that one which is kept
    does not keep a large body.

    Raises:
        ReplyInvalid: where the bytes are not a packed payload.
    """
    try:
        buffer = whole(body)
        size = int.from_bytes(buffer[:8], "little")
        if not 2 <= size <= min(len(buffer) - 8, MAX_HEAD_BYTES):
            raise ValueError("the header's length does not fit")
        head = read_json(bytes(buffer[8 : 8 + size]), max_bytes=MAX_HEAD_BYTES)
        text = head.pop("__metadata__")["payload"].encode()
        plain = read_json(text, max_bytes=MAX_HEAD_BYTES)
        restored = _restore(plain, _arrays(head, buffer[8 + size :]))
        if not isinstance(restored, dict):
            raise ValueError("not a mapping")
    except _NOT_A_PAYLOAD as cause:
        raise ReplyInvalid(
            f"a body of {len(body)} bytes is not a packed payload ({type(cause).__name__}); "
            "both sides must run the same wire version"
        ) from None
    return restored


def _arrays(head: Mapping[str, Any], data: memoryview) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays that a head describes; together they must cover the data exactly."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    end = 0
    for name, entry in sorted(head.items(), key=lambda item: item[1]["data_offsets"]):
        kind, shape, (start, stop) = _KINDS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if any(type(each) is not int or each < 0 for each in (*shape, start, stop)):
            raise ValueError("a shape or an offset is no count")
        if start != end or stop - start != math.prod(shape) * kind.itemsize or stop > len(data):
            raise ValueError("the arrays do not cover the data")
        value = np.frombuffer(data[start:stop], kind).reshape(shape)
        found[name] = value if value.nbytes >= _VIEW_BYTES and value.flags.aligned else value.copy()
        end = stop
    if end != len(data):
        raise ValueError("there are data that belong to no array")
    return found


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def canonical_json(value: Any) -> bytes:
    """Return ``value`` as JSON with sorted keys and no blanks: equal values, equal bytes."""
    return _CANONICAL.encode(value).encode()


def digest(value: Any) -> str:
    """Return the SHA-256, in hexadecimal, of a value's canonical JSON or of bytes."""
    if isinstance(value, bytes | bytearray | memoryview | Pieces | Spool):
        return sha256(value)
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _strip(value: Any, arrays: dict[str, np.ndarray[Any, Any]], path: str) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise ValueError(f"{path}: an array of {value.dtype} cannot travel")
        name = str(len(arrays))
        little = value.dtype.newbyteorder("<")
        arrays[name] = np.ascontiguousarray(value, little).reshape(value.shape)
        return {_MARK: name}
    if isinstance(value, np.generic):
        return _strip(value.item(), arrays, path)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _MARK:
                raise ValueError(f"{path}: a key must be a string other than {_MARK!r}")
        # In the order of keys, because arrays are numbered as they come.
        return {key: _strip(value[key], arrays, f"{path}.{key}") for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_strip(item, arrays, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{path}: a number that is NaN or infinite cannot travel")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{path}: a {type(value).__name__} cannot travel")


def _restore(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_MARK}:
            return arrays[value[_MARK]]
        return {key: _restore(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item, arrays) for item in value]
    return value
