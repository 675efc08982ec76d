"""A silo's data path: a CSV file, mapped, checked against its contract, cached, and read again.

A table of 30 columns (28 features, half of them in another unit than the contract's, an id and a
target). Beside it, in the same run, what a person would write by hand: pandas and Great
Expectations with the same rules. Each runs in a process of its own, so that memory is its own.

    rows_per_s               rows a second from the file to a checked, cached table
    cpu_s                    CPU-seconds of it
    second_read_ms           what every later round pays
    memory_in_tables         growth of peak memory, in canonical tables
    in_blocks_rows_per_s, in_blocks_cpu_s, in_blocks_own_memory_mib
                             the same where the check may not hold the table: counted block by
                             block; memory is the process's own, without what it maps from files
    postgres_rows_per_s, postgres_cpu_s
                             the same from a PostgreSQL table on this machine, in place of the file
    plain_rows_per_s, plain_memory_in_tables
                             pandas and Great Expectations
    rows_per_s_vs_plain, memory_vs_plain
                             ours over theirs, and theirs over ours
    wide_s, wide_cpu_s, wide_check_cpu_s
                             a table of 3,072 columns and 400 rows: the same path, its check alone
    wide_check_vs_plain      CPU a column of Great Expectations by its own guide, over ours
    small_silos_per_s, small_silo_cpu_ms
                             many silos of 50 rows and 21 columns, one after the other
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from data_shapes import plain_check, small, wide
from report import Report, load_now, options, say, sized
from trees import peak_bytes, reset_peak

from consilo.contracts.contract import Contract
from consilo.garbage import collect_seldom
from consilo.machine.environment import quieten

VERSION = "SELECT pg_relation_filenode('measures')"
FEATURES = tuple(f"measure_{place:02d}" for place in range(28))
_LOW, _HIGH = 0.0, 1000.0
_SETTLED_S = 2.1


def contract() -> Contract:
    """Return the contract: lengths in millimetres within a range, an id, a target."""
    column = {"type": "float", "unit": "mm", "range": {"min": _LOW, "max": _HIGH}}
    columns: dict[str, Any] = {"row_id": {"type": "integer", "role": "id"}}
    columns |= {name: column for name in FEATURES}
    columns["label"] = {"type": "integer", "allowed": [0, 1], "role": "target"}
    return Contract.model_validate({"name": "data_path", "version": 1, "columns": columns})


def write_csv(path: Path, num_rows: int) -> None:
    """Write the silo's file; every other feature is in centimetres."""
    rng = np.random.default_rng(0)
    for start in range(0, num_rows, 100_000):
        size = min(100_000, num_rows - start)
        frame = pd.DataFrame({"row_id": np.arange(start, start + size)})
        for place, name in enumerate(FEATURES):
            top = _HIGH / 10 if place % 2 else _HIGH
            frame[name] = (rng.random(size) * top).round(4)
        frame["label"] = rng.integers(0, 2, size)
        frame.to_csv(path, mode="a", header=start == 0, index=False)


