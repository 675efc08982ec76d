import pandas as pd
import pytest
import two_silos
import yaml
from typer.testing import CliRunner

from consilo.errors import ConfigInvalid
from consilo.matching.columns.cards import Card
from silos.commands.app import app
from silos.kept.metadata import METADATA_FILE as FILE
from silos.kept.metadata import Metadata, shared_cards
from silos.proposals.metadata import draft, write_draft

ROWS = pd.DataFrame(
    {
        "AGE": [str(age) for age in range(20, 60)],
        "height_cm": [f"{150 + each / 3:.1f}" for each in range(40)],
        "sex": ["M", "F"] * 20,
        "ward": ["a"] * 20 + ["b"] * 16 + ["rare"] * 4,
        "ill": ["yes"] * 30 + ["no"] * 10,
        "note": [f"text {each}" for each in range(40)],
        "seen": [f"2024-01-{1 + each % 28:02d}" for each in range(40)],
        "empty": [None] * 40,
    }
)


def test_a_draft_says_what_columns_are_and_shares_nothing():
    drafted = draft(ROWS)
    assert {name: each.get("type") for name, each in drafted.items()} == {
        "AGE": "integer",
        "height_cm": "float",
        "sex": "category",
        "ward": "category",
        "ill": "boolean",
        "note": "string",
        "seen": "date",
        "empty": None,
    }
    assert drafted["height_cm"]["unit"] == "cm"
    assert drafted["sex"]["codes"] == ["F", "M"]
    assert not any(each["share"] for each in drafted.values())


def test_rare_codes_and_free_text_and_numbers_are_not_drafted():
    drafted = draft(ROWS)
    assert drafted["ward"]["codes"] == ["a", "b"]
    assert "codes" not in drafted["note"]
    assert "codes" not in drafted["AGE"]
    assert "range" not in drafted["AGE"], "the ends of the rows are two people's values"


def test_what_a_person_wrote_stays(tmp_path):
    assert write_draft(tmp_path, "p", draft(ROWS[["AGE", "sex"]])) == ["AGE", "sex"]
    path = tmp_path / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text().replace("share: false", "share: true  # by me", 1)
    path.write_text(text)
    assert write_draft(tmp_path, "p", draft(ROWS)) == [n for n in ROWS if n not in ("AGE", "sex")]
    assert "# by me" in path.read_text()
    assert [card.key for card in shared_cards(tmp_path)] == ["p/AGE"]
    assert write_draft(tmp_path, "q", draft(ROWS[["AGE"]])) == ["AGE"]
    assert set(Metadata.load(tmp_path).data) == {"p", "q"}


def test_only_what_is_shared_becomes_a_card(tmp_path):
    entries = {
        "a": {"share": True, "type": "boolean", "codes": [True, False], "description": "x\n y"},
        "b": {"type": "float", "description": "stays"},
    }
    (tmp_path / FILE).write_text(yaml.safe_dump({"data": {"p": entries}}))
    codes = ("true", "false")
    card = Card(name="a", data="p", type="boolean", codes=codes, description="x y")
    assert shared_cards(tmp_path) == (card,)


def test_no_file_shares_nothing(tmp_path):
    assert shared_cards(tmp_path) == ()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"share": "yes please"}, "share"),
        ({"share": True, "description": "x" * 501}, "500 characters"),
        ({"share": True, "codes": ["a\tb"]}, "printable"),
        ({"shared": True}, "share"),
    ],
)
def test_faults_are_named(tmp_path, entry, said):
    (tmp_path / FILE).write_text(yaml.safe_dump({"data": {"p": {"a": entry}}}))
    with pytest.raises(ConfigInvalid, match=said):
        shared_cards(tmp_path)


def test_describe_writes_the_draft_and_says_what_is_shared(tmp_path):
    place = two_silos.make(tmp_path, num_rows=50, described=False)["east"]
    command = ["data", "describe", "patients", "--dir", str(place)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "6 columns, 6 of them new, 0 shared" in done.output
    again = CliRunner().invoke(app, [*command, "--json"])
    assert '"new": 0' in again.output


NAMES = (
    *("a b " * 25 + "c", "x" * 130, "w " * 700 + "end", "no", "Yes", "on", "null", "~", "1", "007"),
    *("1.5", "2024-01-31", "12:30", "a: b", "# x", "- x", "? x", "[x]", "{x}", "'x'", '"x"', "&x"),
    *("*x", "!x", "%x", "@x", "`x`", "a\tb", "ä ö", "age/yrs", "ER Status", "<<", "x\ny", " x "),
)


@pytest.mark.parametrize("name", NAMES)
def test_any_column_name_is_read_back_as_it_was(tmp_path, name):
    """Names of 97 to 122 characters with blanks were folded over two lines."""
    entry = {"share": False, "type": "category", "description": "", "codes": ["no", "1", "x"]}
    assert write_draft(tmp_path, "rows", {name: entry}) == [name]
    assert write_draft(tmp_path, "rows", {name: entry, "more": entry}) == ["more"]
    known = Metadata.load(tmp_path).data["rows"]
    assert list(known) == [name, "more"]
    assert known[name].codes == ("no", "1", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["metadata.yaml"]
