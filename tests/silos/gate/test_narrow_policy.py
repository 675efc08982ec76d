"""The policy that a silo's people begin with lets one job run, as far as it needs, and no other."""

from __future__ import annotations

import clinic
import pytest
import yaml
from typer.testing import CliRunner

from consilo.contracts.contract import SHIPPED
from consilo.errors import JobInvalid, Refused
from consilo.jobs.job import Job
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.verbs import Disclosure
from consilo.protocols.names import asked_besides, asked_of, find_protocol
from silos.commands.app import app
from silos.gate.narrow_policy import Waiting, narrowest
from silos.gate.policy import Circumstances, Policy

PRIVATE = {
    "privacy": {
        "epsilon": 3.0,
        "delta": 1e-4,
        "statistics_epsilon": 0.5,
        "metrics_epsilon": 0.5,
    }
}
PRIVATE_TRAINING = {"privacy": {"epsilon": 3.0, "delta": 1e-4}}
JOBS = {
    "plain": {},
    "private": PRIVATE,
    "exact statistics": {"privacy": {"epsilon": 3.0, "delta": 1e-4}},
    "scaled by the contract": {**PRIVATE_TRAINING, "features": {"standardize": "contract"}},
    "reproducible": {"privacy": {**PRIVATE["privacy"], "reproducible": True}},
    "threads": {"local": {"threads": 3}},
    "four silos": {"quorum": {"min_silos": 4}},
}


def header(job: Job, contract: str = "clinic@1") -> Header:
    manifest = Manifest("run", job.name, job.digest, contract, "c" * 64, job.purpose, "b" * 64)
    names = tuple("abcdef")
    return Header("run", "0/0/train", "s" * 64, 0, "a", "p", "v", names, manifest)


def met() -> Circumstances:
    return Circumstances(1.8e9, frozenset("bcdef"), 0, lambda: 500)


def allowed(policy: Policy, job: Job, contract: str = "clinic@1") -> set[str]:
    """Ask everything that a run of the job asks; return what is kept back of it."""
    kept = set()
    for name in (job.algorithm, *asked_besides(job)):
        for verb in find_protocol(name).verbs().values():
            if verb.name not in find_protocol(name).asks(job):
                continue
            permitted = policy.permit(header(job, contract), job, asked_of(name, verb), met())
            kept |= set(permitted.withheld)
    return kept


def policy_of(job: Job, path, waiting=None) -> Policy:
    place = path / "policy.yaml"
    place.write_text(narrowest(job, waiting))
    return Policy.load(place)


@pytest.mark.parametrize("name", JOBS)
def test_it_lets_its_job_run_and_no_other(name, tmp_path):
    job = clinic.job(**JOBS[name])
    policy = policy_of(job, tmp_path)
    assert "update" not in " ".join(allowed(policy, job))
    others = [
        clinic.job(**JOBS[name], name="another"),
        clinic.job(**JOBS[name], purpose="marketing"),
        clinic.job(**{**JOBS[name], "evaluation": {"holdout": 0.4}}),
    ]
    for other in others:
        with pytest.raises(Refused):
            allowed(policy, other)
    with pytest.raises(Refused):
        allowed(policy, job, contract="clinic@2")


def test_a_private_job_needs_privacy_and_a_budget_of_one_run(tmp_path):
    job = clinic.job(**PRIVATE)
    policy = policy_of(job, tmp_path)
    assert policy.privacy.required
    assert not policy.privacy.exact_statistics
    assert policy.privacy.budgets["*"].epsilon == 3.0
    dearer = clinic.job(privacy={**PRIVATE["privacy"], "epsilon": 3.1})
    for other in (clinic.job(), dearer, clinic.job(**JOBS["reproducible"])):
        with pytest.raises(Refused):
            allowed(policy, other)


def test_one_whose_features_are_scaled_by_the_contract_needs_nothing_exact(tmp_path):
    policy = policy_of(clinic.job(**JOBS["scaled by the contract"]), tmp_path)
    assert policy.privacy.required
    job = clinic.job(**PRIVATE_TRAINING, features={"standardize": "global"})
    assert not policy_of(job, tmp_path).privacy.required


def test_what_a_job_does_not_need_is_not_in_it(tmp_path):
    silent = clinic.job(**JOBS["exact statistics"])  # pays for no figures
    found = policy_of(silent, tmp_path).disclosures
    assert set(found) == {Disclosure.STATISTIC, Disclosure.UPDATE}
    spread = {"name": "spread", "kind": "analytics", "contract": "clinic@1"}
    policy = policy_of(Job.from_json(spread), tmp_path)
    assert policy.disclosures == {Disclosure.STATISTIC: True}


def test_every_line_has_its_reason():
    text = narrowest(clinic.job(**PRIVATE), Waiting("f" * 64, "clinic@1"))
    bare = [
        line for line in text.splitlines() if line and "#" not in line and not line.endswith(":")
    ]
    assert bare == []
    rule = yaml.safe_load(text)["allow"][0]
    assert rule == {
        "jobs": ["clinic"],
        "purposes": ["unstated"],
        "contracts": ["clinic@1"],
        "bundles": ["f" * 64],
    }


@pytest.mark.parametrize("path", sorted((SHIPPED / "jobs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_job_that_ships_has_one(path, tmp_path):
    assert policy_of(Job.load(path), tmp_path).allow


def test_code_of_the_jobs_own_is_judged_by_its_bundle():
    with pytest.raises(JobInvalid, match="consilo silo bundles"):
        narrowest(clinic.job(protocol={"name": "mine:Protocol"}))


def test_the_command_writes_it_once_and_never_one_that_allows_all(tmp_path):
    run = CliRunner()
    found = run.invoke(app, ["policy", "--dir", str(tmp_path)])
    assert "consilo silo policy --job FILE" in str(found.exception)
    assert not (tmp_path / "policy.yaml").exists()
    found = run.invoke(app, ["policy", "--dir", str(tmp_path), "--job", "heart"])
    assert found.exit_code == 0, found.output
    text = (tmp_path / "policy.yaml").read_text()
    assert Policy.load(tmp_path / "policy.yaml").allow[0].jobs == ("heart",)
    found = run.invoke(app, ["policy", "--dir", str(tmp_path), "--job", "breast_cancer"])
    assert "it was left as it is" in found.output
    assert 'jobs: ["breast-cancer"]' in found.output
    assert (tmp_path / "policy.yaml").read_text() == text
