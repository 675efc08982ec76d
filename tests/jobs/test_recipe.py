import pandas as pd
import pytest

from consilo.errors import ConfigInvalid
from consilo.jobs.recipe import Part, Recipe


def made(column, *steps, values):
    return [Part(column=column, steps=steps).apply(each) for each in values]


@pytest.mark.parametrize(
    ("steps", "values", "expected"),
    [
        (["trim"], ["  a   b ", "   "], ["a b", None]),
        (["fold"], ["Straße"], ["strasse"]),
        (["trim", "fold", "plain"], [" Ŝiŝova ", "ﬁn", "Ü"], ["sisova", "fin", "u"]),
        (["digits"], ["A-12 3", "none", "٣"], ["123", None, None]),
        (["letters"], ["O'Neil 2"], ["ONeil"]),
        (["number"], ["0042", "000"], ["42", "0"]),
        (["trim", "number"], ["1000", "1000.0", " 01000 ", "+1000", "1000.00"], ["1000"] * 5),
        (
            ["number"],
            ["1.50", "-0", "-7.0", "0.0", "1e+16", ".5"],
            ["1.5", "0", "-7", "0", "1" + "0" * 16, ".5"],
        ),
        (["number"], ["007A", "1e3", "1.2.3"], ["7A", "1e3", "1.2.3"]),
        (["digits"], ["12.0", "12.5", "1.200"], ["12", "125", "1200"]),
        (["soundex"], ["Robert", "Rupert"], ["R163", "R163"]),
        (["metaphone"], ["Smith", "Smyth", "Knight"], ["SM0", "SM0", "NT"]),
        (["date"], ["2001-02-03", "20010203", "3.2.2001"], ["2001-02-03", "2001-02-03", None]),
        (["date:%d.%m.%Y", "year"], ["3.2.2001", "31.2.2001"], ["2001", None]),
        (["date", "month"], ["2001-02-03"], ["02"]),
        (["day"], ["2001-02-03"], ["03"]),
        (["first:2"], ["abc", "a"], ["ab", "a"]),
        (["last:2"], ["abc"], ["bc"]),
        (["words"], ["van der Berg"], ["Berg der van"]),
    ],
)
def test_steps(steps, values, expected):
    assert made("c", *steps, values=values) == expected


def recipe(*keys):
    return Recipe.model_validate({"keys": list(keys)})


def key(*columns, **more):
    return {"parts": [{"column": name, "steps": ["trim", "fold"]} for name in columns], **more}


def test_a_composite_key_tells_its_parts_apart_and_misses_none():
    frame = pd.DataFrame({"a": ["x", "xy", None, "X "], "b": ["yz", "z", "q", "YZ"]})
    found = recipe(key("a", "b")).values(frame, 0)
    assert found[0] == found[3]
    assert found[0] != found[1]
    assert found[2] is None


def test_numbers_dates_and_truths_have_one_text_each():
    frame = pd.DataFrame(
        {
            "f": [7.0, 7.5],
            "i": [7, 8],
            "d": pd.to_datetime(["2001-02-03", "2001-02-04"]),
            "t": [True, False],
        }
    )
    texts = [recipe(key(name)).values(frame, 0)[0][4:] for name in frame]
    assert texts == [b"7", b"7", b"2001-02-03", b"true"]


def test_the_hash_says_whether_two_sides_make_the_same_keys():
    one = recipe(key("a"), key("b"))
    assert one.hash == recipe(key("a"), key("b")).hash
    others = [
        recipe(key("b"), key("a")),
        recipe(key("a")),
        recipe(key("a", duplicates="same"), key("b")),
        recipe({"parts": [{"column": "a", "steps": ["trim"]}]}, key("b")),
    ]
    assert len({each.hash for each in (one, *others)}) == 5
    # This very value: a library that sounds names in another way must change it, and be noticed.
    sounds = {"parts": [{"column": "a", "steps": ["soundex"]}, {"column": "b", "steps": ["plain"]}]}
    assert recipe(sounds).hash[:16] == "aa75275a3c86f795"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"keys": []}, "1 or more entries"),
        ({"keys": [key("a", duplicates="maybe")]}, "duplicates"),
        ({"keys": [{"parts": [{"column": "a", "steps": ["soundx"]}]}]}, "did you mean 'soundex'"),
        ({"keys": [{"parts": [{"column": "a", "steps": ["first:0"]}]}]}, "is no step"),
        ({"keys": [key("a")], "version": 2}, "version"),
    ],
)
def test_a_recipe_that_is_none_says_why(tmp_path, wrong, said):
    import yaml

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(wrong))
    with pytest.raises(ConfigInvalid, match=said):
        Recipe.load(path)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ConfigInvalid, match="'surnam' is not there; did you mean 'surname'"):
        recipe(key("surnam")).require_columns(["surname", "born"], where="here")


def test_a_recipe_whose_steps_know_numbers_has_a_hash_of_its_own():
    """A silo whose release takes 1000.0 for another key than 1000 notices before it matches."""
    plain = recipe({"parts": [{"column": "a", "steps": ["trim", "fold"]}]})
    assert len(plain.keys[0].parts[0].examples) == 16
    for step in ("number", "digits"):
        part = recipe({"parts": [{"column": "a", "steps": [step]}]}).keys[0].parts[0]
        assert "1000.0" in part.examples


@pytest.mark.parametrize(
    ("step", "values", "expected"),
    [
        ("date", ["19900501.0", "1990/5/1", "1990.05.01"], ["1990-05-01"] * 3),
        ("date", ["1990-05-01T00:00:00.0+02:00", "1990-05-01 12:30 Z"], ["1990-05-01"] * 2),
        ("date", ["199051", "1051990", "1990-05-01x", "1990-02-30", "1990-05/01"], [None] * 5),
        # Of a number the first zero is lost; of a text nobody knows which sign.
        ("date:%d%m%Y", ["01051990", "1051990.0", "1051990"], ["1990-05-01"] * 2 + [None]),
    ],
)
def test_a_day_is_read_as_it_was_told_or_not_at_all(step, values, expected):
    """1051990 by %d%m%Y was the 10th of May."""
    assert made("c", step, values=values) == expected


def test_a_step_that_leaves_the_century_open_is_refused():
    with pytest.raises(ValueError, match="does not say the century"):
        Part(column="c", steps=("date:%d.%m.%y",))


def test_a_recipe_with_dates_has_a_hash_of_its_own():
    parts = [Part(column="c", steps=(step,)) for step in ("date", "year", "date:%d.%m.%Y")]
    assert all("1051990.0" in part.examples for part in parts)