def consilo_path(path: Path, folder: Path, **how: Any) -> dict[str, float]:
    """Measure ours.

    Args:
        path: the CSV file.
        folder: for the cache.
        how: ``url`` for a PostgreSQL table in place of the file; ``memory_bytes`` of the cache.
    """
    from silos.rows import check
    from silos.rows.cache import CanonicalCache
    from silos.rows.mapping import Mapping
    from silos.rows.memory import available_bytes
    from silos.rows.sources import CsvSource, Source, SqlSource

    collect_seldom()  # as programs of ours do
    agreed = contract()
    columns = {name: {"unit": "cm"} for place, name in enumerate(FEATURES) if place % 2}
    mapping = Mapping.parse({"contract": agreed.ref, "columns": columns}, agreed, where="mapping")
    source: Source = CsvSource(path=(path,))
    if "url" in how:
        source = SqlSource(
            url=how["url"],
            table="measures",
            password_env="PGPASSWORD",
            version_query=VERSION,
        )
    cache = CanonicalCache(folder / "cache", memory_bytes=how.get("memory_bytes"))
    check.check(_few(), agreed, now=datetime.now(UTC))  # imports what a first use imports
    available_bytes()
    # A silo's file was not written a moment ago; one that was is hashed again after the reading.
    time.sleep(max(0.0, _SETTLED_S - (time.time() - path.stat().st_mtime)))
    before, own_before = reset_peak(), _own_bytes()
    started, cpu_started = time.perf_counter(), time.process_time()
    with _own_peak() as own_peak:
        key = cache.ensure(source, mapping, agreed)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    grown = peak_bytes() - before
    if not cache.report(key).passed:
        raise RuntimeError(cache.report(key).reason())
    table_bytes = int(cache.frame(key).memory_usage(deep=True).sum())
    cache.frame(cache.key(source, mapping, agreed, now=datetime.now(UTC)))
    reads = []
    for _ in range(5):
        started = time.perf_counter()
        again = cache.frame(cache.key(source, mapping, agreed, now=datetime.now(UTC)))
        float(again[FEATURES[0]].to_numpy()[-1])
        reads.append(time.perf_counter() - started)
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "second_read_ms": 1000 * median(reads),
        "memory_in_tables": grown / table_bytes,
        "own_memory_mib": (max(own_peak) - own_before) / 2**20,
    }


def _own_bytes() -> int:
    with open("/proc/self/status") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))


@contextlib.contextmanager
def _own_peak() -> Iterator[list[int]]:
    """Look at this process's own memory every 10 ms."""
    seen, done = [_own_bytes()], threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            seen.append(_own_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        done.set()
        looking.join()


@contextlib.contextmanager
def postgres(path: Path) -> Iterator[str | None]:
    """Give the URL of a PostgreSQL server that holds the file's rows; None where none can run."""
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
    import postgres_server

    if postgres_server.programs() is None:
        yield None
        return
    with postgres_server.running() as server:
        fields = ", ".join(f"{name} double precision" for name in FEATURES)
        with server.connect() as connection, path.open("rb") as file:
            connection.execute(f"CREATE TABLE measures (row_id bigint, {fields}, label smallint)")
            into = "COPY measures FROM STDIN (FORMAT csv, HEADER)"
            with connection.cursor().copy(into) as rows:
                while block := file.read(1 << 20):
                    rows.write(block)
            connection.execute("ANALYZE measures")
        os.environ["PGPASSWORD"] = server.password
        yield server.url


def plain_path(path: Path, folder: Path) -> dict[str, float]:
    """Measure pandas and Great Expectations, used as their guides say."""
    import great_expectations as gx
    from great_expectations import expectations as gxe

    rules: list[Any] = [gxe.ExpectColumnValuesToNotBeNull(column="row_id")]
    for name in FEATURES:
        rules.append(gxe.ExpectColumnValuesToNotBeNull(column=name))
        rules.append(
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=_LOW, max_value=_HIGH)
        )
    rules.append(gxe.ExpectColumnValuesToNotBeNull(column="label"))
    rules.append(gxe.ExpectColumnValuesToBeInSet(column="label", value_set=[0, 1]))

    def validate(frame: pd.DataFrame) -> bool:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("silo").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        return bool(batch.validate(gx.ExpectationSuite(name="rules", expectations=rules)).success)

    validate(_few())
    before = reset_peak()
    started = time.perf_counter()
    frame = pd.read_csv(path)
    for place, name in enumerate(FEATURES):
        if place % 2:
            frame[name] = frame[name] * 10
    passed = validate(frame)
    frame.to_parquet(folder / "plain.parquet")
    seconds = time.perf_counter() - started
    grown = peak_bytes() - before
    if not passed:
        raise RuntimeError("the plain check failed")
    return {"seconds": seconds, "memory_in_tables": grown / int(frame.memory_usage().sum())}


