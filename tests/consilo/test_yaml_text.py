"""What people read in two ways in YAML or JSON is refused; a word is a text, everywhere."""

import contextlib
import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid, ContractInvalid, InvalidInput, JobInvalid, PolicyInvalid
from consilo.jobs.job import Job
from consilo.jobs.recipe import Recipe
from consilo.membership.coordinator import Reachable
from consilo.wire.json_text import read_json
from consilo.yaml_text import YamlInvalid, from_yaml, to_yaml, to_yaml_line
from silos.gate.bundles import Decisions
from silos.gate.partners import every_partner
from silos.gate.policy import Policy
from silos.kept.metadata import Metadata
from silos.node_config import NodeConfig
from silos.rows.mapping import Mapping
from silos.rows.sources.kinds import load_source
from silos.silo import Silo

JOB = """
name: study
contract: heart@1
model: consilo.learners.tabular:MLP
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "a: the key 'a' is written twice, in line 1 and in line 2"),
        ("{a: 1, a: 2}", "a: the key 'a' is written twice"),
        ("x:\n  y: {a: 1, 'a': 1}", "x.y.a: the key 'a' is written twice, in line 2"),
        ("x:\n- {a: 1}\n- {b: 1, b: 1}", "x.1.b: the key 'b' is written twice"),
        ("1: a\n'1': b", "the key '1' is written twice"),
        ("1: a\n1.0: b", "the key '1.0' is written twice"),
        ("b: &b {lr: 1}\nl: {<<: *b, lr: 2}", "l.lr: the key 'lr' is written twice"),
        ("b: &b {lr: 1}\nl: {<<: [*b, {lr: 3}]}", "l.lr: the key 'lr' is written twice"),
        ("l: {<<: 3}", "l: line 1: '<<' takes in a mapping"),
        ("a: 007", 'a: line 1: 007 may be a number or a text; write "007"'),
        ("a:\n  - 1_000", "a.0: line 2: 1_000 may be a number or a text"),
        ("a: 0x1F", "0x1F may be a number"),
        ("a: 0o17", "0o17 may be a number"),
        ("a: 0b11", "0b11 may be a number"),
        ("a: 00.5", "00.5 may be a number"),
        ("a: .nan", ".nan is no number to compute with"),
        ("a: -.inf", "-.inf is no number to compute with"),
        ("a: 1e999", "1e999 is no number to compute with"),
        ("a: !!python/object/apply:os.getcwd []", "the tag python/object/apply:os.getcwd"),
        ("a: !!set {b, c}", "the tag set is not read"),
        ("a: !own 3", "the tag !own is not read"),
        ("a: &a [*a]", "an alias names what it lies in"),
        ("? [a]\n: 1", "a key must be a text or a number"),
        ("a: b: c", "not valid YAML"),
        ("a: 1\n---\na: 2", "not valid YAML"),
        ("[" * 300 + "]" * 300, "deep"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_line_and_key(text, said):
    with pytest.raises(YamlInvalid) as refused:
        from_yaml(text)
    assert said in str(refused.value)


def test_every_fault_is_told_at_once():
    with pytest.raises(YamlInvalid) as refused:
        from_yaml("a: 007\nb: .nan\nc: {d: 1, d: 2}")
    assert len(refused.value.findings) == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[no, NO, yes, on, Off, y]", ["no", "NO", "yes", "on", "Off", "y"]),
        ("{on: 1, no: 2}", {"on": 1, "no": 2}),
        ("[12:30, 190:20:30]", ["12:30", "190:20:30"]),
        ("[2024-01-01, 2024-01-01 10:00:00]", ["2024-01-01", "2024-01-01 10:00:00"]),
        ("[1e3, 1E-3, 1.5e+2, .5, -0.0, 10, +3]", [1000.0, 0.001, 150.0, 0.5, -0.0, 10, 3]),
        ("[true, False, null, ~, ]", [True, False, None, None]),
        ("['true', \"1\", '007', !!str 007]", ["true", "1", "007", "007"]),
        ("[1.2.3, 1-2, 0.0.0.0, '', =]", ["1.2.3", "1-2", "0.0.0.0", "", "="]),
        ("b: &b {lr: 1}\nl: {<<: *b, mu: 2}", {"b": {"lr": 1}, "l": {"lr": 1, "mu": 2}}),
    ],
)
def test_a_word_is_a_text_and_a_number_what_a_calculator_takes_for_one(text, value):
    found = from_yaml(text)
    assert found == value
    assert repr(found) == repr(value)  # 1 is not True, and 1.0 not 1


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))
    | st.from_regex(r"[-+0-9._eExob:~ynYNnull<]{1,8}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abyno01"), inner),
    max_leaves=8,
)


@given(PLAIN)
def test_what_is_written_is_read_as_it_was(value):
    assert from_yaml(to_yaml(value)) == value
    assert from_yaml(to_yaml_line({"a": value})) == {"a": value}


@given(st.text("abc :#\n-[]{}&*!|>'\"%@`0.1,?<~yno\t", max_size=40))
def test_no_text_ends_in_another_error(text):
    with contextlib.suppress(YamlInvalid):
        from_yaml(text)


FILES = [
    ("job.yaml", Job.load, "name"),
    ("contract.yaml", Contract.load, "name"),
    ("policy.yaml", Policy.load, "min_cohort"),
    ("recipe.yaml", Recipe.load, "keys"),
    ("source.yaml", load_source, "path"),
    ("node.yaml", lambda place: NodeConfig.load(place.parent), "name"),
    ("coordinator.yaml", lambda place: Reachable.load(place.parent), "port"),
    ("bundles.yaml", lambda place: Decisions.load(place.parent), "approved"),
    ("partners.yaml", lambda place: every_partner(place.parent), "bank"),
    ("metadata.yaml", lambda place: Metadata.load(place.parent), "data"),
    ("silo.yaml", lambda place: Silo.open(place.parent), "name"),
]


@pytest.mark.parametrize(("file", "load", "key"), FILES, ids=[each[0] for each in FILES])
@pytest.mark.parametrize(
    "text", ["{key}: 1\n{key}: 2\n", "{{{key}: 1, {key}: 2}}", "x: {{{key}: 1, {key}: 2}}"]
)
def test_a_key_that_stands_there_twice_is_refused_in_every_file(tmp_path, file, load, key, text):
    place = tmp_path / file
    place.write_text(text.format(key=key))
    with pytest.raises(InvalidInput, match=f"the key '{key}' is written twice") as refused:
        load(place)
    assert file in str(refused.value)


def test_two_ways_to_the_same_column_are_refused_in_a_mapping(tmp_path):
    contract = tmp_path / "contract.yaml"
    contract.write_text(
        "name: t\nversion: 1\ncolumns:\n  a: {type: float}\n"
        "  y: {type: integer, role: target, allowed: [0, 1]}\n"
    )
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("contract: t@1\ncolumns: {a: {from: b}, a: {from: a}}\n")
    with pytest.raises(InvalidInput, match=r"columns\.a: the key 'a' is written twice"):
        Mapping.load(mapping, Contract.load(contract))


def test_two_budgets_in_one_job_are_refused(tmp_path):
    job = tmp_path / "job.yaml"
    lines = "privacy: {epsilon: 3.0, delta: 1e-5}\nprivacy: {epsilon: 300.0, delta: 1e-5}\n"
    job.write_text(JOB + lines)
    with pytest.raises(JobInvalid, match="the key 'privacy' is written twice, in line 5 and in"):
        Job.load(job)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("protocol: {rounds: true}", "protocol.rounds: expected a number, found true"),
        ("seed: false", "seed: expected a number, found false"),
        ("local: {lr: true, epochs: 1}", "local.lr: expected a number, found true"),
        ("quorum: {deadline: true}", "quorum.deadline"),
        ("protocol: {betas: [true, 0.9]}", "protocol.betas.0: expected a number, found true"),
        ("protocol: {rounds: yes}", "protocol.rounds"),
        ("local: {args: {nesterov: no}}", "local.args: no may be a boolean or a text"),
        ("model: {name: 'a:B', args: {deep: [yes]}}", "model.args: yes may be a boolean"),
    ],
)
def test_a_boolean_is_no_number_and_a_word_no_boolean_where_anything_goes(tmp_path, line, said):
    job = tmp_path / "job.yaml"
    job.write_text((JOB if "model:" not in line else JOB.rpartition("model")[0]) + line + "\n")
    with pytest.raises(JobInvalid) as refused:
        Job.load(job)
    assert said in str(refused.value)


def test_a_boolean_is_no_number_in_contract_and_policy_either(tmp_path):
    text = "name: t\nversion: true\ncolumns:\n  a: {type: float}\nrules: {min_rows: true}\n"
    (tmp_path / "contract.yaml").write_text(text)
    with pytest.raises(ContractInvalid, match=r"version: expected a number, found true") as found:
        Contract.load(tmp_path / "contract.yaml")
    assert "rules.min_rows: expected a number" in str(found.value)
    (tmp_path / "policy.yaml").write_text("min_cohort: true\n")
    with pytest.raises(PolicyInvalid, match="min_cohort: expected a number, found true"):
        Policy.load(tmp_path / "policy.yaml")


def test_yes_and_no_stay_booleans_where_nothing_else_fits(tmp_path):
    place = tmp_path / "policy.yaml"
    place.write_text(
        "disclosures: {update: yes, metric: no}\nprivacy: {required: no}\nexpires: 2027-12-31\n"
    )
    policy = Policy.load(place)
    assert list(policy.disclosures.values()) == [True, False]
    assert policy.privacy.required is False
    assert policy.expires == date(2027, 12, 31)


def test_codes_are_the_words_that_stand_there(tmp_path):
    place = tmp_path / "contract.yaml"
    place.write_text(
        "name: t\nversion: 1\ncolumns:\n"
        "  country: {type: category, allowed: [NO, SE, on, 12:30, 2024-01-01]}\n"
        "  seen: {type: date, range: {min: 2020-01-01}}\n"
    )
    contract = Contract.load(place)
    assert contract.columns["country"].allowed == ("NO", "SE", "on", "12:30", "2024-01-01")
    assert contract.columns["seen"].range.min == date(2020, 1, 1)


def test_a_key_that_stands_twice_in_json_is_refused():
    assert read_json(b'{"a": {"b": 1}}', max_bytes=99) == {"a": {"b": 1}}
    for text in (b'{"a": 1, "a": 2}', b'{"x": [{"a": 1, "a": 1}]}'):
        with pytest.raises(ValueError, match="a key stands there twice"):
            read_json(text, max_bytes=99)
    contract = {"name": "t", "version": 1, "columns": [{"name": "a", "type": "float"}]}
    text = json.dumps(contract)
    assert Contract.from_json(text).name == "t"
    with pytest.raises(ContractInvalid, match="a key stands there twice"):
        Contract.from_json(text.replace('"version"', '"name": "u", "version"'))


def test_a_file_says_which_file_it_is(tmp_path):
    place = tmp_path / "node.yaml"
    place.write_text("name: 007\n")
    with pytest.raises(ConfigInvalid, match=r"node\.yaml: 1 fault\n  - name: line 1: 007"):
        NodeConfig.load(tmp_path)
