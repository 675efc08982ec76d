"""Columns of consents and subjects, read as Arrow: names as text, moments as seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from silos.rows.sources import Source
from silos.rows.sources.blocks import stacked

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Moments = np.ndarray[Any, np.dtype[np.float64]]
"""Seconds since 1970, UTC."""


def read_columns(source: Source, columns: Sequence[str]) -> pa.Table:
    """Return columns of a table, text as written."""
    return stacked(list(source.blocks(columns, text=columns)))


def sorted_where(subjects: pa.Array, there: NDArray[np.bool_]) -> pa.Array:
    """Return the texts that are marked, sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = subjects.filter(pa.array(there))
    return texts.take(pc.sort_indices(texts))


def content(names: pa.Array) -> Iterator[bytes]:
    """Yield the bytes of an array of texts, with their lengths: unlike for unlike arrays."""
    import pyarrow.compute as pc

    yield pc.binary_length(names).to_numpy(zero_copy_only=False).astype("<i8").tobytes()
    yield "".join(names.to_pylist()).encode()


def keys_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts without blanks at the ends; null where there is nothing.

    1 and "1" are one subject, "1" and "01" are two.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        # A column of whole numbers with gaps comes as floats.
        whole = pc.equal(column, pc.round(column))
        column = pc.if_else(
            whole,
            pc.cast(pc.cast(pc.if_else(whole, column, 0), pa.int64(), safe=False), pa.string()),
            pc.cast(column, pa.string()),
        )
    texts = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def moments_of(
    column: pa.ChunkedArray, date_format: str | None, empty: float, unreadable: float
) -> Moments:
    """Return a column of times, dates or texts as moments.

    Args:
        column: the column.
        date_format: of texts; None for ISO 8601.
        empty: what an empty cell stands for.
        unreadable: what a text stands for that is no date.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        zone = getattr(column.type, "tz", None)
        wanted = pa.timestamp("us", "UTC" if zone else None)
        micros = pc.cast(pc.cast(column, wanted), pa.int64())
        values = pc.cast(micros, pa.float64(), safe=False).to_numpy(zero_copy_only=False) / 1e6
        return np.where(column.is_null().to_numpy(zero_copy_only=False), empty, values)
    texts = pa.concat_arrays([*keys_of(column).chunks, pa.array([], pa.string())])
    coded = texts.dictionary_encode()
    # Each distinct text is read once: there are fewer days than subjects.
    read = pd.to_datetime(
        pd.Series(coded.dictionary.to_pylist(), dtype=object),
        format=date_format or "ISO8601",
        errors="coerce",
        utc=True,
    )
    seconds = ((read - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(dtype=float)
    known = np.append(np.where(np.isnan(seconds), unreadable, seconds), empty)
    at: NDArray[np.int64] = coded.indices.fill_null(len(known) - 1).to_numpy().astype(np.int64)
    return known[at]
