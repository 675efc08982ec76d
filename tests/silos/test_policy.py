import clinic
import jsonschema
import pytest
import yaml

from consilo.errors import PolicyInvalid, Refused
from consilo.protocols import find_protocol
from consilo.schema import stale
from consilo.wire import Header
from silos.policy import TEMPLATE, Policy
from silos.schema import schemas

TRAIN = find_protocol("fedavg").verbs()["train"]
CHECK = find_protocol("contract_check").verbs()["check"]
PRIVATE = {"epsilon": 2.0, "delta": 1e-5}


def policy(**changes):
    return Policy.model_validate(
        {"jobs": ["clinic*"], "disclosures": ["metric", "statistic", "update"], **changes}
    )


def permit(given, job=None, verb=TRAIN, cohort=("a", "b", "c")):
    header = Header("r", "1/0/train", "c", 1, "a", "fedavg", verb.name, cohort)
    given.permit(header, job or clinic.job(), verb)


def code(*args, **kwargs) -> str:
    with pytest.raises(Refused) as caught:
        permit(*args, **kwargs)
    return caught.value.code


def test_without_a_policy_nothing_leaves(tmp_path):
    silent = Policy.load(tmp_path / "policy.yaml")
    assert silent == Policy()
    assert code(silent) == "job"
    assert code(silent, verb=CHECK) == "job"


def test_a_sound_job_is_allowed():
    permit(policy())
    permit(policy(), verb=CHECK, cohort=("a",))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"jobs": ["heart"]}, "job"),
        ({"disclosures": ["metric", "statistic"]}, "disclosure"),
        ({"disclosures": ["update"]}, "disclosure"),
        ({"min_cohort": 4}, "cohort"),
        ({"privacy": {"max_epsilon": 10, "max_delta": 1e-3}}, "privacy"),
    ],
)
def test_each_rule_refuses_by_its_name(changes, expected):
    assert code(policy(**changes)) == expected


@pytest.mark.parametrize(
    ("asked", "limits", "allowed"),
    [
        ({}, (2.0, 1e-5), True),
        ({"epsilon": 2.1}, (2.0, 1e-5), False),
        ({"delta": 2e-5}, (2.0, 1e-5), False),
        ({"epsilon": 0.5}, (2.0, 1e-5), True),
    ],
)
def test_privacy_is_held_to_the_silos_limits(asked, limits, allowed):
    given = policy(privacy={"max_epsilon": limits[0], "max_delta": limits[1]})
    job = clinic.job(privacy={**PRIVATE, **asked})
    if allowed:
        permit(given, job)
    else:
        assert code(given, job) == "privacy"


def test_reproducible_noise_needs_the_silos_word():
    job = clinic.job(privacy={**PRIVATE, "reproducible": True})
    assert code(policy(), job) == "privacy"
    permit(policy(allow_reproducible=True), job)


def test_a_small_cohort_may_still_be_asked_for_statistics():
    permit(policy(min_cohort=9), verb=find_protocol("statistics").verbs()["moments"])


def test_the_template_is_valid_and_cautious(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(TEMPLATE)
    found = Policy.load(path)
    assert found.min_cohort == 2
    assert not found.allow_reproducible
    permit(found)


def test_a_faulty_policy_is_no_policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("jobs: ['*']\ndisclosure: [metric]\nmin_cohort: 0\n")
    with pytest.raises(PolicyInvalid) as caught:
        Policy.load(path)
    assert len(caught.value.findings) == 2
    assert "did you mean 'disclosures'" in str(caught.value)
    path.write_text("disclosures: [everything]\n")
    with pytest.raises(PolicyInvalid, match="disclosures"):
        Policy.load(path)
    path.write_text("")
    with pytest.raises(PolicyInvalid, match="found nothing"):
        Policy.load(path)


def test_the_silos_schemas_in_the_repository_are_fresh_and_fit_the_template():
    written = schemas()
    assert not stale(written), "run: python -m silos.schema --write"
    jsonschema.validate(yaml.safe_load(TEMPLATE), written["policy"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"disclosures": ["everything"]}, written["policy"])
