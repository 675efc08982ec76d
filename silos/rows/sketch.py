"""A few keyed rows of a table, by which the same rows are known again, whatever they are called.

A *sketch* holds up to `SAMPLE` rows of a source, chosen by a keyed hash of the whole row (bottom-k,
Broder 1997, "On the resemblance and containment of documents"), and of each row an 8-byte keyed
hash (SipHash-2-4) for each column. Without the key nothing can be read from it. Rows are those of
the source, before any mapping: a contract cannot change what they are called.

Values are compared as numbers where they read as such (six digits of what is no whole number), else
as texts without blanks around them. Another order of rows or columns changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silos.rows.sources import Source, TypesChanged
from silos.rows.sources.blocks import to_frame

if TYPE_CHECKING:
    import pandas as pd

Hashes = NDArray[np.uint64]

SAMPLE = 4096
"""Rows of a sketch."""
SAME_SHARE = 0.1
"""Of the smaller one's rows: from here on two tables are the same data."""
TWINS = 0.05
"""Columns tell rows apart where fewer rows than this share have another one alike in them."""
_KEY = 16
_DIGITS = 5
_MOST_LEFT_OUT = 24
_MOST_PAIRS = 7
_HALVES = 16


@dataclass(frozen=True)
class Sketch:
    """Some rows of a table, hashed.

    Args:
        num_rows: of the table.
        names: keyed hashes of the columns' names, ascending.
        whole: of each row, a hash of all its values without the names; ascending.
        cells: of each row and column, shape (rows, columns).
    """

    num_rows: int
    names: Hashes
    whole: Hashes
    cells: Hashes

    def packed(self) -> bytes:
        """Return the sketch as bytes."""
        head = np.array([self.num_rows, len(self.names), len(self.whole)], np.uint64)
        parts = (head, self.names, self.whole, self.cells.ravel())
        return np.concatenate(parts).astype("<u8").tobytes()

    @classmethod
    def unpacked(cls, content: bytes) -> Sketch:
        """Return the sketch in ``content``."""
        values = np.frombuffer(content, "<u8").astype(np.uint64)
        num_rows, columns, rows = (int(each) for each in values[:3])
        names, whole, cells = np.split(values[3:], [columns, columns + rows])
        return cls(num_rows, names, whole, cells.reshape(rows, columns))

    def is_within(self, other: Sketch) -> bool:
        """Return whether each row of the sample is in another's sample, with the same columns."""
        same = np.array_equal(self.names, other.names)
        return bool(same and np.isin(self.whole, other.whole).all())


@dataclass
class _Search:
    """The rows of one sketch, looked for while a table is read.

    Args:
        known: what is looked for.
        shared: positions of the columns that both have: in the sketch, in the table.
        groups: columns that are looked at together, as positions in ``shared``.
        found: for each group, then for whole rows, which rows of the sketch were seen.
    """

    known: Sketch
    shared: tuple[NDArray[np.intp], NDArray[np.intp]]
    groups: list[NDArray[np.intp]] = field(init=False)
    found: list[NDArray[np.bool_]] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = _groups(len(self.shared[0]))
        rows = len(self.known.whole)
        self.found = [np.zeros(rows, dtype=bool) for _ in range(len(self.groups) + 1)]

    @classmethod
    def of(cls, known: Sketch, names: Hashes) -> _Search:
        _, mine, theirs = np.intersect1d(known.names, names, return_indices=True)
        return cls(known, (mine, theirs))

    def see(self, whole: Hashes, cells: Hashes) -> None:
        """Note which rows of the sketch are among these of the table."""
        mine, theirs = self.shared
        for place, group in enumerate(self.groups):
            wanted = _together(self.known.cells[:, mine[group]])
            self.found[place] |= np.isin(wanted, _together(cells[:, theirs[group]]))
        self.found[-1] |= np.isin(self.known.whole, whole)

    def verdict(self, own: Sketch) -> str:
        """Return why both are the same data: ``rows`` or ``unknown``; empty where they are not."""
        if not own.num_rows or not self.known.num_rows:
            return ""
        if self._is_same(self.found[-1], own):
            return "rows"
        mine, theirs = self.shared
        most = max(own.num_rows, self.known.num_rows)
        told = False
        for found, group in zip(self.found, self.groups, strict=False):
            alike = max(
                _alike(_together(self.known.cells[:, mine[group]])),
                _alike(_together(own.cells[:, theirs[group]])),
            )
            if alike * most > TWINS:
                continue
            told = True
            if self._is_same(found, own):
                return "rows"
        return "" if told or not len(mine) else "unknown"

    def _is_same(self, found: NDArray[np.bool_], own: Sketch) -> bool:
        if not found.any():
            return False
        common = self.known.num_rows * float(found.mean())
        return common >= SAME_SHARE * min(own.num_rows, self.known.num_rows)


