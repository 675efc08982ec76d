"""Pictures: what is drawn is what the table says; no name can become markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest

from consilo.pages.pictures.bars import Bar, bars
from consilo.pages.pictures.heat import STATES, Cell, participation
from consilo.pages.pictures.lines import burn_down, curves
from consilo.pages.pictures.picture import LEFT, RIGHT, WIDTH, Picture

HOSTILE = "<script>alert(1)</script>"


def _marks(picture: Picture, colour: int) -> list[tuple[float, float]]:
    found = re.findall(
        rf'class="mark s{colour}" transform="translate\(([\d.]+) ([\d.]+)\)', picture.svg
    )
    return [(float(x), float(y)) for x, y in found]


def _pictures() -> list[Picture]:
    day = datetime(2026, 11, 1, tzinfo=UTC)
    return [
        curves(HOSTILE, {HOSTILE: [(1, 0.5), (2, 0.7)]}, limit=(HOSTILE, 0.6)),
        curves("nothing", {}),
        burn_down(
            HOSTILE,
            {HOSTILE: [(day, 1.0), (day.replace(day=9), 2.0)]},
            limit=5.0,
            forecast=(day.replace(day=20), 5.0),
        ),
        participation(HOSTILE, {HOSTILE: [Cell(each, HOSTILE) for each in STATES] + [None]}),
        bars(HOSTILE, [Bar(HOSTILE, 0.2, 0.1, 0.3, HOSTILE), Bar("b", None)], across="gain"),
    ]


@pytest.mark.parametrize("at", range(5))
def test_a_picture_is_xml_with_a_name_and_no_style(at: int) -> None:
    svg = _pictures()[at].svg
    root = ET.fromstring(svg)
    assert [each.tag for each in root][:2] == ["title", "desc"]
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith(root[0].text or "?")
    assert "<script" not in svg
    assert "style=" not in svg


def test_curves_are_drawn_where_the_table_says() -> None:
    series = {"north": [(1, 0.5), (2, 0.75), (3, 0.8)], "south": [(2, 0.25), (3, float("nan"))]}
    picture = curves("AUC", series)
    assert picture.columns == ("round", "north", "south")
    assert picture.rows == (("1", "0.5", "–"), ("2", "0.75", "0.25"), ("3", "0.8", "–"))
    north = sorted(_marks(picture, 0))
    assert [x for x, _ in north] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    per_unit = (north[0][1] - north[1][1]) / 0.25
    assert north[1][1] - north[2][1] == pytest.approx(0.05 * per_unit, abs=0.2)
    assert len(_marks(picture, 1)) == 1


def test_a_burn_down_shows_each_sum_and_the_forecast() -> None:
    first, last = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 11, tzinfo=UTC)
    end = datetime(2026, 11, 21, tzinfo=UTC)
    picture = burn_down(
        "ε", {"patients": [(first, 1.0), (last, 2.0)]}, limit=4.0, forecast=(end, 4.0)
    )
    assert [each[2] for each in picture.rows] == ["1", "2", "4"]
    assert sorted(x for x, _ in _marks(picture, 0)) == [LEFT, (LEFT + WIDTH - RIGHT) / 2]
    assert [word for _, word in picture.legend] == ["patients", "at the pace so far", "budget: ε 4"]


def test_a_heat_map_has_a_sign_for_each_cell_and_its_table_all_reasons() -> None:
    rows = {
        "north": [Cell("trained")] * 3,
        "south": [Cell("trained"), Cell("late", "after 60 s"), None],
    }
    picture = participation("who", rows)
    assert picture.rows == (
        ("north", "1–3", "trained", ""),
        ("south", "1", "trained", ""),
        ("south", "2", "late", "after 60 s"),
    )
    drawn = {
        each.get("class"): (each.get("d") or "").count("M")
        for each in ET.fromstring(picture.svg).iter("path")
    }
    assert drawn == {"mark good": 4, "mark warn": 1}
    assert [word for _, word in picture.legend] == ["trained", "late"]


def test_a_large_heat_map_is_small() -> None:
    rows = {f"silo-{at}": [Cell("trained")] * 50 for at in range(20)}
    picture = participation("who", rows)
    assert len(picture.svg) < 50_000
    assert len(picture.rows) == 20


def test_bars_tell_their_interval() -> None:
    picture = bars("gain", [Bar("north", 0.02, -0.01, 0.05)], across="AUC")
    assert picture.rows == (("north", "0.02", "-0.01", "0.05", ""),)
    centre = re.search(r'cx="([\d.]+)"', picture.svg)
    ends = re.search(r'class="line s0" d="M([\d.]+) [\d.]+H([\d.]+)', picture.svg)
    assert centre
    assert ends
    assert float(ends[1]) < float(centre[1]) < float(ends[2])
