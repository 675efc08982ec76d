"""``consilo match run`` and the flow, over real silos in this process: policy, audit, store."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from agreed import agree
from typer.testing import CliRunner

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.record.chain import check_links, read
from consilo.runs.match import contract_of
from flows.commands.match import match_app
from flows.services.ask import opened
from flows.services.connection import connecting
from flows.services.order import Order
from silos.kept.matches import read_match

CONTRACT = """
name: people
version: 1
columns:
  number: {type: string, role: id, nullable_share: 1.0}
  surname: {type: string, role: id, nullable_share: 1.0}
  born: {type: string, role: id, nullable_share: 1.0}
"""
RECIPE = {
    "keys": [
        {"parts": [{"column": "number", "steps": ["trim", "digits"]}], "duplicates": "same"},
        {"parts": [{"column": "surname"}, {"column": "born", "steps": ["date:%d.%m.%Y"]}]},
    ]
}
POLICY = {
    "allow": [{"jobs": ["*"]}],
    "disclosures": {"statistic": True, "sealed": True, "match": True},
    "min_cohort": 1,
    "matching": {
        "min_set_size": 20,
        "min_intersection": 10,
        "queries_per_partner": 3,
        "refuse_similar": 0.1,
    },
}


def people(numbers) -> pd.DataFrame:
    numbers = list(numbers)
    return pd.DataFrame(
        {
            "number": [f"{n:05d}" for n in numbers],
            "surname": [f"Name{n}" for n in numbers],
            "born": [f"{n % 28 + 1}.{n % 12 + 1}.{1950 + n % 50}" for n in numbers],
            "amount": np.arange(len(numbers)),
        }
    )


def fill(place: Path, rows: pd.DataFrame) -> None:
    rows.to_csv(place / "rows.csv", index=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "people.yaml").write_text(CONTRACT)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    job = {"name": "joint", "kind": "match", "contract": "people.yaml", "purpose": "research"}
    job |= {"match": {"recipe": "recipe.yaml", "hub": "bank"}, "quorum": {"min_silos": 2}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for name, numbers in (("bank", range(100)), ("telecom", range(60, 200))):
        place = tmp_path / "silos" / name
        place.mkdir(parents=True)
        fill(place, people(numbers))
        # All columns are text: a leading zero is part of a number.
        source = {"type": "csv", "path": "rows.csv"}
        (place / "silo.yaml").write_text(
            yaml.safe_dump({"name": name, "data": {"customers": source}})
        )
        (place / "policy.yaml").write_text(yaml.safe_dump(POLICY))
        agree(place, Contract.load(tmp_path / "people.yaml"))
    return tmp_path


def run(study: Path, *more: str):
    asked = [str(study / "job.yaml"), "--silos", str(study / "silos"), "--json", *more]
    found = CliRunner().invoke(match_app, ["run", *asked])
    assert found.stdout, found.exception
    return found.exit_code, json.loads(found.stdout)


def policy(study: Path, **matching) -> None:
    for place in (study / "silos").iterdir():
        if (place / "policy.yaml").exists():
            rules = {**POLICY["matching"], **matching}
            (place / "policy.yaml").write_text(yaml.safe_dump({**POLICY, "matching": rules}))


def decisions(study: Path, silo: str) -> list[str]:
    entries = read(study / "silos" / silo / "audit.jsonl")
    return [each["body"]["decision"] for each in entries if each["kind"] == "match"]


def test_a_match_is_kept_in_each_silo_and_everything_is_on_record(study):
    code, told = run(study)
    assert code == 0, told
    assert told["silos"]["bank"] == {
        "matched": 40, "match_rate": 0.4, "rows": 100, "entities": 100,
        "ambiguous": 0, "without_key": 0,
    }  # fmt: skip
    halves = {name: read_match(study / "silos" / name, "joint") for name in ("bank", "telecom")}
    rows = {"bank": people(range(100)), "telecom": people(range(60, 200))}
    names = [rows[name]["surname"].iloc[each.rows].tolist() for name, each in halves.items()]
    assert names[0] == names[1]
    assert set(names[0]) == {f"Name{n}" for n in range(60, 100)}
    assert decisions(study, "bank") == ["allowed", "disclosed", "disclosed", "kept"]
    kinds = [each["kind"] for each in read(Path(told["record"]))]
    assert kinds == ["opened", "matched", "replies", "replies", "closed"]
    check_links(read(Path(told["record"])), "record.jsonl")
    assert not list((study / "silos" / "bank" / "runs").glob("*"))
    shown = CliRunner().invoke(match_app, ["show", "--silo", str(study / "silos" / "bank")])
    assert "joint: 40 people shared with telecom (40.0% of those here)" in shown.stdout
    shown = CliRunner().invoke(
        match_app, ["show", "joint", "--silo", str(study / "silos" / "bank"), "--json"]
    )
    report = json.loads(shown.stdout)["matches"][0]["report"]
    assert report["partners"]["telecom"]["entities"] == 140


def test_the_recipe_can_be_given_without_a_job(study):
    asked = ["--recipe", str(study / "recipe.yaml"), "--contract", "people.yaml"]
    found = CliRunner().invoke(
        match_app, ["run", *asked, "--handle", "other", "--silos", str(study / "silos"), "--json"]
    )
    assert json.loads(found.stdout)["status"] == "complete", found.stdout
    assert len(read_match(study / "silos" / "bank", "other").rows) == 40


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"min_intersection": 41}, "at least in common"),
        ({"min_set_size": 120}, "it has fewer"),
        ({"partners": ["hospital"]}, "does not let it be matched with"),
        ({"recipes": ["0" * 12]}, "has approved the key recipe"),
    ],
)
def test_a_policy_that_wants_more_ends_the_match_and_nobody_learns_who(study, rules, code):
    policy(study, **rules)
    exit_code, told = run(study)
    assert exit_code == 1
    assert code in told["reason"]
    assert not list((study / "silos").glob("*/matches/*"))
    assert "refused" in decisions(study, "bank") + decisions(study, "telecom")
    assert "kept" not in decisions(study, "bank")


def test_an_approved_recipe_is_named_by_its_hash(study):
    recipe = Job.load(study / "job.yaml").match.recipe
    policy(study, recipes=[recipe.hash[:12]])
    assert run(study)[0] == 0


@pytest.mark.parametrize("without", ["matching", "disclosures"])
def test_a_silo_whose_policy_says_nothing_of_matching_is_matched_with_nobody(study, without):
    said = {**POLICY, "disclosures": {"statistic": True, "sealed": True}}
    if without == "matching":
        said = {key: each for key, each in POLICY.items() if key != "matching"}
    (study / "silos" / "telecom" / "policy.yaml").write_text(yaml.safe_dump(said))
    code, told = run(study)
    assert code == 1
    assert "matching" in told["reason"] or "'match' leave" in told["reason"]


def test_differencing_by_repeated_matches_is_refused(study):
    """The telecom drops one customer at a time; the answers would tell of that customer."""
    policy(study, queries_per_partner=9)
    assert run(study)[0] == 0
    assert run(study)[0] == 0  # the very same question tells nothing new
    fill(study / "silos" / "telecom", people(range(60, 199)))
    code, told = run(study)
    assert code == 1
    assert "single people" in told["reason"]
    # Its own software refuses; so does the other side's, whatever the telecom's software does.
    loose = yaml.safe_load((study / "silos" / "telecom" / "policy.yaml").read_text())
    loose["matching"] |= {"refuse_similar": 0.0, "queries_per_partner": 99}
    (study / "silos" / "telecom" / "policy.yaml").write_text(yaml.safe_dump(loose))
    fill(study / "silos" / "telecom", people(range(61, 200)))
    code, told = run(study)
    assert code == 1
    assert "bank: refused: the people of 'telecom' are nearly" in told["reason"]


def test_a_partner_has_a_number_of_queries(study):
    policy(study, refuse_similar=0.0)
    assert [run(study)[0] for _ in range(4)] == [0, 0, 0, 1]
    assert "lets 'telecom' ask 3 times" in run(study)[1]["reason"]


def test_people_that_changed_are_matched_anew_before_they_are_used(study):
    policy(study, refuse_similar=0.0)
    assert run(study)[0] == 0
    fill(study / "silos" / "telecom", people(range(90, 200)))
    code, told = run(study)
    assert (code, told["silos"]["telecom"]["matched"]) == (0, 10)
    report = read_match(study / "silos" / "bank", "joint").report
    assert report["drift"]["matched"] == -30


@pytest.mark.flow
def test_the_flow_matches_as_the_command_does(study, services):
    from flows.match import match

    job = Job.load(study / "job.yaml")

    @contextmanager
    def here(order: Order):
        with opened(order.job, order.contract, study, None, study / "silos") as connection:
            yield connection

    assert contract_of(job, [study]).ref == "people@1"
    assert threading.current_thread() is threading.main_thread()
    with connecting(here):
        state = match(str(study / "job.yaml"), home=str(study), wait_s=0, return_state=True)
    assert state.name == "Completed", state.message
    assert state.result()["silos"]["telecom"]["matched"] == 40
    assert len(read_match(study / "silos" / "telecom", "joint").rows) == 40


def test_a_vertical_job_is_matched_ahead_as_its_run_would_match_it(tmp_path, monkeypatch):
    """It was matched under the job's name, with all silos, so that its run matched once more."""
    import joint

    from consilo.runs.vertical import run_vertical
    from silos.kept.matches import every_match

    silos = joint.write_silos(tmp_path, joint.everybody())
    columns = {name: list(joint.COLUMNS[name]) for name in ("bank", "shop")}
    names = [each for held in columns.values() for each in held]
    contract = {**joint.JOINT, "columns": dict(joint.JOINT["columns"])}
    for name in set(joint.NAMES) - set(names):
        del contract["columns"][name]
    (tmp_path / "joint.yaml").write_text(yaml.safe_dump(contract))
    for place in silos.values():
        agree(place, Contract.load(tmp_path / "joint.yaml"))
    job = joint.job_of(args={"columns": columns})
    said = {**job.to_json(), "contract": "joint.yaml"}
    said["match"] |= {"contract": "people.yaml"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(said))
    asked = [str(tmp_path / "job.yaml"), "--silos", str(tmp_path), "--json"]
    found = CliRunner().invoke(match_app, ["run", *asked])
    told = json.loads(found.stdout)
    assert told["status"] == "complete", told["reason"]
    assert (told["handle"], told["hub"]) == ("customers", "bank")
    assert [each.handle for each in every_match(silos["shop"])] == ["customers"]
    assert every_match(silos["telecom"]) == []
    result = run_vertical(joint.Federation(silos, tmp_path).opened(job, "ahead"))
    assert result.status == "complete", result.reason
    (match,) = (e["body"] for e in read(Path(result.record)) if e["kind"] == "matched")
    assert match["reused"]
