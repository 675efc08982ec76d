"""A kind of job is a class: what it has, what it does, and how it is read and written."""

from __future__ import annotations

import json

import clinic
import joint
import pytest
import yaml

from consilo.contracts.contract import SHIPPED
from consilo.errors import IncompatibleJob, JobInvalid
from consilo.jobs.analytics import Analytics
from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job
from consilo.jobs.joint import JointJob
from consilo.jobs.match_job import MatchJob
from consilo.jobs.model_job import ModelJob
from consilo.jobs.scoring import Scoring
from consilo.jobs.vertical import Vertical
from consilo.kernel.headers import WIRE_VERSIONS
from consilo.protocols.names import NAMES
from consilo.runs.kinds import WAYS, way_of

MATCH = {
    "recipe": {
        "keys": [{"parts": [{"column": "number", "steps": ["digits"]}], "duplicates": "same"}]
    },
    "hub": "bank",
}
PEOPLE = {"name": "people", "contract": "people@1", "match": MATCH}
SPREAD = {"name": "spread", "kind": "analytics", "contract": "heart@1"}
EVERY = {
    Horizontal: clinic.JOB,
    Vertical: joint.job_of().to_json(),
    Scoring: yaml.safe_load((SHIPPED / "jobs" / "breast_cancer_scores.yaml").read_text()),
    MatchJob: {**PEOPLE, "kind": "match"},
    Analytics: SPREAD,
}


def made(**value: object) -> Job:
    return Job.from_json(value)


@pytest.mark.parametrize(
    ("job", "digest"),
    [
        ("breast_cancer", "7152d62adc7905d649254705fdcd941fd50d76f7c50369da244102cdcbb9825c"),
        (
            "breast_cancer_scores",
            "502f6240f548eba196e3df95970a2c23de54037fb4d5ec965b6ad0871f35d92d",
        ),
        (
            "breast_cancer_vertical",
            "63759514f777240acc2f11435e2eae54155ff3a86f379c543a744d3eec28dfa8",
        ),
        ("heart", "295564df38f0834f29d3e16116e3cd855688b2e6c91892937b4b37fbe608cd9a"),
    ],
)
def test_a_shipped_job_has_the_digest_that_it_had_before_there_were_classes(job, digest):
    assert Job.load(SHIPPED / "jobs" / f"{job}.yaml").digest == digest


@pytest.mark.parametrize(
    ("changes", "kind", "digest"),
    [
        ({}, MatchJob, "4fffb035026be02c24cbde726f78e1e54cc25f41572b8a4bf12beb2e3da275df"),
        (
            {"purpose": "research", "exclude": ["shop"], "quorum": {"min_silos": 3}, "seed": 4},
            MatchJob,
            "fd5d9cd093b54dd596abbb76e82f79583b605675fde5b30185a7e4a9c5048a43",
        ),
        (
            {"protocol": {"rounds": 3}},
            Horizontal,
            "0079deb89b772e065429c294cffea961beb63a1f8f02e5358b19edd27cd6dd78",
        ),
    ],
)
def test_a_match_without_a_kind_and_a_model_loads_with_the_digest_of_before(changes, kind, digest):
    job = made(**PEOPLE, **changes)
    assert isinstance(job, kind)
    assert job.digest == digest
    assert isinstance(made(**job.to_json()), kind)
    assert made(**job.to_json()) == job
    assert job.match_spec.hub == "bank"


def test_a_match_with_a_model_of_before_stays_a_horizontal_job_that_can_be_matched():
    job = clinic.job(match=MATCH)
    assert isinstance(job, Horizontal)
    assert job.digest == "9d4be04df5ab129363005ac356de54927e58619c2d428046c1f14a7f035eecd3"
    assert job.match_spec == made(**PEOPLE).match_spec


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_each_kind_round_trips_and_says_all_that_is_asked_of_it(kind):
    job = made(**EVERY[kind])
    assert type(job) is kind
    assert made(**json.loads(json.dumps(job.to_json()))) == job
    assert job.changed(seed=7).seed == 7
    assert type(job.changed(seed=7)) is kind
    assert job.algorithm in NAMES
    assert job.kind_since in WIRE_VERSIONS
    assert set(job.young_keys().values()) <= set(WIRE_VERSIONS)
    assert "kind" not in job.young_keys() or job.young_keys()["kind"] == job.kind_since
    assert (job.kind in WAYS) == (kind is not MatchJob)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({**SPREAD, "kind": "analytic"}, "kind: expected one of .* did you mean 'analytics'"),
        ({**SPREAD, "quorm": {}}, "quorm: unknown key; did you mean 'quorum'"),
        ({**SPREAD, "model": "m:Net"}, "model: not an option of kind analytics, but of kind horiz"),
        ({**PEOPLE, "kind": "match", "features": {}}, "features: not an option of kind match"),
        ({**PEOPLE, "kind": "match", "privacy": {"epsilon": 1, "delta": 0.1}}, "privacy: "),
        ({**SPREAD, "kind": "match"}, "match: this key is required and missing"),
        ({**SPREAD, "kind": "horizontal"}, "model: fedavg trains a model"),
        ({**SPREAD, "kind": "scoring"}, "a scoring job cannot run protocol.name 'fedavg'"),
        ({**clinic.JOB, "kind": "vertical"}, "a vertical job cannot run protocol.name 'fedavg'"),
        ({**clinic.JOB, "protocol": {"name": "vertical_trees"}}, "a horizontal job cannot run"),
        ({**SPREAD, "kind": "vertical", "protocol": {"name": "vertical_split"}}, "model: vert"),
        ({**SPREAD, "kind": "vertical", "protocol": {"name": "vertical_score"}}, "kind scoring"),
    ],
)
def test_a_fault_is_told_in_the_words_of_the_kind(value, said):
    with pytest.raises(JobInvalid, match=said):
        Job.from_json(value)


def test_a_job_of_another_kind_is_refused_in_words():
    with pytest.raises(IncompatibleJob, match="is of the kind analytics; there is no model"):
        ModelJob.of(made(**SPREAD))
    with pytest.raises(IncompatibleJob, match="does not say which silo holds which columns"):
        JointJob.of(clinic.job())
    with pytest.raises(IncompatibleJob, match="is of the kind match; run it with 'consilo match"):
        way_of(made(**PEOPLE))
    with pytest.raises(IncompatibleJob, match="has no section 'match'"):
        clinic.job().match_spec  # noqa: B018


def test_each_kind_says_whom_it_asks():
    silos = ["shop", "bank", "other"]
    assert clinic.job(exclude=["bank"]).asked(silos) == ("other", "shop")
    assert made(**PEOPLE).asked(silos) == ("bank", "other", "shop")
    assert joint.job_of().asked(silos) == tuple(sorted(joint.COLUMNS))


def test_a_vertical_job_is_matched_among_its_own_silos_and_by_its_own_handle():
    ahead = joint.job_of().to_match()
    assert ahead.match_spec.handle == "customers"
    assert ahead.match_spec.hub == joint.LABEL
    assert set(ahead.quorum.mandatory) == set(joint.COLUMNS)
    assert made(**PEOPLE).to_match() == made(**PEOPLE)
