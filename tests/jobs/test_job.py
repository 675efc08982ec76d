import json

import clinic
import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consilo.contracts.contract import SHIPPED, Contract
from consilo.errors import JobInvalid
from consilo.jobs.job import Job
from consilo.jobs.schema import SCHEMAS, contract_schema, job_schema, stale
from consilo.runs.planning.plan import plan
from consilo.runs.vertical import plan_vertical

JOBS = sorted((SHIPPED / "jobs").glob("*.yaml"))
CONTRACTS = sorted((SHIPPED / "contracts").glob("*.yaml"))


def faults(**changes) -> str:
    with pytest.raises(JobInvalid) as caught:
        clinic.job(**changes)
    return str(caught.value)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_shipped_job_loads_plans_and_fits_its_schema(path):
    job = Job.load(path)
    contract = Contract.load(job.contract)
    if job.kind == "horizontal":
        plan(job, contract, ())
    else:
        plan_vertical(job, contract, ())
    jsonschema.validate(yaml.safe_load(path.read_text()), job_schema())
    assert path.read_text().startswith("# yaml-language-server: $schema=../job.schema.json\n")


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: path.stem)
def test_a_shipped_contract_fits_its_schema(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), contract_schema())


def test_the_schema_refuses_what_the_job_refuses():
    for wrong in ({"rounds": 3}, {"local": {"batch_size": 0}}, {"privacy": {"epsilon": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**clinic.JOB, **wrong}, job_schema())


def test_the_schemas_in_the_repository_are_fresh():
    out_of_date = stale({name: make() for name, make in SCHEMAS.items()})
    assert not out_of_date, "run: python -m consilo.jobs.schema --write"


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**40),
            "protocol": st.fixed_dictionaries({"rounds": st.integers(1, 99)}),
            "privacy": st.none() | st.just({"epsilon": 1.5, "delta": 1e-5}),
            "quorum": st.fixed_dictionaries({"deadline": st.just("auto") | st.floats(1, 99)}),
            "local": st.just({"steps": 4}) | st.just({"epochs": 2}),
        },
    )
)
def test_a_job_round_trips_and_its_digest_tells_it_apart(changes):
    job = clinic.job(**changes)
    again = Job.from_json(json.loads(json.dumps(job.to_json())))
    assert again == job
    assert again.digest == job.digest
    assert (job.digest == clinic.job().digest) == (job == clinic.job())


def test_all_faults_are_told_at_once():
    told = faults(seed=-1, name="No Name", local={"batchsize": 3, "lr": 0}, nonsense=1)
    for part in ("5 faults", "seed", "name", "did you mean 'batch_size'", "local.lr", "nonsense"):
        assert part in told


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": {"server_lr": 0}}, "protocol.server_lr"),
        ({"protocol": {"round": 3}}, "did you mean 'rounds'"),
        ({"privacy": {"epsilon": 1.0}}, "privacy.delta: this key is required"),
        ({"privacy": {"epsilon": -1, "delta": 2}}, "2 faults"),
        ({"privacy": {"epsilon": float("inf"), "delta": 0.1}}, "epsilon"),
        ({"quorum": {"deadline": 0}}, "quorum.deadline"),
        ({"quorum": {"deadline": "soon"}}, "quorum.deadline"),
        ({"local": {"steps": 3, "epochs": 3}}, "either steps or epochs, not both"),
        ({"model": "not dotted"}, "model"),
        ({"task": "survival"}, "task"),
        ({"evaluation": {"holdout": 1.0}}, "evaluation.holdout"),
        (
            {"privacy": {"unit": "subject", "epsilon": 1, "delta": 1e-5}},
            "needs privacy.statistics_epsilon",
        ),
        (
            {"privacy": {"max_rows_per_subject": 3, "epsilon": 1, "delta": 1e-5}},
            "needs unit: subject",
        ),
        ({"privacy": {"max_grad_norm": 1e-13, "epsilon": 1, "delta": 1e-5}}, "max_grad_norm"),
        ({"reduce": {"codec": "topk"}}, "reduce.codec"),
    ],
)
def test_a_fault_names_its_key(changes, why):
    assert why in faults(**changes)


def test_a_change_of_steps_replaces_epochs():
    assert clinic.job(local={"steps": 7}).local.epochs is None
    assert clinic.job(local={"lr": 0.5}).local.epochs == 1


def test_a_model_may_be_a_name_or_a_mapping():
    named = clinic.job(model="m:Net")
    assert named.model == clinic.job(model={"name": "m:Net"}).model


def test_a_file_is_read_with_changes(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(clinic.JOB))
    assert Job.load(path, seed=3) == clinic.job(seed=3)
    with pytest.raises(JobInvalid, match="does not exist"):
        Job.load(tmp_path / "no.yaml")
    path.write_text("- a list")
    with pytest.raises(JobInvalid, match="expected a mapping"):
        Job.load(path)


def test_the_quorum_and_deadline_of_a_job():
    job = clinic.job(quorum={"min_silos": 3, "mandatory": ["a"], "deadline": 5})
    assert (job.cohort_quorum.min_silos, job.cohort_quorum.mandatory) == (3, ("a",))
    assert job.deadline.seconds([]) == 5
    assert clinic.job().deadline.fixed_s is None


def test_a_rule_of_ones_own_is_young_and_the_mean_is_not():
    """A silo of the release before holds the job's digest against its own: ``rule`` stays in it."""
    plain = clinic.job()
    assert plain.to_json()["reduce"] == {"rule": "mean", "secure": False, "codec": "none"}
    assert plain.young_keys() == {}
    own = clinic.job(reduce={"rule": "my_rules:trimmed", "args": {"share": 0.1}})
    assert own.young_keys() == {"reduce.rule": 3, "reduce.args": 3}
    assert Job.from_json(own.to_json()) == own


@pytest.mark.parametrize("wrong", [{"rule": "median"}, {"args": {"share": 0.1}}])
def test_a_rule_is_the_mean_or_a_path(wrong):
    with pytest.raises(JobInvalid):
        clinic.job(reduce=wrong)
