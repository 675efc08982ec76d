"""Only rows with consent for the purpose, now, are used; what cannot be read allows nothing."""

import math
import stat
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import ConfigInvalid, Refused
from silos.rows.consent import REASONS, Consent, ConsentBook, Records
from silos.rows.sources import CsvSource, ParquetSource

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def book(path, rows, consents=None, **spec):
    """A book over two CSV files in ``path``."""
    path.mkdir(exist_ok=True)
    rows.to_csv(path / "rows.csv", index=False)
    if consents is not None:
        consents.to_csv(path / "consent.csv", index=False)
        spec["source"] = {"type": "csv", "path": "consent.csv"}
    made = Consent.model_validate(spec).resolve(path)
    source = CsvSource(path="rows.csv").resolve(path)
    return ConsentBook("patients", made, source, path / "cache")


def used(book, purpose="study", now=NOON):
    found = book.filter(purpose, now=now)
    columns = list(found.columns)
    table = book._rows.read(columns, text=columns)
    kept = found.keep(pa.table({name: pa.array(table[name], from_pandas=True) for name in table}))
    assert kept.sum() == found.counts["consented"]
    assert len(kept) == found.counts["rows"] == sum(found.counts.values()) - found.counts["rows"]
    return kept.tolist()


ROWS = pd.DataFrame({"pid": ["01", "1", "2", "3", "4", "5", None], "x": range(7)})
TABLE = pd.DataFrame(
    {
        "pid": ["01", "2", "3", "4", "4"],
        "what": ["study", "study", "study", "other", "study"],
        "until": [None, "2026-05-01T11:59:59", "2026-06-01", None, None],
        "gone": [None, None, "2026-04-30", None, "2026-05-01T12:00:01+00:00"],
    }
)
SPEC = {"subject": "pid", "purpose": "what", "expires": "until", "withdrawn_at": "gone"}


def test_each_row_is_used_or_counted_under_one_reason(tmp_path):
    mine = book(tmp_path, ROWS, TABLE, **SPEC)
    assert used(mine) == [True, False, False, False, True, False, False]
    assert mine.filter("study", now=NOON).counts == {
        "rows": 7, "consented": 2, "withdrawn": 1, "expired": 1, "other_purpose": 0, "none": 3,
    }  # fmt: skip
    assert used(mine, "other") == [False, False, False, False, True, False, False]
    assert mine.filter("other", now=NOON).counts["other_purpose"] == 3
    assert used(mine, "never asked for") == [False] * 7


def test_the_answer_changes_when_a_moment_passes(tmp_path):
    mine = book(tmp_path, ROWS, TABLE, **SPEC)
    first = mine.filter("study", now=NOON)
    assert first.until == NOON.timestamp() + 1
    assert mine.filter("study", now=NOON + timedelta(seconds=0.9)).digest == first.digest
    later = NOON + timedelta(seconds=1)
    assert used(mine, now=later) == [True, *[False] * 6]
    assert mine.filter("study", now=later).digest != first.digest
    assert used(mine, now=NOON)[4]  # a clock that is set back is believed


def test_a_second_form_does_not_outlive_a_withdrawal_but_a_later_consent_does(tmp_path):
    rows = pd.DataFrame({"pid": ["a", "b"]})
    table = pd.DataFrame(
        {
            "pid": ["a", "a", "b", "b"],
            "what": ["study"] * 4,
            "since": ["2024-01-01", "2025-01-01", "2024-01-01", "2026-01-01"],
            "gone": ["2025-06-01", None, "2025-06-01", None],
        }
    )
    spec = {"subject": "pid", "purpose": "what", "withdrawn_at": "gone"}
    assert used(book(tmp_path / "1", rows, table, **spec)) == [False, False]
    assert used(book(tmp_path / "2", rows, table, **spec, granted_at="since")) == [False, True]


def test_purposes_of_the_table_are_translated(tmp_path):
    mine = book(tmp_path, ROWS, TABLE, **SPEC, purposes={"other": ["care", "research"]})
    assert used(mine, "research") == [False, False, False, False, True, False, False]
    assert used(mine, "study") == [False] * 7
    assert used(mine, "other") == [False] * 7


