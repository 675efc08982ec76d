"""A run that lacks answers fails with the class, the advice and the words of its cause."""

import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo import errors
from consilo.errors import (
    BudgetExhausted,
    BundleNotApproved,
    MatchUnusable,
    ModelDiverged,
    PartnerRejected,
    QuorumLost,
    Refused,
    ReplyInvalid,
    RunFailed,
    SchemaDrift,
    SiloDiskFull,
    SiloFailed,
    SiloMisconfigured,
    SiloOutdated,
    SourceUnreadable,
    TooFewRows,
)
from consilo.jobs.causes import CAUSES, MOST_LINES, failure, not_asked
from consilo.protocols.dispatch import disclose
from consilo.wire.parcel import Fault

WHY = "0 of at least 2 silos answered"


def failed(**codes):
    return failure("round 2", WHY, {name: Fault(code, "why") for name, code in codes.items()})


CLASSES = {
    "diverged": ModelDiverged,
    "contract": SchemaDrift,
    "budget_exhausted": BudgetExhausted,
    "bundle_not_approved": BundleNotApproved,
    "too_few_rows": TooFewRows,
    "refused": Refused,
    "match": MatchUnusable,
    "partner": PartnerRejected,
    "source": SourceUnreadable,
    "configuration": SiloMisconfigured,
    "version": SiloOutdated,
    "invalid_reply": ReplyInvalid,
    "disk_full": SiloDiskFull,
    "failed": SiloFailed,
    "of a later release": SiloFailed,
    "unreachable": QuorumLost,
    "deadline": QuorumLost,
    "crashed": QuorumLost,
}


@pytest.mark.parametrize(("code", "kind"), CLASSES.items())
def test_one_cause_in_all_silos_is_the_errors_class_and_its_first_words(code, kind):
    error = failed(a=code, b=code)
    cause = next(each for each in CAUSES if each.error is kind)
    assert type(error) is kind
    assert isinstance(error, RunFailed)
    assert str(error).startswith(f"round 2: {cause.told} a and b, so there is no quorum: {WHY}. ")
    assert cause.advice in str(error)
    assert str(error).endswith(f"\n  - a: {code}: why\n  - b: {code}: why")
    assert error.missing == {"a": f"{code}: why", "b": f"{code}: why"}
    assert ("Bring the silos back" in str(error)) == (kind is QuorumLost)


def test_of_several_causes_the_commonest_gives_the_class_and_each_its_advice():
    error = failed(a="unreachable", b="refused", c="refused", d="failed")
    assert type(error) is Refused
    assert "refused by b and c; the computation failed in d; no answer from a, so" in str(error)
    for each in CAUSES:
        told = {"refused", "failed", "unreachable"} & set(each.codes)
        assert (each.advice in str(error)) == bool(told)


def test_silos_that_are_away_come_after_any_cause_that_is_as_common():
    for code, kind in CLASSES.items():
        assert type(failed(a="unreachable", b=code)) is kind


def test_silos_that_nobody_asked_are_no_cause():
    error = failure("round 2", WHY, {"a": not_asked(), "b": not_asked(), "c": Fault("failed", "x")})
    assert type(error) is SiloFailed
    assert type(failure("round 2", WHY, {"a": not_asked()})) is QuorumLost
    nobody = failure("round 2", WHY, {})
    assert type(nobody) is QuorumLost
    assert str(nobody).startswith("round 2: nobody else could be asked, so there is no quorum")


def test_a_hash_is_short_and_of_many_silos_the_rest_is_counted():
    hash_ = 32 * "ab"
    error = failure("r", WHY, {"a": Fault("bundle_not_approved", f"bundle {hash_}; it waits")})
    assert "a: bundle_not_approved: bundle abababababab…; it waits" in str(error)
    many = {f"s{each:03}": Fault("refused", "no") for each in range(200)}
    lines = str(failure("r", WHY, many)).splitlines()
    assert lines[0].startswith("r: refused by 200 silos, so")
    assert lines[-1] == f"  - {200 - MOST_LINES} more: refused {200 - MOST_LINES}"
    assert len(lines) == 2 + MOST_LINES


codes = st.sampled_from(sorted(CLASSES))


@given(st.dictionaries(st.sampled_from("abcdefgh"), codes, min_size=1))
def test_the_order_of_the_silos_changes_nothing_and_the_lost_are_lost_only_where_most(faults):
    error = failed(**faults)
    turned = failed(**dict(reversed(faults.items())))
    assert (type(turned), str(turned)) == (type(error), str(error))
    kinds = [CLASSES[code] for code in faults.values()]
    assert kinds.count(type(error)) == max(map(kinds.count, kinds))
    if type(error) is QuorumLost:
        assert all(
            kinds.count(other) < kinds.count(QuorumLost) for other in {*kinds} - {QuorumLost}
        )


def test_the_causes_are_told_apart_and_the_missing_come_last():
    told = [code for each in CAUSES for code in each.codes]
    assert len(set(told)) == len(told)
    assert len({each.told for each in CAUSES}) == len(CAUSES)
    assert CAUSES[-1].error is QuorumLost
    assert all(first.error is not second.error for first, second in pairwise(CAUSES))


@pytest.mark.parametrize("kind", [each.error for each in CAUSES])
def test_an_error_is_whole_in_another_process(kind):
    error = kind("said", missing={"a": "why"})
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.missing) == (kind, "said", {"a": "why"})


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (errors.Refused("few", code="group"), TooFewRows),
        (errors.Refused("few in common", code="intersection"), TooFewRows),
        (errors.Refused("few people", code="set_size"), TooFewRows),
        (errors.Refused("no", code="job"), Refused),
        (errors.BundleNotApproved("no"), BundleNotApproved),
        (errors.BudgetExhausted("no"), BudgetExhausted),
        (errors.SchemaDrift("no"), SchemaDrift),
        (errors.ModelDiverged("no"), ModelDiverged),
        (errors.SourceUnreadable("no"), SourceUnreadable),
        (errors.PolicyInvalid("policy.yaml", ["no"]), SiloMisconfigured),
        (errors.JobInvalid("model", ["forward raised a value"]), SiloFailed),
        (errors.ContractInvalid("x", ["a value"]), SiloFailed),
        (errors.IncompatibleJob("a value"), SiloFailed),
        (errors.ReplyInvalid("no"), ReplyInvalid),
        (errors.VersionUnsupported("no"), SiloOutdated),
        (errors.ConsiloError("under differential privacy no reason leaves"), SiloFailed),
        (ZeroDivisionError("a value"), SiloFailed),
    ],
)
def test_what_a_silo_raises_comes_out_as_the_coordinators_error_of_that_kind(raised, kind):
    error = failure("round 2", WHY, {"a": disclose(raised)})
    assert type(error) is kind
    assert "a value" not in str(error)
