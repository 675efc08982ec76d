"""Statistics ignored a policy's `max_epsilon` and `allow_reproducible`."""

import attacker
import clinic
import numpy as np
import pytest

from consilo.horizontal.features import Encoding
from consilo.horizontal.statistics import _templates
from silos.gate.policy import TEMPLATE

POLICY = (
    attacker.STRICT.replace("min_cohort: 5", "min_cohort: 2")
    .replace("# max_epsilon: 10.0", "max_epsilon: 1.0")
    .replace("# max_delta: 1.0e-3", "max_delta: 1.0e-4")
)
EDGES = {name: np.linspace(0, 120, 13) for name in ("age", "smoker")}
ASKED = {
    ("statistics", "moments"): _templates(
        Encoding.plan(clinic.contract(), clinic.job()), moments=True, target=False
    ),
    ("statistics", "histogram"): {
        "edges": EDGES,
        "counts": {name: np.zeros(12) for name in EDGES},
    },
    ("evaluation", "evaluate"): attacker.model(),
    ("fedavg", "train"): attacker.model(),
}
PARTS = {"statistics_epsilon": 0.4, "metrics_epsilon": 0.4}
TOO_MUCH = {
    "epsilon": {"epsilon": 1000.0, "delta": 1e-5, **PARTS},
    "its part": {"epsilon": 1000.0, "delta": 1e-5, "statistics_epsilon": 999.0},
    "delta": {"epsilon": 1.0, "delta": 1e-3, **PARTS},
    "reproducible": {"epsilon": 1.0, "delta": 1e-5, "reproducible": True, **PARTS},
    "unpaid": {"epsilon": 1.0, "delta": 1e-5},
    "none": None,
}


@pytest.mark.parametrize("question", ASKED, ids="/".join)
@pytest.mark.parametrize("kind", TOO_MUCH)
def test_a_policys_limits_hold_for_all_that_is_made_of_rows(tmp_path, question, kind) -> None:
    silo = attacker.make(tmp_path, POLICY)
    job = clinic.job(privacy=TOO_MUCH[kind], features={"standardize": "contract"})
    if question[1] == "train" and kind == "unpaid":
        job = clinic.job(privacy=None)
    header, fields = attacker.ask(silo, *question, ASKED[question], job, attest=True)
    assert set(fields) <= {"num_examples"}, header.reason
    assert silo.account.ledger.entries() == []


def test_what_is_paid_and_within_them_leaves(tmp_path) -> None:
    silo = attacker.make(tmp_path, POLICY)
    job = clinic.job(privacy={"epsilon": 0.9, "delta": 1e-5, **PARTS})
    for question, payload in ASKED.items():
        if question[1] in ("moments", "evaluate"):
            header, fields = attacker.ask(silo, *question, payload, job, attest=True)
            assert header.status == "ok", header.reason
            assert fields.keys() & {"moments", "tally"}
    assert attacker.reserved(silo) == 2


@pytest.mark.parametrize(
    "wants",
    ["required: yes", "max_epsilon: 1.0", "max_delta: 1.0e-4", "exact_statistics: no"],
)
@pytest.mark.parametrize("kind", ["epsilon", "delta"])
def test_noise_that_hides_nothing_is_none_where_a_policy_says_no_limit(
    tmp_path, wants, kind
) -> None:
    """ε 1 at δ 0.99 has a fifth of the noise that hides a row; at ε 200 a count is seen exactly."""
    key = wants.partition(":")[0]
    policy = "\n".join(
        f"  {wants}" if line.split(":")[0].strip(" #") == key else line
        for line in TEMPLATE.partition("# votes:")[0].splitlines()
    )
    silo = attacker.make(tmp_path, policy)
    much = {"epsilon": 400.0, "delta": 1e-5, "statistics_epsilon": 200.0}
    if kind == "delta":
        much = {"epsilon": 1.0, "delta": 0.99, "statistics_epsilon": 0.5}
    for question in (("statistics", "moments"), ("statistics", "histogram")):
        job = clinic.job(privacy=much)
        header, fields = attacker.ask(silo, *question, ASKED[question], job, attest=True)
        assert set(fields) <= {"rows"}, header.reason
    if wants != "exact_statistics: no":
        header, _ = attacker.ask(silo, "fedavg", "train", attacker.model(), job, attest=True)
        assert header.status == "fault"
    assert silo.account.ledger.entries() == []
