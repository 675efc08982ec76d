"""Long text files, cut where their rows end, so that several pieces are read at the same time.

Where a sign stands that can hide a line's end (a quote, an escape) nobody can cut who has not read
all that comes before it: from there on the text is one piece.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

_MARK = b"\xef\xbb\xbf"
_NARROW = ("ascii", "utf-8", "cp125", "iso8859", "mac-")
"""Begin Python's names of encodings in which every byte of ASCII is the letter that it is there."""
_TWICE = ("mac-arabic", "mac-farsi")
"""In these other bytes are quotes and separators too, for text from right to left."""


class Rest(io.RawIOBase):
    """What is left of a text that cannot be cut: bytes that were read already, then the file.

    Args:
        before: the bytes.
        file: open, behind these.
        is_first: whether the text begins with it.
    """

    def __init__(self, before: bytes, file: BinaryIO, *, is_first: bool) -> None:
        self._before = memoryview(before)
        self._file = file
        self.is_first = is_first

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, all for a negative one; none at the end."""
        if size < 0:
            found, self._before = self._before.tobytes() + self._file.read(), memoryview(b"")
            return found
        if not len(self._before):
            return self._file.read(size)
        found, self._before = self._before[:size].tobytes(), self._before[size:]
        # As much as is asked for: Arrow takes a short answer for a block, and refuses one in which
        # no row ends.
        return found + self._file.read(size - len(found)) if len(found) < size else found


def can_cut(encoding: str) -> bool:
    """Return whether line ends, quotes and separators can be found in the bytes of an encoding.

    >>> can_cut("Windows-1252"), can_cut("utf-16")
    (True, False)
    """
    name = codecs.lookup(encoding).name
    return name.startswith(_NARROW) and name not in ("utf-8-sig", *_TWICE)


@dataclass(frozen=True)
class Piece:
    """A part of a text that ends where a row does.

    Args:
        text: whose first ``size`` bytes are its text.
        size: at least one byte.
        is_first: whether the whole text begins with it.
    """

    text: bytearray
    size: int
    is_first: bool

    def parts(self, part_bytes: int) -> Iterator[bytes | memoryview]:
        """Yield its text in parts of some bytes that end where rows do; they are not copied."""
        start, whole = 0, memoryview(self.text)
        while start < self.size:
            end = min(start + part_bytes, self.size)
            if end < self.size:
                after = self.text.rfind(b"\n", start, end) + 1
                end = after or self.text.find(b"\n", end, self.size) + 1 or self.size
            yield _between(whole[start:end], self.is_first and not start)
            start = end


class Pieces:
    """The text of a file in pieces that end where a row does; then maybe a `rest`.

    The memory of a piece that was given to `take_back` holds a later one: fresh memory costs more
    than to read into it.

    Args:
        file: open, in an encoding that `can_cut`.
        signs: that may hide a line's end.
        piece_bytes: of a piece; a row of more is left to the rest.
    """

    def __init__(self, file: Any, signs: Sequence[bytes], *, piece_bytes: int) -> None:
        self._file = file
        self._signs = signs
        self._piece_bytes = piece_bytes
        self.rest: Rest | None = None
        self._free: list[bytearray] = []

    def take_back(self, piece: Piece) -> None:
        """Take the memory of a piece that nobody looks at any more; from any thread."""
        self._free.append(piece.text)

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces; afterwards `rest` says what is left."""
        before, is_first = bytearray(), True
        while True:
            known, text = len(before), self._memory(len(before) + self._piece_bytes)
            with memoryview(text) as whole:
                whole[:known] = before
                size = known + self._file.readinto(whole[known : known + self._piece_bytes])
            if size == known:
                break
            end = text.rfind(b"\n", known, size) + 1
            if not end or any(text.find(sign, known, size) >= 0 for sign in self._signs):
                with memoryview(text) as whole:
                    start = bytes(_between(whole[:size], is_first))
                self.rest = Rest(start, self._file, is_first=is_first)
                return
            before = text[end:size]
            yield Piece(text, end, is_first)
            is_first = False
        if before:
            yield Piece(before, len(before), is_first)

    def _memory(self, size: int) -> bytearray:
        """Return at least so many bytes, of a piece that was taken back where there is one."""
        text = self._free.pop() if self._free else bytearray()
        return text if len(text) >= size else bytearray(size + size // 8)


def _between(text: memoryview, is_first: bool) -> bytes | memoryview:
    # Readers take a mark away where a text begins; between rows it is part of a cell.
    return b"\n" + text if not is_first and text[: len(_MARK)] == _MARK else text
