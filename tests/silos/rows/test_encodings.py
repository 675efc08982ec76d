"""Text in another encoding is read, or the option that reads it is named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from consilo.errors import SourceUnreadable
from silos.rows.sources import parse_source
from silos.rows.sources.found_out import completed

FRAME = pd.DataFrame({"name": ["Jürgen", "Zoë", "x"], "a": [1, 2, 3], "b": [1.5, 2.0, 3.0]})
WIDE = {"utf-16": "utf-16", "utf-32": "utf-32", "utf-16-le": "utf-16-le", "utf-16-be": "utf-16-be"}


def read(path: Path, **options) -> pd.DataFrame:
    return parse_source({"type": "csv", "path": str(path), **options}, where="s").read()


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
@pytest.mark.parametrize("encoding", WIDE)
def test_the_option_is_named_and_reads_the_file(tmp_path, encoding, ending):
    """It said that a line has 1 fields where 5 are expected."""
    path = tmp_path / f"t{ending}"
    FRAME.to_csv(path, index=False, encoding=encoding)
    for given in ({}, {"encoding": "latin-1"}):
        with pytest.raises(SourceUnreadable, match=f"set encoding: {WIDE[encoding]}$"):
            read(path, **given)
    pd.testing.assert_frame_equal(read(path, encoding=encoding), FRAME, check_dtype=False)


def test_bytes_that_are_no_utf8_name_what_may_read_them(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv", index=False, encoding="cp1252")
    with pytest.raises(SourceUnreadable, match=r"encoding: cp1252 \(Windows\)"):
        read(tmp_path / "t.csv")


def test_a_zero_byte_is_no_part_of_a_code(tmp_path):
    """The contract's rule 'allowed' told of it, with a code that looked allowed."""
    (tmp_path / "t.csv").write_bytes(b"k,y\n" + b"a,1\n" * 5000 + b"a\0,1\n")
    with pytest.raises(SourceUnreadable, match="column 'k' has zero bytes in it; if the file"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("encoding", "text", "found"),
    [
        ("utf-8", "n\nü\n", None), ("utf-8-sig", "n\nü\n", None), ("latin-1", "n\nü\n", "latin-1"),
        ("cp1252", "n\n5 €\n", "cp1252"), ("utf-16", "n\nü\n", "utf-16"),
        ("utf-16-le", "name\nü\n", "utf-16-le"),
    ],
)  # fmt: skip
def test_a_proposal_finds_the_encoding_out(tmp_path, encoding, text, found):
    (tmp_path / "t.csv").write_text(text, encoding=encoding)
    made, _ = completed({"type": "csv", "path": "t.csv"}, tmp_path)
    assert made.get("encoding") == found
