import json

import numpy as np
import pytest

from consilo.contracts.report import CheckReport, Counts, Finding
from consilo.errors import IncompatibleJob, ReplyInvalid
from consilo.horizontal.tally import tally
from consilo.kernel.protocol import Protocol
from consilo.kernel.verbs import (
    Disclosure,
    arrays,
    count,
    envelopes,
    number,
    numbers,
    tensors,
    verb,
)
from consilo.protocols import contract_check
from consilo.protocols.names import NAMES, find_protocol

REPORT = json.loads(
    CheckReport(
        contract="clinic@1",
        contract_digest="d",
        verdict="failed",
        findings=(
            Finding(
                rule="range",
                column="age",
                verdict="fail",
                severity="error",
                counts=Counts(rows=10, failed=5, nulls=0),
            ),
        ),
    ).to_json()
)
ONE = np.ones(1)


def reports(**finding):
    return {**REPORT, "findings": [{**REPORT["findings"][0], **finding}]}


class Toy(Protocol):
    """Declares one field of each kind."""

    @verb(
        "all",
        replies={
            "n": count(),
            "loss": number(Disclosure.METRIC, optional=True),
            "metrics": numbers(Disclosure.METRIC),
            "sums": arrays(Disclosure.STATISTIC),
            "delta": tensors(Disclosure.UPDATE, like="params"),
            "tally": tally(),
            "report": contract_check.REPORT["report"],
            "letters": envelopes(),
        },
    )
    def all(self, silo, message):
        return {}


ALL = Toy.verbs()["all"]
PAYLOAD = {"params": {"w": np.zeros((2, 1), np.float32)}}
GOOD = {
    "n": 3,
    "loss": 0.5,
    "metrics": {"auc": 1},
    "sums": {"a": np.arange(3)},
    "delta": {"w": np.ones((2, 1), np.float32)},
    "tally": {"n": np.asarray(4.0), "scores_0": np.zeros(256), "metric_sum/x": np.asarray(-1.0)},
    "report": REPORT,
    "letters": {"south": np.zeros(5, np.uint8)},
}


def test_a_good_reply_passes_and_an_optional_field_may_be_absent():
    ALL.check(GOOD, PAYLOAD)
    ALL.check({key: value for key, value in GOOD.items() if key != "loss"}, PAYLOAD)


@pytest.mark.parametrize("name", [name for name in GOOD if not ALL.replies[name].optional])
def test_a_missing_field_is_named(name):
    with pytest.raises(ReplyInvalid, match=f"'{name}' is missing"):
        ALL.check({key: value for key, value in GOOD.items() if key != name}, PAYLOAD)


def test_an_undeclared_field_is_refused_and_what_it_holds_is_not_told():
    with pytest.raises(ReplyInvalid, match="undeclared fields rows") as caught:
        ALL.check({**GOOD, "rows": "SENTINEL"}, PAYLOAD)
    assert "SENTINEL" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", -1),
        ("n", 1.0),
        ("n", True),
        ("n", 10**400),
        ("n", None),
        ("loss", float("nan")),
        ("loss", float("inf")),
        ("loss", "0.5"),
        ("loss", True),
        ("loss", 10**400),
        ("loss", None),
        ("metrics", {"auc": float("nan")}),
        ("metrics", {"auc": [1.0]}),
        ("metrics", [1.0]),
        ("metrics", {str(i): 1.0 for i in range(10_001)}),
        ("sums", {"a": np.array([np.nan])}),
        ("sums", {"a": np.array([1e200])}),
        ("sums", {"a": [1.0]}),
        ("sums", ONE),
        ("delta", {}),
        ("delta", {"v": np.ones((2, 1), np.float32)}),
        ("delta", {"w": np.ones((1, 2), np.float32)}),
        ("delta", {"w": np.ones((2, 1), np.float64)}),
        ("delta", {"w": np.full((2, 1), np.inf, np.float32)}),
        ("tally", {"n": ONE}),
        ("tally", {"scores_0": np.zeros(255)}),
        ("tally", {"n": np.asarray(-1.0)}),
        ("tally", {"n": np.asarray(0.5)}),
        ("tally", {"squared_error_sum": np.asarray(-1.0)}),
        ("tally", {"n": np.asarray(np.nan)}),
        ("report", {}),
        ("report", {"findings": []}),
        ("report", {**REPORT, "rows": [1]}),
        ("report", reports(value="SENTINEL")),
        ("report", reports(counts={"rows": 1, "failed": "x", "nulls": 0})),
        ("report", {**REPORT, "verdict": "splendid"}),
        ("letters", {"south": np.zeros(5)}),
        ("letters", {"south": np.zeros((5, 1), np.uint8)}),
        ("letters", [np.zeros(5, np.uint8)]),
    ],
)
def test_an_odd_value_is_refused_with_the_fields_name(name, value):
    with pytest.raises(ReplyInvalid, match=f"field '{name}'") as caught:
        ALL.check({**GOOD, name: value}, PAYLOAD)
    assert "SENTINEL" not in str(caught.value)


def test_a_verb_knows_all_that_it_may_disclose():
    assert ALL.disclosures == {
        Disclosure.METRIC,
        Disclosure.STATISTIC,
        Disclosure.UPDATE,
        Disclosure.SEALED,
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_has_verbs_with_declared_replies(name):
    kind = find_protocol(name)
    assert kind.verbs()
    silent = {verb for verb, each in kind.verbs().items() if not each.replies}
    # What begins or ends something discloses nothing.
    assert silent <= {"brief", "conclude", "finish", "close"}


def test_a_silo_takes_no_installed_module_that_is_not_in_its_bundle(tmp_path):
    with pytest.raises(IncompatibleJob, match="not found beside the job file"):
        find_protocol("subprocess:Popen", (tmp_path,))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fedavgg", "did you mean 'fedavg'"),
        ("qqq", "known: fedavg"),
        ("consilo.nowhere:X", "a path to one of Consilo's own"),
        ("consilo.horizontal.fedavg:FedAvg", "a path to one of Consilo's own"),
        ("subprocess:Popen", "was not found beside the job file"),
    ],
)
def test_an_unknown_protocol_is_refused(name, why):
    with pytest.raises(IncompatibleJob, match=why):
        find_protocol(name)
