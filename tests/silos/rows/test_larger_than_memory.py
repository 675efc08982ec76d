"""A table four times larger than the memory that a silo has goes through its whole data path."""

import json
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import json, resource, sys
    from datetime import UTC, datetime
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from consilo.contracts.contract import Contract
    from silos.rows.cache import CanonicalCache
    from silos.rows.mapping import Mapping
    from silos.rows.sources import ParquetSource

    folder, limit_mib, num_rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    names = [f"x{place}" for place in range(20)]
    length = {"type": "float", "unit": "mm", "range": {"min": 0, "max": 10}}
    columns = dict.fromkeys(names, length)
    columns["id"] = {"type": "integer", "role": "id"}
    rules = {"unique": [{"columns": ["id"], "severity": "warning"}]}
    contract = Contract.parse(
        {"name": "big", "version": 1, "columns": columns, "rules": rules}, where="c"
    )
    in_cm = {"contract": "big@1", "columns": dict.fromkeys(names, {"unit": "cm"})}
    mapping = Mapping.parse(in_cm, contract, where="m")

    def write(path, size):
        rng = np.random.default_rng(0)
        fields = [(name, pa.float64()) for name in names] + [("id", pa.int64())]
        with pq.ParquetWriter(path, pa.schema(fields)) as writer:
            for start in range(0, size, 50_000):
                values = {name: rng.random(50_000) for name in names}
                values["id"] = np.arange(start, start + 50_000)
                if start:
                    values["id"][0] = 7  # a key that each block but the first repeats
                writer.write_table(pa.table(values))

    def data_bytes():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))

    write(folder / "small.parquet", 100_000)
    write(folder / "large.parquet", num_rows)
    now = datetime(2026, 5, 1, tzinfo=UTC)
    cache = CanonicalCache(folder / "cache", memory_bytes=limit_mib << 20)
    # Once with a small table: what is imported and started stays, and is not the table's.
    tight = CanonicalCache(folder / "tight", memory_bytes=0)
    tight.ensure(ParquetSource(path=folder / "small.parquet"), mapping, contract, now=now)
    source = ParquetSource(path=folder / "large.parquet")
    limit = data_bytes() + (limit_mib << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    key = cache.ensure(source, mapping, contract, now=now)
    sums = sum(float(block["x0"].sum()) for block in cache.blocks(key))
    rows = sum(len(block) for block in cache.blocks(key))
    told = cache.evaluated(key)
    try:
        source.read()
        fits = True
    except Exception:
        fits = False
    print(json.dumps({
        "fits": fits,
        "rows": rows,
        "mean": sums / rows,
        "table_mib": (folder / "cache" / key / "table.arrow").stat().st_size >> 20,
        "warnings": [[each.rule, each.column] for each in cache.report(key).warnings],
        "failed": [each.failed for each in told if each.rule == "unique"],
        "files": sorted(place.name for place in (folder / "cache" / key).iterdir()),
    }))
"""


@pytest.mark.parametrize(
    ("limit_mib", "num_rows"),
    [(128, 3_400_000), pytest.param(512, 13_000_000, marks=pytest.mark.slow)],
)
def test_four_times_the_memory_goes_through(tmp_path, limit_mib, num_rows):
    arguments = [str(tmp_path), str(limit_mib), str(num_rows)]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert not found["fits"], "the kernel holds no limit: this test shows nothing"
    assert found["table_mib"] >= 4 * limit_mib
    assert found["rows"] == num_rows
    assert found["mean"] == pytest.approx(5.0, abs=0.01)
    assert found["warnings"] == [["unique", "id"]]
    assert found["failed"] == [num_rows // 50_000]
    assert found["files"] == ["entry.json", "report.json", "table.arrow"]
