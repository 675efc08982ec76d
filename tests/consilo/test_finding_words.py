"""What is wrong with a value is told in our words: expected, found, and no word of a library's.

Fault: `name: Input should be a valid string (found 3)`, `quorum.deadline.literal['auto']: …`, and
`Tuple should have at least 1 item` of a list whose one entry was wrong.
"""

import re
from typing import Annotated, Literal

import clinic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from consilo.config import Config, parse, read_yaml
from consilo.errors import ConfigInvalid, ConsiloError, JobInvalid
from consilo.finding_words import Form, shown
from consilo.jobs.job import Job

LIBRARY = re.compile(
    r"Input should|should (be|have|match)|validation|pydantic|literal\[|constrained|-float|tuple\b"
    r"|dict\b|None\b|True\b|instance of"
)
SAID = [
    ({"name": 3}, "name: expected a text, found 3"),
    ({"name": None}, "name: expected a text, found nothing"),
    ({"name": ["a"]}, "name: expected a text, found a list"),
    ({"task": "multi"}, r"did you mean 'multiclass'\?\), found 'multi'"),
    ({"task": None}, "task: expected one of binary, .*, found nothing"),
    ({"model": "no_colon"}, "model.name: expected module:Name, such as my_model:Net, found 'no_"),
    ({"model": {"name": "m:N", "args": [1]}}, "model.args: expected a mapping of keys to values"),
    ({"protocol": "fedavg"}, "protocol: expected a mapping of keys to values, found a text"),
    ({"protocol": {"rounds": 0}}, "protocol.rounds: expected a number of at least 1, found 0"),
    ({"protocol": {"rounds": 1.5}}, "protocol.rounds: expected a whole number, found 1.5"),
    ({"protocol": {"rounds": "ten"}}, "protocol.rounds: expected a whole number, found 'ten'"),
    ({"local": {"lr": 0}}, "local.lr: expected a number above 0, found 0"),
    ({"local": {"momentum": 2}}, "local.momentum: expected a number of at most 1, found 2"),
    ({"privacy": True}, "privacy: expected a mapping of keys to values, found true"),
    ({"privacy": {"epsilon": 1, "delta": 1}}, "privacy.delta: expected a number below 1, found 1"),
    ({"quorum": {"mandatory": "abc"}}, "quorum.mandatory: expected a list, found 'abc'"),
    ({"quorum": {"deadline": "soon"}}, "deadline: expected auto, or a number, found 'soon'"),
    ({"quorum": {"deadline": 0}}, "deadline: expected auto, or a number above 0, found 0"),
    ({"reduce": {"rule": "median"}}, "reduce.rule: expected mean, or module:name of a rule"),
    ({"purpose": "Research!"}, "purpose: expected lower-case letters, digits, blanks"),
    ({"quorum": {"mandatory": ["a"]}, "exclude": ["a"]}, "mandatory: a must take part and, by"),
]


@pytest.mark.parametrize(("changes", "said"), SAID, ids=lambda each: str(each)[:40])
def test_a_jobs_faults_are_in_our_words(changes, said):
    with pytest.raises(JobInvalid, match=said) as refused:
        clinic.job(**changes)
    assert len(refused.value.findings) == 1
    assert not LIBRARY.search(str(refused.value))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
KEYS = sorted({*clinic.job().to_json(), "exclude", "match", "privacy", "evaluation", "kind"})


@given(st.sampled_from(KEYS), ANY)
def test_no_value_of_any_key_is_told_in_a_librarys_words(key, value):
    """Whatever stands there, it is a job or one of our errors; never another exception."""
    whole = {**clinic.job().to_json(), key: value}
    try:
        Job.from_json(whole)
    except ConsiloError as refused:
        told = str(refused).replace(repr(value), "")
        assert not re.search(r"Input should|pydantic|literal\[|instance of|constrained-", told)


def test_a_list_whose_entries_are_wrong_is_not_told_to_be_short():
    recipe = {"keys": [{"parts": [{"column": "age", "steps": ["nope"]}]}]}
    with pytest.raises(JobInvalid, match="'nope' is no step") as refused:
        clinic.job(match={"recipe": recipe})
    assert len(refused.value.findings) == 1
    with pytest.raises(JobInvalid, match=r"recipe.keys: expected 1 or more entries, found an emp"):
        clinic.job(match={"recipe": {"keys": []}})


class Inner(Config):
    width: int


class Several(Config):
    either: Inner | bool | Literal["all"] | None = None
    by_name: dict[str, Inner | float] = Field(default_factory=dict)
    code: Annotated[str, Form("[a-z]{2}", "two letters")] = "ab"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"either": "al"},
            "expected a mapping of keys to values, or true or false, or all",
        ),
        ({"either": {"width": "x"}}, "either.width: expected a whole number, found 'x'"),
        ({"by_name": {"str": "x"}}, "by_name.str: expected a mapping of keys to values, or a num"),
        ({"by_name": {"a-b": {"width": "x"}}}, "by_name.a-b.width: expected a whole number"),
        ({"code": "abc"}, "code: expected two letters, found 'abc'"),
    ],
)
def test_of_several_forms_each_is_told_once_and_the_place_is_the_files(value, said):
    with pytest.raises(ConfigInvalid, match=re.escape(said)):
        parse(Several, value, where="x.yaml")


def test_a_value_that_is_long_is_cut():
    assert shown("x" * 200) == "'" + "x" * 78 + "…"


def test_a_directory_and_another_encoding_are_told(tmp_path):
    with pytest.raises(ConfigInvalid, match="this is a directory; give the file in it"):
        read_yaml(tmp_path)
    (tmp_path / "x.yaml").write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(ConfigInvalid, match=r"not UTF-8 text \(its byte 9\); save it as UTF-8"):
        read_yaml(tmp_path / "x.yaml")
