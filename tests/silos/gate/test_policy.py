from datetime import datetime
from zoneinfo import ZoneInfo

import clinic
import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import PolicyInvalid, Refused
from consilo.jobs.schema import stale
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.verbs import Disclosure, Field, Verb, check_arrays
from consilo.protocols.names import find_protocol
from silos.gate.policy import TEMPLATE, Circumstances, Hours, Policy
from silos.schema import schemas

EVALUATE = find_protocol("evaluation").verbs()["evaluate"]
TRAIN = find_protocol("fedavg").verbs()["train"]
CHECK = find_protocol("contract_check").verbs()["check"]
HISTOGRAM = find_protocol("statistics").verbs()["histogram"]
MOMENTS = find_protocol("statistics").verbs()["moments"]
PRIVATE = {"epsilon": 2.0, "delta": 1e-5}
EVERYTHING = {"metric": True, "statistic": True, "update": True}
NOW = datetime(2026, 3, 4, 12, tzinfo=ZoneInfo("UTC")).timestamp()  # a Wednesday


def policy(**changes):
    value = {"allow": [{"jobs": ["clinic*"]}], "disclosures": EVERYTHING, **changes}
    return Policy.model_validate(value)


def permit(
    given,
    job=None,
    verb=TRAIN,
    *,
    attested=("b", "c"),
    rows=1000,
    asked=0,
    now=NOW,
    bundle="",
    signer="",
    protocol="fedavg",
):
    job = job or clinic.job()
    manifest = Manifest.of("r", job, clinic.contract(), bundle)
    cohort = ("a", "b", "c")
    header = Header("r", "1/0/train", "c", 1, "a", protocol, verb.name, cohort, manifest)
    met = Circumstances(now, frozenset(attested), asked, lambda: rows, signer)
    return given.permit(header, job, verb.asked, met)


def test_statistics_leave_with_noise_only_where_the_policy_says_so():
    strict = policy(privacy={"exact_statistics": False})
    exact = clinic.job(privacy={"epsilon": 3, "delta": 1e-5})
    noisy = clinic.job(privacy={"epsilon": 3, "delta": 1e-5, "statistics_epsilon": 1})
    for job in (clinic.job(), exact):
        assert code(strict, job, verb=HISTOGRAM) == "privacy"
        assert set(permit(strict, job, verb=MOMENTS).withheld) == {
            "moments",
            "classes",
            "target",
            "left_out",
        }
        permit(policy(), job, verb=HISTOGRAM)
        assert not permit(policy(), job, verb=MOMENTS).withheld
    permit(strict, noisy, verb=HISTOGRAM)
    assert not permit(strict, noisy, verb=MOMENTS).withheld
    permit(strict, exact)


def test_figures_of_merit_are_kept_back_and_the_rest_is_answered():
    """A policy of `metric: no` refused training altogether."""
    without = policy(disclosures={**EVERYTHING, "metric": False})
    assert set(permit(without).withheld) == {"loss", "metrics", "tally"}
    assert set(permit(without, verb=EVALUATE).withheld) == {"metrics", "tally"}
    assert not permit(policy()).withheld


@pytest.mark.parametrize("rules", [{"per_run": 2}, {"per_day": 3}], ids=str)
def test_a_silo_bounds_how_often_models_are_judged(rules):
    given = policy(evaluation=rules)
    for judged, kept in (((1, 2), set()), ((2, 3), {"metrics", "tally"})):
        met = Circumstances(NOW, frozenset("bc"), 0, lambda: 99, "", *judged)
        header = Header("r", "1/0/evaluate", "c", 1, "a", "evaluation", "evaluate", ("a",))
        found = given.permit(header, clinic.job(), EVALUATE.asked, met)
        assert set(found.withheld) == kept


def test_a_job_holds_out_no_more_than_the_silo_bears():
    for verb in (TRAIN, MOMENTS, EVALUATE):
        assert code(policy(), clinic.job(evaluation={"holdout": 0.51}), verb=verb) == "holdout"
    wide = policy(evaluation={"max_holdout": 0.9})
    permit(wide, clinic.job(evaluation={"holdout": 0.51}))


def test_updates_under_secure_aggregation_only_are_masked_ones():
    """`update: secure` believed a flag of the job."""
    strict = policy(disclosures={**EVERYTHING, "update": "secure"})
    for secure in (False, True):
        assert code(strict, clinic.job(reduce={"secure": secure})) == "disclosure"
    masked = Field(Disclosure.MASKED_UPDATE, check_arrays)
    ours = Verb("sum", {"sum": masked}, lambda protocol, silo, message: {})
    assert permit(strict, verb=ours).withheld == {}
    header = Header("r", "1/0/sum", "c", 1, "a", "mine:Mine", "sum", ("a",))
    met = Circumstances(NOW, frozenset("bc"), 0, lambda: 99)
    with pytest.raises(Refused, match="in the clear"):
        strict.permit(header, clinic.job(), ours.asked.strictest(), met)


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
    permit(policy(), verb=CHECK, attested=())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"allow": [{"jobs": ["heart"]}]}, "job"),
        ({"allow": [{"jobs": ["clinic"], "purposes": ["research"]}]}, "job"),
        ({"allow": [{"contracts": ["heart@*"]}]}, "job"),
        ({"allow": [{"bundles": ["f" * 64]}]}, "job"),
        ({"allow": [{"signers": ["e" * 64]}]}, "job"),
        ({"allow": [{"signers": [""]}]}, "job"),
        ({"disclosures": {"metric": True, "statistic": True}}, "disclosure"),
        ({"disclosures": {**EVERYTHING, "update": "secure"}}, "disclosure"),
        ({"disclosures": {**EVERYTHING, "update": {"min_rows": 1001}}}, "group"),
        ({"min_cohort": 4}, "cohort"),
        ({"privacy": {"required": True}}, "privacy"),
        ({"privacy": {"max_epsilon": 10}}, "privacy"),
        ({"limits": {"per_hour": 1}}, "rate"),
        ({"hours": {"start": "13:00", "end": "14:00"}}, "hours"),
        ({"expires": "2026-03-03"}, "policy_expired"),
    ],
    ids=str,
)
def test_each_rule_refuses_by_its_name(changes, expected):
    assert code(policy(**changes), asked=1) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"allow": [{"jobs": ["heart"]}, {"jobs": ["clinic"]}]},
        {"allow": [{"purposes": ["un*"], "contracts": ["clinic@1"]}]},
        {"allow": [{"bundles": ["f" * 64]}]},
        {"disclosures": {**EVERYTHING, "update": {"min_rows": 1000}}},
        {"min_cohort": 3},
        {"limits": {"per_hour": 2}},
        {"hours": {"days": ["wed"], "start": "11:00", "end": "12:01"}},
        {"expires": "2026-03-04"},
    ],
    ids=str,
)
def test_each_rule_admits_up_to_its_limit(changes):
    permit(policy(**changes), asked=1, bundle="f" * 64)