def _few() -> pd.DataFrame:
    frame = pd.DataFrame({"row_id": [1, 2]})
    for name in FEATURES:
        frame[name] = [1.0, 2.0]
    return frame.assign(label=[0, 1])


def _here(target: Callable[..., dict[str, float]], *places: Path, **how: Any) -> dict[str, float]:
    return target(*places, **how)


def _in_process(
    target: Callable[..., dict[str, float]], *places: Path, **how: Any
) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(target, *places, **how).result()


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, help="rows of the table; default 1,000,000")
    chosen = parser.parse_args()
    load = load_now()
    quieten()
    num_rows = chosen.rows or sized(chosen, full=1_000_000, quick=50_000, smoke=2_000)
    # A process of its own would import everything again, which is most of a smoke run.
    apart = sized(chosen, full=_in_process, quick=_in_process, smoke=_here)
    with tempfile.TemporaryDirectory(prefix="consilo-data-") as folder:
        path = Path(folder) / "rows.csv"
        write_csv(path, num_rows)
        say(f"{num_rows:,} rows, {path.stat().st_size / 2**20:.0f} MiB of CSV")
        mine = apart(consilo_path, path, Path(folder))
        say(f"consilo: {mine['seconds']:.1f} s")
        blocks = apart(consilo_path, path, Path(folder) / "blocks", memory_bytes=1 << 26)
        say(f"consilo, in blocks: {blocks['seconds']:.1f} s")
        figures, left_out = {}, {}
        with postgres(path) as url:
            if url is None:
                why = "no PostgreSQL server is installed"
                left_out = dict.fromkeys(("postgres_rows_per_s", "postgres_cpu_s"), why)
            else:
                found = apart(consilo_path, path, Path(folder) / "postgres", url=url)
                say(f"consilo, from PostgreSQL: {found['seconds']:.1f} s")
                figures["postgres_rows_per_s"] = num_rows / found["seconds"]
                figures["postgres_cpu_s"] = found["cpu_s"]
        plain = apart(plain_path, path, Path(folder))
        say(f"pandas and Great Expectations: {plain['seconds']:.1f} s")
        columns = sized(chosen, full=3_072, quick=1_024, smoke=64)
        of_wide = apart(wide, Path(folder) / "wide", num_columns=columns)
        say(f"{columns:,} columns: {of_wide['seconds']:.1f} s")
        few = sized(chosen, full=96, quick=96, smoke=8)
        of_plain = apart(plain_check, num_columns=few)
        silos = sized(chosen, full=200, quick=50, smoke=3)
        of_small = apart(small, Path(folder) / "small", num_silos=silos)
        say(f"{silos} small silos: {of_small['seconds']:.1f} s")
    figures |= {
        "wide_s": of_wide["seconds"],
        "wide_cpu_s": of_wide["cpu_s"],
        "wide_check_cpu_s": of_wide["check_cpu_s"],
        "small_silos_per_s": silos / of_small["seconds"],
        "small_silo_cpu_ms": 1000 * of_small["cpu_s"] / silos,
        "rows_per_s": num_rows / mine["seconds"],
        "cpu_s": mine["cpu_s"],
        "in_blocks_rows_per_s": num_rows / blocks["seconds"],
        "in_blocks_cpu_s": blocks["cpu_s"],
        "in_blocks_own_memory_mib": blocks["own_memory_mib"],
        "second_read_ms": mine["second_read_ms"],
        "memory_in_tables": mine["memory_in_tables"],
        "plain_rows_per_s": num_rows / plain["seconds"],
        "plain_memory_in_tables": plain["memory_in_tables"],
    }
    ratios = {
        "rows_per_s_vs_plain": plain["seconds"] / mine["seconds"],
        "memory_vs_plain": plain["memory_in_tables"] / mine["memory_in_tables"],
        "wide_check_vs_plain": of_plain["cpu_s"] / few / (of_wide["check_cpu_s"] / columns),
    }
    Report("data_path", chosen.size, load, figures, ratios, left_out).show(as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