def sketched(
    source: Source, key: bytes, known: Sequence[Sketch] = ()
) -> tuple[Sketch, tuple[str, ...]]:
    """Read a source once; return its sketch, and why it is the same data as each known one.

    Args:
        source: the rows.
        key: secret, the same for all sketches that are compared; 16 bytes or more.
        known: sketches of other data.

    Returns:
        The sketch; for each known one ``rows`` where enough rows are the same, ``unknown`` where
        the columns in common do not tell rows apart, empty where it is other data.

    Raises:
        SourceUnreadable: where the rows cannot be read.
    """
    types: dict[str, Any] = {}
    while True:
        try:
            return _sketched(source, key, known, types)
        except TypesChanged as changed:
            types = dict(changed.types)


def _sketched(
    source: Source, key: bytes, known: Sequence[Sketch], types: dict[str, Any]
) -> tuple[Sketch, tuple[str, ...]]:
    columns = source.columns()
    plain = np.array([name.strip().lower() for name in columns], dtype=object)
    names = _siphash(plain, key)
    order = np.argsort(names)
    names = names[order]
    searches = [_Search.of(each, names) for each in known]
    num_rows, whole = 0, np.zeros(0, np.uint64)
    cells = np.zeros((0, len(columns)), np.uint64)
    for frame in _frames(source, types):
        values = np.empty((len(frame), len(columns)), np.uint64)
        for place, at in enumerate(order):
            values[:, place] = _cells(frame.iloc[:, int(at)], key)
        rows, values = _together(values), _mixed(values ^ names)
        for each in searches:
            each.see(rows, values)
        num_rows += len(frame)
        whole, first = np.unique(np.concatenate([whole, rows]), return_index=True)
        whole, first = whole[:SAMPLE], first[:SAMPLE]
        cells = np.concatenate([cells, values])[first]
    own = Sketch(num_rows, names, whole, cells)
    return own, tuple(each.verdict(own) for each in searches)


def _frames(source: Source, types: dict[str, Any]) -> Iterator[pd.DataFrame]:
    for block in source.blocks(types=types):
        yield to_frame(block)


def _cells(series: pd.Series[Any], key: bytes) -> Hashes:
    """Return a keyed hash of each value, whatever its column is called."""
    import pandas as pd

    kind = series.dtype
    if pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        return _numbers(series.to_numpy(dtype=np.float64, na_value=np.nan), key)
    codes, distinct = pd.factorize(series)
    told = [_told(value) for value in distinct]
    # The last is for null, whose code is -1.
    hashes = np.append(
        _siphash(np.array(told, dtype=object), key) if told else np.zeros(0, np.uint64),
        _numbers(np.array([np.nan]), key),
    )
    picked: Hashes = hashes[codes]
    return picked


def _told(value: Any) -> bytes | str:
    text: str = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    text = text.removesuffix("T00:00:00")
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        if text:
            return text.lower()
        number = np.nan
    return bytes(_number_bytes(np.array([number]))[0])


def _numbers(values: NDArray[np.float64], key: bytes) -> Hashes:
    return _siphash(_number_bytes(values), key)


def _number_bytes(values: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return each number as bytes: whole ones as they are, others to six digits."""
    with np.errstate(all="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(values))) - _DIGITS)
        coarse = np.round(values / unit) * unit
    is_plain = (values == np.floor(values)) | ~np.isfinite(coarse)
    plain = np.where(is_plain, values, coarse) + 0.0
    plain = np.where(np.isfinite(plain), plain, np.nan).astype("<f8")
    return np.ascontiguousarray(plain).view("V8").astype(object)


def _siphash(values: NDArray[np.object_], key: bytes) -> Hashes:
    from pandas.util import hash_array

    word = key.hex()[:_KEY]
    return np.asarray(hash_array(values, hash_key=word, categorize=False), np.uint64)


def _mixed(values: Hashes) -> Hashes:
    """Return 64 bits that no sum of others comes near (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


def _together(values: Hashes) -> Hashes:
    """Return one hash of each row, whatever the order of its columns."""
    found: Hashes = _mixed(_mixed(values).sum(axis=1, dtype=np.uint64))
    return found


def _alike(rows: Hashes) -> float:
    """Return how probable it is that two rows of the sample are alike."""
    count = len(rows)
    if count < 2:
        return 0.0
    _, twins = np.unique(rows, return_counts=True)
    return float((twins * (twins - 1)).sum() / (count * (count - 1)))


def _groups(count: int) -> list[NDArray[np.intp]]:
    """Return which columns are looked at together.

    All; all but one or two, and halves: so columns that one side holds in another unit, or has
    rounded, hide nothing.
    """
    if not count:
        return []
    every = np.arange(count)
    groups = [every]
    if 2 <= count <= _MOST_LEFT_OUT:
        groups += [np.delete(every, each) for each in every]
    if 4 <= count <= _MOST_PAIRS:
        groups += [np.delete(every, pair) for pair in combinations(range(count), 2)]
    elif count > _MOST_PAIRS:
        draw = np.random.default_rng(count)  # any halves do; the same each time
        groups += [np.sort(draw.permutation(count)[: count // 2]) for _ in range(_HALVES)]
    return groups