def test_consents_in_the_rows_themselves(tmp_path):
    rows = pd.DataFrame(
        {
            "pid": ["a", "a", "b"],
            "what": ["study", "study", "study"],
            "gone": ["2026-01-01", None, "2027-01-01"],
        }
    )
    spec = {"purpose": "what", "withdrawn_at": "gone"}
    assert used(book(tmp_path / "1", rows, **spec)) == [False, True, True]
    # With a subject, what one row says of it holds for its others.
    assert used(book(tmp_path / "2", rows, subject="pid", **spec)) == [False, False, True]
    later = datetime(2027, 1, 1, tzinfo=UTC)
    alone = book(tmp_path / "1", rows, **spec)
    before = alone.filter("study", now=NOON)
    assert used(alone, now=later) == [False, True, False]
    assert alone.filter("study", now=later).digest != before.digest


@pytest.mark.parametrize("column", ["until", "gone"])
def test_a_date_that_cannot_be_read_allows_nothing(tmp_path, column):
    table = TABLE.assign(**{column: ["some day", *TABLE[column][1:]]})
    assert used(book(tmp_path, ROWS, table, **SPEC)) == [False] * 4 + [True, False, False]


def test_a_table_that_cannot_be_read_allows_nothing(tmp_path):
    mine = book(tmp_path, ROWS, TABLE, **SPEC)
    assert any(used(mine))
    (tmp_path / "consent.csv").unlink()
    with pytest.raises(Refused, match="no row may be used") as refused:
        mine.filter("study", now=NOON)
    assert refused.value.code == "consent"
    TABLE.drop(columns="gone").to_csv(tmp_path / "consent.csv", index=False)
    with pytest.raises(Refused, match="no row may be used"):
        mine.filter("study", now=NOON)


def test_what_was_cached_under_another_answer_is_deleted_at_the_next_message(tmp_path):
    mine = book(tmp_path, ROWS, TABLE, **SPEC)
    mine.filter("study", now=NOON)
    entry, encoded = tmp_path / "cache" / "abc", tmp_path / "cache" / "encoded" / "def"
    for place in (entry, encoded, tmp_path / "gx"):
        place.mkdir(parents=True)
    mine.filter("study", now=NOON)
    mine.filter("other", now=NOON)
    # Somebody new without rows here, and the same answer in other words, change nothing.
    nobody = pd.DataFrame([["nobody", "study", None, None]], columns=TABLE.columns)
    more = book(tmp_path, ROWS, pd.concat([TABLE, nobody]), **SPEC)
    more.filter("study", now=NOON)
    assert entry.exists()
    assert encoded.exists()
    # Asked for one purpose, a withdrawal from the other deletes too.
    book(tmp_path, ROWS, TABLE.assign(gone="2026-04-30"), **SPEC).filter("none", now=NOON)
    assert not entry.exists()
    assert not encoded.exists()
    assert not (tmp_path / "gx").exists()


def test_the_tables_are_read_once_while_nothing_changes(tmp_path, monkeypatch):
    mine = book(tmp_path, ROWS, TABLE, **SPEC)
    first = mine.filter("study", now=NOON)
    again = ConsentBook("patients", mine.spec, mine._rows, tmp_path / "cache")
    monkeypatch.setattr(
        ConsentBook, "decide", lambda *_: pytest.fail("the consents were read again")
    )
    found = again.filter("study", now=NOON)
    assert (found.digest, found.counts, found.until) == (first.digest, first.counts, first.until)


def test_a_filter_does_not_mix_two_states_of_the_consents(tmp_path):
    mine = book(tmp_path, ROWS, TABLE, **SPEC)
    found = mine.filter("study", now=NOON)
    TABLE.assign(gone="2026-04-30").to_csv(tmp_path / "consent.csv", index=False)
    with pytest.raises(Refused, match="changed meanwhile"):
        found.keep(pa.table({"pid": ["01"]}))


