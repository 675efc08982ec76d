"""Laws of the scores: symmetric, in 0..1, and blind to the order of columns and of codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.contracts.contract import Contract
from consilo.matching.columns.cards import Card, Span, cards_of, edges, parsed, plain
from consilo.matching.columns.score import combined, propose, signs, with_values
from consilo.matching.columns.words import is_generated, word_likeness, words

TYPES = st.sampled_from([None, "float", "integer", "category", "boolean", "string", "date"])
NAMES = st.text("abcdefg_TNM ", min_size=1, max_size=12).filter(str.strip)
CODES = st.lists(st.text("yesno12 ABC", min_size=1, max_size=8), max_size=5, unique=True)


@st.composite
def cards(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    return [
        Card(
            name=name,
            type=(kind := draw(TYPES)),
            unit=draw(st.sampled_from([None, "cm", "mm", "kg"])),
            description=draw(st.sampled_from(["", "size of the tumor", "age in years"])),
            codes=tuple(draw(CODES)) if kind == "category" else (),
        )
        for name in names
    ]


HERE = (
    Card(name="sex_cd", data="p", type="category", codes=("M", "F")),
    Card(name="BD_SYS", data="p", type="integer", unit="mmHg", description="systolic pressure"),
    Card(name="hgt", data="p", type="float", unit="cm"),
    Card(name="outcome", data="p", type="category", codes=("dead", "alive"), label=True),
)
THERE = (
    Card(name="height", type="float", unit="m"),
    Card(name="gender", type="category", codes=("f", "m", "unknown")),
    Card(name="systolic_blood_pressure", type="float", unit="kPa"),
    Card(name="vital_status", type="category", codes=("Alive", "Dead", "Not Reported")),
    Card(name="weight", type="float", unit="kg"),
)


@settings(max_examples=40, deadline=None)
@given(cards(), cards())
def test_scores_are_shares_and_symmetric(ones, others):
    there, back = signs(ones, others), signs(others, ones)
    for name, matrix in there.items():
        assert matrix.shape == (len(ones), len(others))
        assert (matrix >= -1e-12).all(), name
        assert (matrix <= 1 + 1e-9).all(), name
        np.testing.assert_allclose(matrix, back[name].T, atol=1e-12)
    np.testing.assert_allclose(combined(there), combined(back).T, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(cards(), cards(), st.randoms(use_true_random=False))
def test_the_order_of_columns_and_codes_changes_nothing(ones, others, random):
    def shuffled(side):
        again = [
            each.model_copy(update={"codes": tuple(random.sample(each.codes, len(each.codes)))})
            for each in side
        ]
        return random.sample(again, len(again))

    first = {each.key: each for each in propose(ones, others)}
    again = {each.key: each for each in propose(shuffled(ones), shuffled(others))}
    assert first.keys() == again.keys()
    for key, each in first.items():
        assert each.chosen == again[key].chosen
        assert [c.key for c in each.candidates] == [c.key for c in again[key].candidates]


def test_a_table_against_itself_finds_itself():
    for each in propose(THERE, THERE):
        assert each.chosen == each.key
        assert each.candidates[0].key == each.key


def test_abbreviations_units_codes_and_related_words_find_the_other_column():
    found = {each.key: each.chosen for each in propose(HERE, THERE)}
    assert found == {
        "p/sex_cd": "gender",
        "p/BD_SYS": "systolic_blood_pressure",
        "p/hgt": "height",
        "p/outcome": "vital_status",
    }
    assert {each.key for each in propose(HERE, THERE) if each.label} == {"p/outcome"}


def test_two_columns_do_not_get_the_same_one():
    twins = [Card(name="age"), Card(name="age_at_visit")]
    chosen = [each.chosen for each in propose(twins, [Card(name="age"), Card(name="height")])]
    assert chosen == ["age", None]


def test_units_of_another_dimension_speak_against_a_pair():
    one = Card(name="size", type="float", unit="cm")
    fits, misfits = (Card(name="x", type="float", unit=unit) for unit in ("mm", "kg"))
    assert signs([one], [fits, misfits])["kind"].tolist() == [[1.0, 0.2]]
    assert signs([one], [Card(name="x", type="float", unit="cm2")])["kind"][0, 0] == 0.2


def test_nothing_on_one_side_is_no_proposal():
    assert propose((), THERE) == []
    assert [each.chosen for each in propose(HERE, ())] == [None] * 4


def test_histograms_tell_columns_apart_that_are_called_alike():
    span = Span(min=0, max=160)
    ours = [Card(name=name, type="float", range=span) for name in ("x_a", "x_b")]
    theirs = [Card(name=name, type="float", range=Span(min=0, max=320)) for name in ("x_c", "x_d")]
    low, high = np.zeros(16), np.zeros(16)
    low[:4], high[10:14] = 25, 25
    first = {"x_a": low, "x_b": high}
    second = {"x_c": np.repeat(high, 1)[::1] * 0, "x_d": np.zeros(16)}
    second["x_c"][5:7], second["x_d"][:2] = 50, 50
    scores = combined(signs(ours, theirs))
    better, alone = with_values(scores, ours, theirs, first, second)
    assert alone[0, 1] > 0.9
    assert alone[1, 0] > 0.9
    assert alone[0, 0] < 0.1
    assert better[0, 1] > better[0, 0]
    assert better[1, 0] > better[1, 1]
    proposed = propose(ours, theirs, first=first, second=second)
    assert [each.chosen for each in proposed] == ["x_d", "x_c"]


def test_histograms_of_codes_compare_what_each_code_holds():
    ours = [Card(name="q", type="category", codes=("Yes", "No"))]
    theirs = [Card(name="r", type="category", codes=("no", "yes"))]
    found = with_values(
        np.zeros((1, 1)), ours, theirs, {"q": np.array([30.0, 10])}, {"r": np.array([25.0, 75])}
    )
    assert found[1][0, 0] == pytest.approx(1.0)


def test_what_leaves_is_what_comes_back():
    assert parsed(plain(HERE)) == HERE
    assert edges(Span(min=0, max=16)).tolist() == [float(each) for each in range(17)]


@pytest.mark.parametrize(
    "value",
    [
        {"name": "a\nb"},
        {"name": "a" * 129},
        {"name": ""},
        {"name": 3},
        {"name": "a", "rows": [1, 2]},
        {"name": "a", "codes": ["x"] * 5001},
        {"name": "a", "codes": ["x" * 161]},
        {"name": "a", "description": "x" * 501},
        {"name": "a", "description": "\x1b[31m"},
        {"name": "a", "range": {"min": float("nan"), "max": 1}},
        {"name": "a", "range": {"min": 2, "max": 1}},
    ],
)
def test_odd_cards_are_refused(value):
    with pytest.raises(ValueError, match=r"."):
        parsed([value])


def test_a_column_described_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        parsed([{"name": "a"}, {"name": "a"}])


def test_a_contract_is_read_as_cards():
    column = {"type": "float", "unit": "mm", "range": {"min": 0, "max": 5}, "synonyms": ["AA"]}
    label = {"type": "integer", "allowed": [0, 1], "role": "target"}
    contract = Contract.model_validate(
        {"name": "c", "version": 1, "columns": {"a": column, "b": label,
                                                "n": {"type": "string", "role": "ignore"}}}
    )  # fmt: skip
    assert cards_of(contract) == (
        Card(name="a", synonyms=("AA",), type="float", unit="mm", range=Span(min=0, max=5)),
        Card(name="b", type="integer", codes=("0", "1"), label=True),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abcdeing123", min_size=1, max_size=9), min_size=1, unique=True))
def test_words_are_alike_both_ways(vocabulary):
    found = word_likeness(vocabulary)
    assert (found == found.T).all()
    assert (np.diag(found) == 1).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_words_of_names():
    assert words("meanRadius_SE") == ("mean", "radius", "standard", "error")
    assert is_generated("Unnamed: 3")
    assert not is_generated("age")