def test_code_may_be_allowed_by_who_signed_it():
    given = policy(allow=[{"jobs": ["clinic"], "signers": ["e" * 64]}])
    permit(given, signer="e" * 64)
    assert code(given, signer="d" * 64) == "job"
    assert code(given) == "job"


def test_a_cohort_counts_who_has_attested_not_who_is_named():
    assert code(policy(min_cohort=3), attested=("b",)) == "cohort"
    permit(policy(min_cohort=3), attested=("b", "c"))


def test_a_small_cohort_is_told_how_many_rows_there_are_and_nothing_of_them():
    """Statistics left without a cohort, and whatever the policy's privacy said."""
    found = permit(policy(min_cohort=9), verb=MOMENTS)
    assert set(found.withheld) == {"moments", "classes", "target", "left_out"}
    assert code(policy(min_cohort=9), verb=HISTOGRAM) == "cohort"
    permit(policy(min_cohort=9), verb=CHECK, attested=())


def test_rows_are_counted_only_where_a_rule_needs_them():
    def counted():
        raise AssertionError("nobody needs the rows")

    header = Header("r", "1/0/train", "c", 1, "a", "fedavg", "train", ("a",))
    met = Circumstances(NOW, frozenset("bc"), 0, counted)
    policy().permit(header, clinic.job(), TRAIN.asked, met)


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


@pytest.mark.parametrize(("limits", "most"), [({}, 1), ({"threads": 4}, 4)])
def test_more_threads_than_the_policy_gives_are_refused_and_not_cut_down(limits, most):
    given = policy(limits=limits)
    for verb in (CHECK, TRAIN):
        permit(given, clinic.job(local={"threads": most}), verb)
        asked = clinic.job(local={"threads": most + 1})
        with pytest.raises(Refused, match=rf"with {most} threads?, .* {most + 1} .local.threads"):
            permit(given, asked, verb)
    permit(policy(limits={"threads": None}), clinic.job(local={"threads": 99}))


def test_reproducible_noise_needs_the_silos_word():
    job = clinic.job(privacy={**PRIVATE, "reproducible": True})
    assert code(policy(), job) == "privacy"
    permit(policy(privacy={"allow_reproducible": True}), job)


@given(
    minute=st.integers(0, 7 * 24 * 60 - 1),
    start=st.integers(0, 1439),
    end=st.integers(0, 1439),
    days=st.sets(st.integers(0, 6), min_size=1),
)
def test_hours_are_what_a_walk_over_the_week_finds(minute, start, end, days):
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    hours = Hours.model_validate(
        {
            "days": [names[day] for day in sorted(days)],
            "start": f"{start // 60:02d}:{start % 60:02d}",
            "end": f"{end // 60:02d}:{end % 60:02d}",
        }
    )
    length = (end - start) % 1440 or 1440
    opened = {(day * 1440 + start + past) % (7 * 1440) for day in days for past in range(length)}
    monday = datetime(2026, 3, 2, tzinfo=ZoneInfo("UTC")).timestamp()
    assert hours.contain(monday + 60 * minute) == (minute in opened)


def test_hours_without_quotes_are_read_as_they_look():
    read = yaml.safe_load("{start: 20:00, end: 06:30, zone: Europe/Berlin}")
    hours = Hours.model_validate(read)
    assert (f"{hours.start:%H:%M}", f"{hours.end:%H:%M}") == ("20:00", "06:30")
    with pytest.raises(ValueError, match="no such time zone"):
        Hours.model_validate({**read, "zone": "Europe/Atlantis"})


def test_the_template_is_valid_and_cautious(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(TEMPLATE)
    found = Policy.load(path)
    assert found.min_cohort == 2
    assert not found.privacy.allow_reproducible
    assert not found.allow_unsigned
    assert set(found.disclosures) == set(EVERYTHING)
    permit(found)


def test_a_faulty_policy_is_no_policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("allow: [{jobs: ['*']}, {}]\ndisclosure: {metric: yes}\nmin_cohort: 0\n")
    with pytest.raises(PolicyInvalid) as caught:
        Policy.load(path)
    assert len(caught.value.findings) == 3
    assert "did you mean 'disclosures'" in str(caught.value)
    path.write_text("disclosures: {everything: yes}\n")
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
        jsonschema.validate({"disclosures": {"everything": True}}, written["policy"])