def test_no_subject_and_no_value_is_kept_by_this_module(tmp_path):
    rows = pd.DataFrame({"pid": ["planted-subject"]})
    table = pd.DataFrame({"pid": ["planted-subject"], "what": ["study"]})
    found = book(tmp_path, rows, table, subject="pid", purpose="what").filter("study", now=NOON)
    assert found.counts["consented"] == 1
    for place in (tmp_path / "cache").rglob("*"):
        assert b"planted-subject" not in place.read_bytes()
        assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_numbers_are_subjects_too(tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"pid": pd.array([1, None, 3], dtype="Int64")}).to_parquet(path)
    pd.DataFrame({"pid": [1, 3], "what": ["study", "care"]}).to_csv(
        tmp_path / "consent.csv", index=False
    )
    spec = Consent(source=CsvSource(path="consent.csv"), subject="pid", purpose="what").resolve(
        tmp_path
    )
    rows = ParquetSource(path=path)
    assert used(ConsentBook("p", spec, rows, tmp_path / "cache")) == [True, False, False]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ns"), pa.date32()]
)
def test_dates_of_a_database_are_read_as_they_are(tmp_path, kind):
    days = [datetime(2026, 4, 30), datetime(2026, 5, 2), None]
    table = pa.table(
        {
            "pid": ["a", "b", "c"],
            "what": ["study"] * 3,
            "gone": pa.array(days, pa.timestamp("us")).cast(kind),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    spec = Consent(subject="pid", purpose="what", withdrawn_at="gone")
    rows = ParquetSource(path=tmp_path / "rows.parquet")
    mine = ConsentBook("p", spec, rows, tmp_path / "cache")
    assert mine.filter("study", now=NOON).counts["withdrawn"] == 1
    assert used(mine) == [False, True, True]
    assert used(mine, now=NOON + timedelta(days=2)) == [False, False, True]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"source": {"type": "csv", "path": "c.csv"}, "purpose": "p"}, "subject"),
        ({"purpose": "p", "key": "k"}, "key is for a table"),
    ],
)
def test_a_consent_that_says_too_little_is_refused(spec, said):
    from consilo.config import parse

    with pytest.raises(ConfigInvalid, match=said):
        parse(Consent, spec, where="silo.yaml")


# The oracle: one subject, one consent at a time, as one would explain it to the subject.


def allowed(records, covering, subject, now):
    mine = [r for r in records if r["subject"] == subject and r["purpose"] in covering]
    gone = [r["withdrawn"] for r in mine if r["withdrawn"] <= now]
    for r in mine:
        if not (r["granted"] <= now < r["expires"]) or r["withdrawn"] <= now:
            continue
        if all(r["granted"] > (math.inf if when == -math.inf else when) for when in gone):
            return True
    return False


MOMENT = st.integers(0, 6).map(float)
RECORD = st.fixed_dictionaries(
    {
        "subject": st.integers(-1, 3),
        "purpose": st.sampled_from(["study", "care", None]),
        "granted": st.one_of(MOMENT, st.sampled_from([-math.inf, math.inf])),
        "expires": st.one_of(MOMENT, st.sampled_from([-math.inf, math.inf])),
        "withdrawn": st.one_of(MOMENT, st.sampled_from([-math.inf, math.inf])),
    }
)


@given(st.lists(RECORD, max_size=8), MOMENT)
def test_who_may_be_used_is_what_the_oracle_says(records, now):
    held = Records(
        np.array([r["subject"] for r in records], dtype=np.int64),
        np.array([r["purpose"] for r in records], dtype=object),
        *(np.array([r[key] for r in records], dtype=float)
          for key in ("granted", "expires", "withdrawn")),
    )  # fmt: skip
    standing, before, after = held.judged(["study"], 4, now)
    expected = [allowed(records, ["study"], subject, now) for subject in range(4)]
    assert (standing == -1).tolist() == expected
    assert set(standing.tolist()) <= {-1, *range(len(REASONS))}
    # Until the next moment, and back to the last one, nothing changes.
    for other in (before, min(after, 7.0) - 0.5):
        if before <= other < after and math.isfinite(other):
            again, _, _ = held.judged(["study"], 4, other)
            assert (again == standing).all()
