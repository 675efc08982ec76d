import inspect

import pytest

from consilo import errors
from consilo.errors import BundleNotApproved, ContractInvalid, JobInvalid, QuorumLost, Refused


def test_every_error_says_in_a_sentence_what_it_means():
    kinds = [each for each in vars(errors).values() if inspect.isclass(each)]
    for kind in kinds:
        if issubclass(kind, errors.ConsiloError):
            assert (kind.__doc__ or "").strip().split("\n")[0].endswith(".")


@pytest.mark.parametrize(
    ("findings", "counted"), [([], "0 faults"), (["one"], "1 fault\n"), (["a", "b"], "2 faults")]
)
def test_invalid_input_carries_every_finding(findings, counted):
    error = JobInvalid("job.yaml", findings)
    assert error.findings == tuple(findings)
    assert f"job job.yaml: {counted}" in f"{error}\n"
    assert all(f"\n  - {each}" in str(error) for each in findings)


def test_kinds_name_the_file():
    assert str(ContractInvalid("x.yaml", ["bad"])).startswith("contract x.yaml")


def test_a_refusal_has_a_code():
    assert Refused("no").code == "policy"
    assert BundleNotApproved("no").code == "bundle_not_approved"


def test_a_lost_quorum_lists_who_was_missing():
    missing = {"north": "late"}
    error = QuorumLost("lost", missing=missing)
    missing.clear()
    assert error.missing == {"north": "late"}
