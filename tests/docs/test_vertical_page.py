"""What `docs/vertical.md` shows about columns is what the program takes."""

import re
from pathlib import Path

import yaml

from consilo.config import parse
from silos.kept.metadata import Metadata

PAGE = (Path(__file__).parents[2] / "docs" / "vertical.md").read_text(encoding="utf-8")


def test_the_metadata_shown_is_valid_and_shares_what_it_says() -> None:
    (text,) = re.findall(r'```yaml title="metadata.yaml"\n(.*?)```', PAGE, re.DOTALL)
    said = parse(Metadata, yaml.safe_load(text), where="the page")
    assert [card.key for card in said.shared()] == [
        "patients/BD_SYS",
        "patients/SEX_CD",
        "patients/DIED",
    ]


def test_the_recipe_shown_is_valid_for_the_contract_shown_and_the_policy_for_both() -> None:
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import MatchSpec
    from consilo.jobs.recipe import Recipe
    from silos.gate.policy import Policy

    def shown(title):
        (text,) = re.findall(rf'```yaml title="{title}"\n(.*?)```', PAGE, re.DOTALL)
        return yaml.safe_load(text)

    recipe = parse(Recipe, shown("recipe.yaml"), where="the page")
    contract = Contract.parse(shown("people.yaml"), where="the page")
    recipe.require_columns(list(contract.columns), where="the page")
    match = shown("job.yaml, in part")["match"]
    assert (
        parse(MatchSpec, {**match, "recipe": recipe.model_dump()}, where="the page").hub == "bank"
    )
    policy = parse(Policy, shown("policy.yaml, in part"), where="the page")
    assert policy.matching is not None
    assert policy.matching.partners == ("bank", "telecom")


def block(title):
    (text,) = re.findall(rf'```yaml title="{re.escape(title)}"\n(.*?)```', PAGE, re.DOTALL)
    return text


def customers(folder, silo, columns):
    """A silo with the page's policy, over made-up people of whom others know other things."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(3)
    size = 1600
    hidden = rng.normal(size=size)
    people = {
        "insurance_no": [f"{n:08d}" for n in rng.permutation(10**7)[:size]],
        "surname": [f"Name{n}" for n in rng.integers(0, 400, size)],
        "given_name": [f"Given{n}" for n in rng.integers(0, 90, size)],
        "born": [f"{n % 28 + 1:02d}.{n % 12 + 1:02d}.{1950 + n % 50}" for n in range(size)],
        "postcode": [f"{n:05d}" for n in rng.integers(10_000, 10_300, size)],
        "age": rng.uniform(20, 90, size).round(1),
        "balance": rng.normal(1000, 300, size) + 50 * hidden,
        "calls": rng.poisson(np.exp(3 + 0.4 * hidden)),
        "roaming": rng.gamma(2.0, 3.0, size),
        "churned": np.where(rng.random(size) < 1 / (1 + np.exp(-2 * hidden)), "yes", "no"),
        "customer_no": [f"B{n}" for n in range(size)],
    }
    ids = ["insurance_no", "surname", "given_name", "born", "postcode"]
    own = [*columns, *(["customer_no", "churned"] if silo == "bank" else [])]
    mine = pd.DataFrame(people)[ids + own].sample(frac=0.85, random_state=len(silo))
    place = folder / "silos" / silo
    place.mkdir(parents=True)
    mine.to_csv(place / "customers.csv", index=False)
    kind = "the label silo" if silo == "bank" else "a feature silo"
    said = yaml.safe_load(block(f"policy.yaml of {kind}, in part"))
    (place / "policy.yaml").write_text(yaml.safe_dump({"allow": [{"jobs": ["churn*"]}], **said}))
    return place


def test_a_data_set_that_nobody_has_seen_is_matched_trained_and_scored_by_the_page(
    tmp_path, monkeypatch
):
    """Every file is a block of the page, every command a line of it; only the rows are ours."""
    import json
    import shlex

    from typer.testing import CliRunner

    from flows.commands.job import job_app
    from silos.commands.app import app as silo_app

    monkeypatch.chdir(tmp_path)
    for title in ("joint.yaml", "people.yaml", "recipe.yaml", "job.yaml", "scores.yaml"):
        (tmp_path / title).write_text(block(title))
    held = yaml.safe_load(block("job.yaml"))["protocol"]["args"]["columns"]
    places = {silo: customers(tmp_path, silo, columns) for silo, columns in held.items()}
    told = re.search(r'```sh title="each silo"\n(consilo silo data add.*?)```', PAGE, re.DOTALL)
    for place in places.values():
        monkeypatch.chdir(place)
        for name in ("joint.yaml", "people.yaml", "recipe.yaml", "job.yaml"):
            (place / name).write_text(block(name))
        for line in told[1].strip().splitlines():
            done = CliRunner().invoke(silo_app, shlex.split(line)[2:])
            assert done.exit_code == 0, (line, done.output)

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(job_app, [*arguments, "--silos", "silos/", "--local", "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    trained = run("run", "job.yaml")
    assert trained["status"] == "complete", trained["reason"]
    assert trained["metrics"]["joined/roc_auc"] > trained["metrics"]["label_only/roc_auc"] + 0.05
    assert trained["match"]["rows"] > 1000
    text = block("scores.yaml").replace("models:/churn@candidate    #", f"{trained['run_id']}    #")
    (tmp_path / "scores.yaml").write_text(text)
    scored = run("run", "scores.yaml")
    assert scored["status"] == "complete", scored["reason"]
    assert (places["bank"] / "scores" / f"{scored['run_id']}.csv").exists()


def test_every_job_of_the_page_is_valid(tmp_path):
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.runs.vertical import plan_vertical

    for title in ("joint.yaml", "people.yaml", "recipe.yaml"):
        (tmp_path / title).write_text(block(title))
    for title in ("job.yaml", "scores.yaml"):
        (tmp_path / title).write_text(block(title))
        job = Job.load(tmp_path / title)
        plan_vertical(job, Contract.load(job.contract, search=[tmp_path]), (), (tmp_path,))
