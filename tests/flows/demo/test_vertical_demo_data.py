"""The vertical demo's organisations: overlapping, shuffled, dirty, the same from the same seed."""

import numpy as np
import pandas as pd
import yaml

from consilo.contracts.contract import SHIPPED
from consilo.jobs.job import Job
from flows.demo.vertical_demo_data import identities, soiled, write_organisations


def made(folder, seed=0):
    job = Job.load(SHIPPED / "jobs" / "breast_cancer_vertical.yaml")
    return write_organisations(folder, job, seed=seed)


def test_organisations_share_some_patients_and_know_some_twice(tmp_path):
    organisations = made(tmp_path)
    assert [each.name for each in organisations] == ["clinic", "laboratory", "imaging"]
    for each in organisations:
        assert (each.directory.stat().st_mode & 0o777) == 0o700
        known, times = np.unique(each.patients, return_counts=True)
        assert 0.8 * 569 < len(known) < 0.9 * 569
        assert 10 < (times > 1).sum() < 50
        assert (np.diff(each.patients) < 0).sum() > 100  # in an order of its own
    assert not np.array_equal(organisations[0].patients, organisations[1].patients)


def test_every_organisation_has_a_policy_for_its_part(tmp_path):
    for each in made(tmp_path):
        said = yaml.safe_load((each.directory / "policy.yaml").read_text())["disclosures"]
        assert ("label" in said) == (each.name == "clinic") == ("embedding" not in said)


def test_the_same_seed_makes_the_same_people_and_another_seed_others(tmp_path):
    first, again, other = (
        made(tmp_path / str(place), seed)[0].directory / "patients.csv"
        for place, seed in enumerate((0, 0, 1))
    )
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_faults_are_in_one_field_of_some_rows():
    rng = np.random.default_rng(0)
    people = identities(2000, rng)
    dirty = soiled(people, 0.1, rng)
    differs = people.ne(dirty) & ~(people.isna() & dirty.isna())
    assert set(differs.sum(axis=1)) <= {0, 1}
    # Swapping two signs that are equal is no fault.
    assert 0.07 < differs.any(axis=1).mean() < 0.12
    assert dirty.isna().sum().sum() > 20
    assert people["insurance_no"].is_unique
    assert not people["surname"].is_unique
    assert pd.to_datetime(people["born"]).between("1930-01-01", "1991-01-01").all()
