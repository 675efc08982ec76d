"""Tables of other shapes for `data_path.py`: one of very many columns, and many of few rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from consilo.contracts.contract import Contract
from consilo.garbage import collect_seldom

WIDE_ROWS = 400
SMALL_ROWS = 50


def contract_of(names: Sequence[str]) -> Contract:
    """Return a contract of numbers, each with a range, a typical median and some gaps."""
    column = {
        "type": "float",
        "range": {"min": 0, "max": 1},
        "typical": {"min": 0.2, "max": 0.8},
        "nullable_share": 0.2,
    }
    columns: dict[str, Any] = dict.fromkeys(names, column)
    columns["label"] = {"type": "integer", "allowed": [0, 1], "role": "target"}
    return Contract.model_validate({"name": "shapes", "version": 1, "columns": columns})


def named(num_columns: int) -> list[str]:
    """Return the names of that many columns."""
    return [f"measure_{place:04d}" for place in range(num_columns)]


def frame_of(names: Sequence[str], num_rows: int, seed: int) -> pd.DataFrame:
    """Return rows that keep `contract_of`: every twentieth number is not there."""
    rng = np.random.default_rng(seed)
    values = rng.random((num_rows, len(names))).round(4)
    values[rng.random(values.shape) < 0.05] = np.nan
    frame = pd.DataFrame(values, columns=list(names))
    return frame.assign(label=rng.integers(0, 2, num_rows))


def wide(folder: Path, *, num_columns: int) -> dict[str, float]:
    """Measure one CSV file of many columns: the whole path, and the check alone."""
    return _built(folder, num_columns, num_rows=WIDE_ROWS, num_silos=1)


def small(folder: Path, *, num_silos: int) -> dict[str, float]:
    """Measure many silos, one after the other: each a CSV file of few rows, and a cache."""
    return _built(folder, 20, num_rows=SMALL_ROWS, num_silos=num_silos)


def _built(folder: Path, num_columns: int, *, num_rows: int, num_silos: int) -> dict[str, float]:
    from silos.rows import check
    from silos.rows.cache import CanonicalCache
    from silos.rows.mapping import Mapping
    from silos.rows.memory import available_bytes
    from silos.rows.sources import CsvSource

    collect_seldom()  # as programs of ours do
    names = named(num_columns)
    agreed = contract_of(names)
    mapping = Mapping.parse({"contract": agreed.ref}, agreed, where="mapping")
    paths = [folder / f"silo-{place}.csv" for place in range(num_silos)]
    folder.mkdir(exist_ok=True)
    frames = [frame_of(names, num_rows, place) for place in range(num_silos)]
    for path, frame in zip(paths, frames, strict=True):
        frame.to_csv(path, index=False)
    first = contract_of(names[:1])
    check.check(frames[0][[*names[:1], "label"]], first, now=datetime.now(UTC))  # what is imported
    available_bytes()
    started, cpu_started = time.perf_counter(), time.process_time()
    for path in paths:
        cache = CanonicalCache(path.with_suffix(".cache"))
        key = cache.ensure(CsvSource(path=(path,)), mapping, agreed)
        if not cache.report(key).passed:
            raise RuntimeError(cache.report(key).reason())
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    frame = cache.frame(key)
    check_started = time.process_time()
    check.check(frame, agreed, now=datetime.now(UTC))
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "check_cpu_s": time.process_time() - check_started,
    }


def plain_check(*, num_columns: int) -> dict[str, float]:
    """Measure Great Expectations by its own guide: the same rules on a table in memory."""
    import great_expectations as gx
    from great_expectations import expectations as gxe

    names = named(num_columns)
    frame = frame_of(names, WIDE_ROWS, 0)
    rules: list[Any] = []
    for name in names:
        rules += [
            gxe.ExpectColumnToExist(column=name),
            gxe.ExpectColumnValuesToBeOfType(column=name, type_="float64"),
            gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=0.8),
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=0, max_value=1),
            gxe.ExpectColumnMedianToBeBetween(column=name, min_value=0.2, max_value=0.8),
        ]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("silo").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    batch.validate(gx.ExpectationSuite(name="one", expectations=rules[:5]))
    started = time.process_time()
    if not batch.validate(gx.ExpectationSuite(name="rules", expectations=rules)).success:
        raise RuntimeError("the plain check failed")
    return {"cpu_s": time.process_time() - started}
