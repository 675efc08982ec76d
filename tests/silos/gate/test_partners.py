from datetime import UTC, datetime
from pathlib import Path

import pytest

from consilo.errors import ConfigInvalid
from silos.gate.partners import confirm_partner, every_partner, pinned, see_partners

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIRST, SECOND = "a" * 64, "b" * 64


def test_a_key_is_trusted_when_it_is_first_seen_and_another_one_is_not(tmp_path: Path) -> None:
    assert see_partners(tmp_path, {"anna": FIRST}, now=NOW) == ()
    (said,) = see_partners(tmp_path, {"anna": SECOND}, now=NOW)
    assert "another signing key" in said
    assert pinned(tmp_path)["anna"].signing_key == FIRST
    assert see_partners(tmp_path, {"anna": SECOND}, now=NOW) == ()  # said once
    with pytest.raises(ConfigInvalid, match="begins with bbbb"):
        confirm_partner(tmp_path, "anna", "c" * 16)
    with pytest.raises(ConfigInvalid, match="16 digits"):
        confirm_partner(tmp_path, "anna", "b")
    confirm_partner(tmp_path, "anna", "bb:" * 7 + "bbbb")
    known = pinned(tmp_path)["anna"]
    assert (known.signing_key, known.confirmed, known.offered) == (SECOND, True, None)


def test_who_is_no_longer_listed_does_not_count_but_stays_pinned(tmp_path: Path) -> None:
    see_partners(tmp_path, {"anna": FIRST, "berta": SECOND}, now=NOW)
    see_partners(tmp_path, {"berta": SECOND}, now=NOW)
    assert set(pinned(tmp_path)) == {"berta"}
    assert set(every_partner(tmp_path)) == {"anna", "berta"}
    see_partners(tmp_path, {"anna": SECOND, "berta": SECOND}, now=NOW)
    assert pinned(tmp_path)["anna"].signing_key == FIRST


def test_an_unknown_partner_cannot_be_confirmed(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no partner of this name"):
        confirm_partner(tmp_path, "anna", "a" * 16)
