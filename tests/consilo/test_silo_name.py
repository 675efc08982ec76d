"""One rule for silos' names, in the same words in every entrance.

Fault: a directory `A` became silo `a` without a word, a job that named `A` was valid, and then
silo 'a' held nothing; `simulate` told of a pattern of an inner class.
"""

import json
import subprocess
import sys
from pathlib import Path

import clinic
import pytest
import vertical
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consilo.config import parse
from consilo.errors import ConfigInvalid, JobInvalid
from consilo.jobs.joint import JointJob
from consilo.membership.calls import SILO_HEADER, Call, headers_of
from consilo.membership.door import Enrolment
from consilo.membership.invitation import _File
from consilo.silo_name import FORM, fault_of, proposed
from silos import simulate
from silos.gate.policy import Policy
from silos.node_config import NodeConfig
from silos.proposals import onboard
from silos.silo_config import SiloConfig

NONE = ("A", "Nord", "north west", "3rd", "hôpital", "a/b", "../a", "", "-a", "a" * 64, "a\n", "北")
RULE = r"a silo's name is a lower-case letter, then lower-case letters, digits, '_' and '-'"


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_name_is_told_with_the_rule_and_a_proposal(name):
    told = fault_of(name)
    assert told.startswith("a silo's name is ")
    assert repr(name)[:60] in told
    proposal = proposed(name)
    assert (f"'{proposal}' would do" in told) == bool(proposal)
    assert not proposal or not fault_of(proposal)


@pytest.mark.parametrize("name", [1, None, 2.5, ("a",), b"a"])
def test_what_is_no_text_is_no_name(name):
    assert repr(name) in fault_of(name)


@given(st.text())
def test_a_proposal_is_a_name_that_proposes_itself(text):
    found = proposed(text)
    assert not found or (not fault_of(found) and proposed(found) == found)


def in_silo_yaml(name):
    data = {"rows": {"type": "csv", "path": "rows.csv"}}
    parse(SiloConfig, {"name": name, "data": data}, where="silo.yaml")


def in_node_yaml(name):
    parse(NodeConfig, {"name": name, "superlink": "h:1"}, where="node.yaml")


def in_an_invitation(name):
    parse(_File, {"name": name}, where="a.invitation.json")


def at_the_door(name):
    parse(Enrolment, {"name": name}, where="the request")


def in_a_simulation(name):
    simulate(clinic.job(), {name: clinic.frame(30)}, contract=clinic.contract())


def as_excluded(name):
    clinic.job(exclude=[name])


def as_mandatory(name):
    clinic.job(quorum={"mandatory": [name]})


def as_hub(name):
    clinic.job(match={"recipe": {"keys": [{"parts": [{"column": "age"}]}]}, "hub": name})


def as_holder(name):
    columns = {"shop": ("s",), name: ("b",), "bank": ("c",)}
    JointJob.of(vertical.job_of("vertical_linear", columns)).holders  # noqa: B018


def as_label_silo(name):
    columns = {"shop": ("s",), "bank": ("c",)}
    args = {"label_silo": name}
    JointJob.of(vertical.job_of("vertical_linear", columns, args=args)).holders  # noqa: B018


def as_partner(name):
    parse(
        Policy, {"allow": [{"jobs": ["*"]}], "matching": {"partners": [name]}}, where="policy.yaml"
    )


ENTRANCES = (
    as_partner,
    in_silo_yaml, in_node_yaml, in_an_invitation, at_the_door, in_a_simulation, as_excluded,
    as_mandatory, as_hub, as_holder, as_label_silo,
)  # fmt: skip


@pytest.mark.parametrize("name", NONE)
@pytest.mark.parametrize("entrance", ENTRANCES, ids=lambda each: each.__name__)
def test_every_entrance_says_the_same(entrance, name):
    with pytest.raises((ConfigInvalid, JobInvalid), match=RULE) as refused:
        entrance(name)
    assert fault_of(name) in str(refused.value)
    assert "[key]" not in str(refused.value)
    assert "pattern" not in str(refused.value)


def test_a_simulation_names_all_that_are_none_and_takes_no_numbers():
    rows = {"A": clinic.frame(30), 1: clinic.frame(30), "b": clinic.frame(30)}
    with pytest.raises(ConfigInvalid, match=r"found 'A'; 'a' would do\n.*found 1$"):
        simulate(clinic.job(), rows, contract=clinic.contract())


def test_a_data_set_and_a_job_are_called_by_the_same_rule():
    data = {"My rows": {"type": "csv", "path": "rows.csv"}}
    with pytest.raises(ConfigInvalid, match=r"data\.My rows: a data set's name is .*'my-rows'"):
        parse(SiloConfig, {"name": "a", "data": data}, where="silo.yaml")
    with pytest.raises(JobInvalid, match=r"name: a job's name is .*'my-job' would do"):
        clinic.job(name="My job")


def test_a_signed_call_of_such_a_name_is_none():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    for name, is_call in (("north", True), ("North", False), ("north\n", False)):
        headers = headers_of(key, name, "GET", "/v1/consilo/members", b"", now=0)
        assert (Call.of(headers) is not None) == is_call
        assert headers[SILO_HEADER] == name


def test_the_directory_that_gave_a_silo_its_name_is_refused(tmp_path):
    home = tmp_path / "A"
    home.mkdir()
    (home / "rows.csv").write_text("age\n3\n")
    with pytest.raises(ConfigInvalid, match="'a' would do: say it with --silo NAME"):
        onboard.add(home, "rows", {"type": "csv", "path": "rows.csv"})
    onboard.add(home, "rows", {"type": "csv", "path": "rows.csv"}, name="ward")
    assert yaml.safe_load((home / "silo.yaml").read_text())["name"] == "ward"


def test_a_command_about_a_silo_says_the_rule(tmp_path):
    command = [
        Path(sys.executable).with_name("consilo"),
        "job",
        "validate",
        str(tmp_path / "job.yaml"),
    ]
    job = {**clinic.job().to_json(), "exclude": ["North"]}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "exclude.0: a silo's name is " in found.stderr
    assert "'north' would do" in found.stderr


def test_the_schema_of_a_job_has_the_rule():
    schema = json.loads((Path(__file__).parents[2] / "schemas" / "job.schema.json").read_text())
    assert json.dumps(schema).count(json.dumps(f"^{FORM}$")) >= 4
