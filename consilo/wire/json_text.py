"""JSON of somebody else, measured before it is built.

A few bytes of JSON become many of memory (``[],`` are three, and sixty-four as an object), and a
deep one costs the parser's stack. So its items and its depth are counted first, over the bytes as
they are, in a time that grows with their number alone, whatever they say.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

MAX_DEPTH = 64
MAX_ITEMS = 100_000
"""Of one text: lists, mappings and what follows a comma, which with 1 MiB of text is under 30 MiB
of objects."""
_STRUCTURE = b'"[]{},'
_OTHERS = bytes(each for each in range(256) if each not in _STRUCTURE)


def read_json(
    text: bytes, *, max_bytes: int, max_items: int = MAX_ITEMS, max_depth: int = MAX_DEPTH
) -> Any:
    """Return what a JSON text says.

    Args:
        text: UTF-8.
        max_bytes: how long it may be.
        max_items: how many lists, mappings and commas it may have.
        max_depth: how deep lists and mappings may lie in each other.

    Raises:
        ValueError: where it is longer or deeper or has more items, is no JSON, says a key twice,
            or has a number that JSON does not know or a float does not hold.

    >>> read_json(b'{"a": [1, 2]}', max_bytes=100)
    {'a': [1, 2]}
    """
    if len(text) > max_bytes:
        raise ValueError(f"a text of {len(text)} bytes; {max_bytes} are read")
    openings = text.count(b"[") + text.count(b"{")
    if openings > max_depth or openings + text.count(b",") > max_items:
        _refuse_large(text, max_items, max_depth)
    return json.loads(
        text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=each_once
    )


def _refuse_large(text: bytes, max_items: int, max_depth: int) -> None:
    """Raise `ValueError` where a text is deeper or has more items; what strings hold is none."""
    signs = _structure(text)
    opens = (signs == ord("[")) | (signs == ord("{"))
    items = int(opens.sum()) + int((signs == ord(",")).sum())
    if items > max_items:
        raise ValueError(f"a text of {items} items; {max_items} are read")
    steps = opens.astype(np.int8) - ((signs == ord("]")) | (signs == ord("}")))
    depth = int(np.cumsum(steps, dtype=np.int32).max(initial=0))
    if depth > max_depth:
        raise ValueError(f"a text {depth} levels deep; {max_depth} are read")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's members; given to `json.loads`, which would keep the last of two.

    Raises:
        ValueError: where a key stands there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _structure(text: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return the brackets and commas of a JSON text that lie outside its strings, in order.

    A string that does not end reaches to the end of the text, as for the parser.
    """
    # Pairs of backslashes first: what escapes a quote afterwards is a single one.
    quoted = text.replace(rb"\\", b"").replace(rb"\"", b"")
    signs = np.frombuffer(quoted.translate(None, _OTHERS), np.uint8)
    quotes = signs == ord('"')
    outside = np.cumsum(quotes, dtype=np.int32) % 2 == 0
    return np.compress(outside & ~quotes, signs)


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError("a number is larger than any float")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
