"""Bodies that are not one ``bytes`` object: a large model is neither joined nor copied to travel.

Whoever sends a body, hashes it or writes it down walks over `buffers_of` it. Whoever reads one
(`consilo.wire.payload.unpack`) gets arrays that are read-only views of it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from typing import Any, Self, TypeAlias

Body: TypeAlias = "bytes | bytearray | memoryview | Pieces | Spool"

_BLOCK_BYTES = 1024 * 1024


class Pieces:
    """A body that lies in several places: a head of its own, then the arrays where they are.

    What it consists of must not change while it is used. A pickled one is ``bytes`` on the other
    side.

    Args:
        parts: contiguous buffers, in order.
    """

    def __init__(self, *parts: Any) -> None:
        self._parts = tuple(memoryview(part).cast("B") for part in parts if memoryview(part).nbytes)
        self._size = sum(part.nbytes for part in self._parts)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self._parts)

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)

    def __eq__(self, other: object) -> bool:
        return bytes(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return bytes, (bytes(self),)


class Spool:
    """A body in an anonymous file, which another process can be handed without a copy."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def make(cls) -> Self:
        """Return an empty one."""
        return cls(os.memfd_create("body"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return its file descriptor."""
        return self._descriptor

    def __len__(self) -> int:
        return os.fstat(self._descriptor).st_size

    def write(self, body: Body) -> None:
        """Append a body."""
        for part in buffers_of(body):
            rest = part
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def view(self) -> memoryview:
        """Return its content, mapped."""
        size = len(self)
        if size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ))

    def __iter__(self) -> Iterator[memoryview]:
        # Read and not mapped: pages that are mapped count as memory of whoever only passes them on.
        at, size = 0, len(self)
        while at < size:
            block = os.pread(self._descriptor, _BLOCK_BYTES, at)
            at += len(block)
            yield memoryview(block)

    def __bytes__(self) -> bytes:
        return bytes(self.view())

    def __eq__(self, other: object) -> bool:
        return bytes(self) == other

    __hash__ = None  # type: ignore[assignment]

    def close(self) -> None:
        """Let go of the file; views of it stay."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def buffers_of(body: Body) -> Iterator[memoryview]:
    """Return the buffers that a body consists of, in order."""
    if isinstance(body, Pieces | Spool):
        return iter(body)
    return iter((memoryview(body).cast("B"),))


def whole(body: Body) -> memoryview:
    """Return a body as one read-only buffer; pieces are joined, anything else is not copied."""
    if isinstance(body, Spool):
        return body.view()
    if isinstance(body, Pieces):
        return memoryview(bytes(body))
    return memoryview(body).toreadonly().cast("B")


def sha256(body: Body) -> str:
    """Return a body's SHA-256 in hexadecimal."""
    state = hashlib.sha256()
    for part in buffers_of(body):
        state.update(part)
    return state.hexdigest()
