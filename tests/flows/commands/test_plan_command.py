"""``consilo job plan`` over real silos in this process: policies, budgets, ledgers."""

import json
from pathlib import Path

import clinic
import pytest
import yaml
from agreed import agree
from typer.testing import CliRunner

from consilo.record.chain import check_links
from flows.commands.job import job_app
from silos.kept.ledger import Ledger
from silos.simulation.simulation import simulate

POLICY = {
    "allow": [{"jobs": ["*"]}],
    "disclosures": {"metric": True, "statistic": True, "update": True},
    "min_cohort": 2,
}
PRIVACY = {"epsilon": 2.0, "delta": 1.0e-3, "accountant": "rdp", "statistics_epsilon": 0.5}
BUDGET = {"epsilon": 2.2, "delta": 1.0e-3, "window_days": 30}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    job = {**clinic.JOB, "contract": "clinic.yaml", "privacy": PRIVACY, "local": {"steps": 4}}
    job["quorum"] = {"min_silos": 2}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for name, rows in clinic.frames(60, 50, 40).items():
        silo(tmp_path / "silos" / name, rows, {"budgets": {"*": BUDGET}})
    return tmp_path


def silo(place: Path, rows, privacy) -> None:
    place.mkdir(parents=True)
    rows.to_parquet(place / "rows.parquet", index=False)
    source = {"type": "parquet", "path": "rows.parquet"}
    (place / "silo.yaml").write_text(
        yaml.safe_dump({"name": place.name, "data": {"patients": source}})
    )
    (place / "policy.yaml").write_text(yaml.safe_dump({**POLICY, "privacy": privacy}))
    agree(place, clinic.contract())


def plan(study: Path, *more: str):
    asked = [str(study / "job.yaml"), "--silos", str(study / "silos"), *more]
    return CliRunner().invoke(job_app, ["plan", *asked])


def run(study: Path):
    silos = {place.name: place for place in sorted((study / "silos").iterdir())}
    return simulate(study / "job.yaml", silos, directory=study / "run", search_path=(study,))


def test_the_account_before_and_after_is_told_and_nothing_is_spent(study):
    result = plan(study, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["possible"] is True
    assert (told["adjacency"] is None) == (told["silos"]["north"]["cost"] == {})
    for name, offer in told["silos"].items():
        (account,) = offer["account"]
        assert account["limit"] == "within 30 days"
        assert (account["before"], account["budget"]) == (0.0, 2.2)
        assert 1.7 < account["after"] <= offer["cost"]["epsilon"] <= 2.0
        assert account["left_after"] == pytest.approx(2.2 - account["after"])
        assert Ledger(study / "silos" / name / "ledger.db").entries() == []


def test_what_was_planned_is_what_is_spent_and_the_next_run_is_refused_up_front(study):
    planned = json.loads(plan(study, "--json").stdout)["silos"]
    assert run(study).status == "complete"
    for name, offer in planned.items():
        ledger = Ledger(study / "silos" / name / "ledger.db")
        entries = ledger.entries()
        check_links(entries, "ledger.db")
        assert {each["body"]["account"] for each in entries} == {"patients"}
        kinds = [(each["kind"], each["body"]["mechanism"]) for each in entries]
        assert kinds[:2] == [("reserved", "gaussian_sums"), ("settled", "gaussian_sums")]
        assert kinds[2:] == [("reserved", "dp_sgd"), ("settled", "dp_sgd")] * 3
        again = json.loads(plan(study, "--json").stdout)["silos"][name]
        assert again["code"] == "budget_exhausted"
        left = 2.2 - offer["account"][0]["after"]
        assert f"of which {left:.4g} is left" in again["reason"]
    refused = plan(study)
    assert refused.exit_code == 1
    assert "0 of at least 2 silos answered" in refused.output.replace("\n", " ")
    assert " ".join(refused.output.split()).count("of which") == 3  # each silo's reason once


def test_a_silo_whose_account_runs_dry_in_a_run_is_left_out_of_the_rest(study):
    rules = {"budgets": {"patients": {**BUDGET, "epsilon": 1.2}}}
    (study / "silos/east/policy.yaml").write_text(yaml.safe_dump({**POLICY, "privacy": rules}))
    result = run(study)
    assert result.status == "degraded"
    assert result.silos["east"].status in ("refused", "dropped")
    assert "cannot pay" in result.silos["east"].reason
    faults = [each for each in result.exchanges if each.silo == "east" and each.fault is not None]
    assert [each.fault.code for each in faults] == ["budget_exhausted"]
    assert result.exchanges[-1].verb == "conclude"
    entries = Ledger(study / "silos/east/ledger.db").entries()
    assert {each["kind"] for each in entries} == {"reserved", "settled"}
    told = json.loads(plan(study, "--json").stdout)
    assert told["silos"]["east"]["takes_part"] is False
    assert all("rows" not in each for each in told["silos"].values() if not each["takes_part"])


def test_too_little_noise_and_no_privacy_at_all_are_refused_with_a_budget(study):
    rules = {"budgets": {"*": {**BUDGET, "min_noise_multiplier": 50.0}}}
    (study / "silos/east/policy.yaml").write_text(yaml.safe_dump({**POLICY, "privacy": rules}))
    told = json.loads(plan(study, "--json").stdout)["silos"]
    assert "budget wants 50 or more" in told["east"]["reason"]
    job = yaml.safe_load((study / "job.yaml").read_text())
    del job["privacy"]
    (study / "job.yaml").write_text(yaml.safe_dump(job))
    result = plan(study, "--json")
    assert result.exit_code == 1
    said = {each["reason"] for each in json.loads(result.stdout)["silos"].values()}
    assert said == {"this silo's policy wants differential privacy, the job has none"}


def test_the_table_names_every_silo_and_what_is_left(study):
    shown = plan(study)
    assert shown.exit_code == 0
    for word in ("east", "north", "south", "within 30 days", "are a quorum"):
        assert word in shown.stdout


@pytest.mark.parametrize("more", [[], ["--dir", ".", "--silos", "."]])
def test_where_the_silos_are_must_be_said_once(study, more):
    result = CliRunner().invoke(job_app, ["plan", str(study / "job.yaml"), *more])
    assert result.exit_code != 0
    assert "give --dir of a federation that is up, or --silos" in str(result.exception)
