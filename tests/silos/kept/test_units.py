"""An account adds up per unit: what hides subjects, what hides rows, and what either says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import BudgetExhausted, PolicyInvalid
from consilo.privacy.account import Charge
from consilo.privacy.accounting import spent
from consilo.privacy.unit import named
from silos.gate.policy import Policy
from silos.kept import statement
from silos.kept.budget import Budget
from silos.kept.ledger import Ledger

DELTA = 1e-5
START = datetime(2027, 1, 1, tzinfo=UTC)


def charge(step, unit, *, sigma=4.0, run=None):
    return Charge(
        run or f"run-{unit}", step, named("m", unit), named("dp_sgd", unit), sigma, 1.0, 1, 100
    )


def budget(epsilon, unit="record"):
    return Budget(epsilon=epsilon, delta=DELTA, unit=unit)


def epsilon(*sigmas):
    return spent([(sigma, 1.0, 1) for sigma in sigmas], DELTA).epsilon_prv


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.db", now=lambda: START)


def test_for_a_row_what_hides_subjects_counts_with_half_the_noise(ledger):
    ledger.reserve("data", charge("a", "subject"), budget(100))
    (found,) = ledger.quote("data", [(3.0, 1.0, 1)], budget(100)).balances
    assert found.before == pytest.approx(epsilon(2.0), rel=1e-9)
    assert found.after == pytest.approx(epsilon(2.0, 3.0), rel=1e-9)
    tight = budget((epsilon(4.0) + epsilon(2.0)) / 2)
    with pytest.raises(BudgetExhausted):
        ledger.reserve("more", charge("b", "subject"), tight)


def test_a_budget_of_subjects_counts_them_in_full_and_pays_for_no_single_rows(ledger):
    enough = budget((epsilon(4.0) + epsilon(2.0)) / 2, "subject")
    ledger.reserve("data", charge("a", "subject"), enough)
    (found,) = ledger.quote("data", [], enough, "subject").balances
    assert found.after == pytest.approx(epsilon(4.0), rel=1e-9)
    for ask in (
        lambda: ledger.reserve("data", charge("b", "record"), enough),
        lambda: ledger.quote("data", [(4.0, 1.0, 1)], enough),
    ):
        with pytest.raises(BudgetExhausted, match="about subjects"):
            ask()


def test_a_change_of_unit_gives_no_new_budget(ledger):
    """What was about rows still counts for rows, beside what hides subjects."""
    most = epsilon(2.0) * 1.05
    ledger.reserve("data", charge("a", "record", sigma=2.0), budget(most))
    with pytest.raises(BudgetExhausted):
        ledger.reserve("data", charge("b", "subject"), budget(most, "subject"))


def test_a_run_is_about_one_unit(ledger):
    ledger.reserve("data", charge("a", "subject", run="r"))
    with pytest.raises(BudgetExhausted, match="another unit"):
        ledger.reserve("data", charge("b", "record", run="r"))


def test_what_was_spent_elsewhere_keeps_its_unit(ledger):
    ledger.link("data", "elsewhere/1", "rows")
    use = ("2027-01-01T00:00:00+00:00", "x", named("m", "subject"), 4.0, 1.0, 1)
    ledger.note_elsewhere("elsewhere/1", [use])
    (found,) = ledger.quote("data", [], budget(100)).balances
    assert found.after == pytest.approx(epsilon(2.0), rel=1e-9)


def test_the_statement_says_each_unit_and_what_no_epsilon_of_subjects_covers(ledger, tmp_path):
    ledger.reserve("data", charge("a", "record", sigma=5.0))
    ledger.reserve("data", charge("b", "subject"))
    ledger.reserve("other", charge("c", "record", run="c"))
    path, key = tmp_path / "ledger.jsonl", Ed25519PrivateKey.generate()
    for unit in ("record", "subject"):
        budgets = {"*": budget(100, unit)}
        statement.export(path, ledger.entries(), silo="north", budgets=budgets, key=key)
        said = statement.verify(path)
        mine = said["accounts"]["data"]
        assert mine["about_rows"] == 1
        told = {each["unit"]: each["spent"] for each in mine["limits"]}
        assert told["subject"] == pytest.approx(epsilon(4.0), rel=1e-6)
        assert told["record"] == pytest.approx(epsilon(5.0, 2.0), rel=1e-6)
        assert "about_rows" not in said["accounts"]["other"]
        assert said["adjacency"]["dp_sgd/subject"].startswith("one subject, with all of its rows")
        assert said["adjacency"]["dp_sgd"].startswith("one row")


def test_a_policy_of_subjects_says_so_to_its_budgets(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text('privacy: {unit: subject, budgets: {"*": {epsilon: 3, delta: 1.0e-5}}}')
    rules = Policy.load(path).privacy
    assert rules.is_wanted
    assert rules.budgets["*"].unit == "subject"
    path.write_text('privacy: {budgets: {"*": {epsilon: 3, delta: 1.0e-5, unit: subject}}}')
    with pytest.raises(PolicyInvalid, match=r"privacy\.unit"):
        Policy.load(path)
