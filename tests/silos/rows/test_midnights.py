"""A day that was kept as its first moment in some zone is that day, and not the evening before."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from silos.rows.mapping import Mapping
from silos.rows.sources import parse_source
from silos.rows.standardise import standardise

COLUMNS = {"born": {"type": "date", "nullable_share": 1}}
TABLE = Contract.parse({"name": "t", "version": 1, "columns": COLUMNS}, where="t")
BERLIN = {"zone": "Europe/Berlin"}
OFFSET = {"date_format": "%d.%m.%Y %H:%M %z"}


def read(cells: pd.Series, how: dict, folder: Path) -> list[str]:
    pd.DataFrame({"born": cells}).to_parquet(folder / "t.parquet")
    source = parse_source({"type": "parquet", "path": str(folder / "t.parquet")}, where="s")
    mapping = Mapping.parse({"contract": "t@1", "columns": {"born": how}}, TABLE, where="m")
    (folder / "spool").mkdir(exist_ok=True)
    made, lost = standardise(source, mapping, TABLE, folder / "spool")
    assert lost == {}
    return [str(each) for each in made["born"].to_pylist()]


def zoned(*moments: str) -> pd.Series:
    return pd.Series(pd.DatetimeIndex(moments).tz_localize("Europe/Berlin"))


DAYS = ["1990-05-01 00:00:00", "1990-12-24 00:00:00"]
CASES = [
    (pd.Series(["1990-05-01T00:00+02:00", "1990-12-24T00:00:00.0 +0100"]), {}, DAYS),
    (pd.Series(["19900501T000000Z", "1990-12-24"]), {}, DAYS),
    (pd.Series(["1990-05-01 00:00:00", "1990-12-24"]), BERLIN, DAYS),
    (pd.Series(["01.05.1990 00:00 +0200", "24.12.1990 00:00 +0100"]), OFFSET, DAYS),
    (pd.Series(["01.05.1990 00:00", "24.12.1990 00:00"]),
     {"date_format": "%d.%m.%Y %H:%M", **BERLIN}, DAYS),
    (zoned(*DAYS), {}, DAYS),
    (pd.Series(pd.DatetimeIndex(DAYS)), BERLIN, DAYS),
    (pd.Series(pd.DatetimeIndex(["2010-04-30", "1990-12-24"])), {"zone": "Africa/Cairo"},
     ["2010-04-30 00:00:00", DAYS[1]]),  # no such midnight there
    # One time of day among them, and all are moments.
    (pd.Series(["1990-05-01T00:00+02:00", "1990-12-24T00:30+01:00"]), {},
     ["1990-04-30 22:00:00", "1990-12-23 23:30:00"]),
    (pd.Series(["1990-05-01 00:00:00", "1990-12-24T08:00"]), BERLIN,
     ["1990-04-30 22:00:00", "1990-12-24 07:00:00"]),
    (pd.Series(["01.05.1990 00:00 +0200", "24.12.1990 08:00 +0100"]), OFFSET,
     ["1990-04-30 22:00:00", "1990-12-24 07:00:00"]),
    (zoned("1990-05-01", "1990-12-24 08:00"), {}, ["1990-04-30 22:00:00", "1990-12-24 07:00:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "how", "expected"), CASES)
@pytest.mark.parametrize("block", [1, 1000])
def test_midnights_are_days_where_the_column_has_nothing_else(
    tmp_path, monkeypatch, cells, how, expected, block
):
    """What a later block shows holds for the earlier ones too."""
    from silos.rows.sources import blocks

    monkeypatch.setattr(blocks, "BLOCK_ROWS", block)
    assert read(cells, how, tmp_path) == expected
    assert read(cells[::-1], how, tmp_path) == expected[::-1]
