import stat
from datetime import UTC, datetime, timedelta

import clinic
import numpy as np
import pytest
from agreed import agree
from clinic_silo import make

from consilo.errors import Refused
from consilo.jobs.match import Match
from silos.kept.matches import drop_match, every_match

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def match(**changes):
    return Match(
        **{
            "handle": "joint",
            "rows": np.array([4, 0, 7], np.int64),
            "partners": ("south",),
            "recipe_hash": "ab",
            "contract": "clinic@1",
            "dataset": "rows",
            "purpose": "research",
            "created": datetime.now(UTC),
            "expires": datetime.now(UTC) + timedelta(days=1),
            "report": {"matched": np.int64(3)},
            **changes,
        }
    )


@pytest.fixture
def silo(tmp_path):
    return make(tmp_path / "north")


def test_a_match_is_kept_for_the_owner_only_and_comes_back(silo, tmp_path):
    silo.matches.keep_match(match())
    found = silo.matches.match("joint", purpose="research")
    assert found.rows.tolist() == [4, 0, 7]
    assert (found.partners, found.report) == (("south",), {"matched": 3})
    assert found.fingerprint
    place = tmp_path / "north" / "matches" / "joint"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in place.iterdir()} == {0o600}


def test_a_match_is_refused_once_rows_change(silo, tmp_path):
    silo.matches.keep_match(match())
    clinic.frame(31).to_csv(tmp_path / "north" / "rows.csv", index=False)
    with pytest.raises(Refused, match="rows changed since") as refused:
        silo.matches.match("joint", purpose="research")
    assert refused.value.code == "match_stale"


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"expires": NOW}, "ended at"), ({"purpose": "care"}, "made for the purpose 'care'")],
)
def test_a_match_is_refused_when_it_is_over_or_for_another_purpose(silo, changes, said):
    silo.matches.keep_match(match(**changes))
    with pytest.raises(Refused, match=said):
        silo.matches.match("joint", purpose="research")


@pytest.mark.parametrize("handle", ["nobody", "../north", ""])
def test_a_handle_that_is_not_there_is_refused(silo, handle):
    with pytest.raises(Refused, match="keeps no match"):
        silo.matches.match(handle, purpose="research")


@pytest.mark.parametrize(
    "rows", [np.array([1, 1]), np.array([-1]), np.array([1.0]), np.zeros((1, 1), np.int64)]
)
def test_rows_that_make_no_match_are_not_taken(rows):
    with pytest.raises(ValueError, match="row"):
        match(rows=rows)


def test_row_numbers_mean_the_same_under_every_contract_over_a_data_set(silo, tmp_path):
    one = clinic.contract(
        "name: ids\nversion: 1\ncolumns:\n  age: {type: float, nullable_share: 1.0}\n"
    )
    agree(tmp_path / "north", one)
    ages = silo.rows.frame(one)["age"].to_numpy()
    np.testing.assert_array_equal(ages, silo.rows.frame(clinic.contract())["age"].to_numpy())
    assert silo.rows.dataset(one) == silo.rows.dataset(clinic.contract()) == "rows"


def test_an_expired_match_is_deleted_when_the_next_is_kept(silo, tmp_path):
    silo.matches.keep_match(match(handle="old", created=NOW, expires=NOW + timedelta(days=1)))
    assert (tmp_path / "north" / "matches" / "old").exists()
    silo.matches.keep_match(match())
    assert [each.handle for each in every_match(tmp_path / "north")] == ["joint"]


def test_matches_are_listed_newest_first_and_dropped(silo, tmp_path):
    silo.matches.keep_match(match(handle="old", created=NOW))
    silo.matches.keep_match(match())
    assert [each.handle for each in every_match(tmp_path / "north")] == ["joint", "old"]
    drop_match(tmp_path / "north", "old")
    drop_match(tmp_path / "north", "..")
    assert [each.handle for each in every_match(tmp_path / "north")] == ["joint"]
