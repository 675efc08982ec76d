"""The privacy ledger: what is reserved stays, once, within the budget, whatever dies when."""

import os
import shutil
import signal
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consilo.errors import BudgetExhausted, RecordTampered
from consilo.privacy import composition
from consilo.privacy.account import Charge
from consilo.privacy.accounting import spent
from consilo.record.chain import check_links
from silos.kept.budget import Budget
from silos.kept.ledger import Ledger

DELTA = 1e-5
START = datetime(2027, 1, 1, tzinfo=UTC)


def charge(step="s", *, run="r", mark="m", sigma=2.0, rate=1.0, steps=1, ahead=0):
    return Charge(run, step, mark, "dp_sgd", sigma, rate, steps, 100, ahead)


def budget(epsilon, **changes):
    return Budget(epsilon=epsilon, delta=DELTA, **changes)


def cost(*rows, prv=True):
    found = spent(rows, DELTA)
    return found.epsilon_prv if prv else found.epsilon_rdp


def rows_of(ledger, kind="reserved"):
    return [
        (each["body"]["sigma"], each["body"]["sample_rate"], each["body"]["steps"])
        for each in ledger.entries()
        if each["kind"] == kind
    ]


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.db", now=lambda: START)


def test_a_step_is_paid_once_and_found_again(ledger):
    first = ledger.reserve("data", charge("a"))
    assert ledger.reserve("data", charge("b")) == [(2.0, 1.0, 1)] * 2
    # What the run had cost when the step was first asked: the answer says it, and must not change.
    assert Ledger(ledger.path).reserve("data", charge("a")) == first == [(2.0, 1.0, 1)]
    assert len(ledger.entries()) == 2


def test_the_same_question_about_other_rows_or_with_other_noise_is_another_use(ledger):
    ledger.reserve("data", charge())
    ledger.reserve("data", charge(mark="other rows"))
    ledger.reserve("data", charge(sigma=1.0))
    assert rows_of(ledger) == [(2.0, 1.0, 1), (2.0, 1.0, 1), (1.0, 1.0, 1)]


def test_runs_have_their_own_history_and_data_sets_their_own_account(ledger):
    ledger.reserve("data", charge("a", run="one"))
    assert ledger.reserve("data", charge("b", run="two")) == [(2.0, 1.0, 1)]
    ledger.reserve("other", charge("c", run="three"))
    assert ledger.accounts() == ["data", "other"]
    by_data, by_other = (ledger.quote(name, [], budget(9)) for name in ledger.accounts())
    assert by_data.balances[0].after == cost((2.0, 1.0, 2))
    assert by_other.balances[0].after == cost((2.0, 1.0, 1))


def test_only_the_owner_reads_it(ledger):
    ledger.reserve("data", charge())
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


def test_settling_says_that_the_answer_is_kept_once(ledger):
    assert not ledger.settle("a")
    assert not ledger.path.exists()
    ledger.reserve("data", charge("a"))
    assert ledger.settle("a")
    assert not ledger.settle("a")
    assert not ledger.settle("never asked")
    assert [each["kind"] for each in ledger.entries()] == ["reserved", "settled"]
    account = ledger.quote("data", [], None)
    assert (account.reserved, account.settled, account.balances) == (1, 1, ())


def test_what_counts_is_what_was_reserved_settled_or_not(ledger):
    limit = budget(cost((2.0, 1.0, 2)) + 1e-9)
    ledger.reserve("data", charge("a"), limit)
    ledger.reserve("data", charge("b"), limit)
    ledger.settle("a")
    with pytest.raises(BudgetExhausted):
        ledger.reserve("data", charge("c"), limit)


def test_a_refusal_says_what_is_left_and_reserves_nothing(ledger):
    limit = budget(3.0)
    ledger.reserve("data", charge("a"), limit)
    with pytest.raises(BudgetExhausted) as refusal:
        ledger.reserve("data", charge("b", sigma=0.5), limit)
    said = str(refusal.value)
    assert "'data'" in said
    assert f"budget in all is 3, of which {3.0 - cost((2.0, 1.0, 1)):.4g} is left" in said
    assert f"ε {cost((2.0, 1.0, 1), (0.5, 1.0, 1)):.4g}" in said
    assert rows_of(ledger) == [(2.0, 1.0, 1)]
    ledger.reserve(
        "data", charge("b", sigma=4.0), limit
    )  # a dearer question is not held against it


def test_too_little_noise_is_refused_at_once(ledger):
    limit = budget(1e6, min_noise_multiplier=1.0)
    with pytest.raises(BudgetExhausted, match=r"0\.5, this silo's budget wants 1 or more"):
        ledger.reserve("data", charge(sigma=0.5), limit)
    ledger.reserve("data", charge(sigma=1.0), limit)


def test_the_runs_own_limit_comes_before_anything_is_written(ledger):
    seen = []

    def admit(history):
        seen.append(list(history))
        if len(history) > 1:
            raise BudgetExhausted("the job allows one")

    ledger.reserve("data", charge("a"), None, admit)
    with pytest.raises(BudgetExhausted, match="allows one"):
        ledger.reserve("data", charge("b"), None, admit)
    assert seen == [[(2.0, 1.0, 1)], [(2.0, 1.0, 1)] * 2]
    assert len(ledger.entries()) == 1


def test_a_period_gives_back_what_the_total_keeps(tmp_path):
    clock = [START]
    ledger = Ledger(tmp_path / "ledger.db", now=lambda: clock[0])
    two, four = cost((2.0, 1.0, 2)), cost((2.0, 1.0, 4))
    limit = budget(two + 1e-9, window_days=30, total_epsilon=four + 1e-9)
    for month, step in enumerate("abcd"):
        clock[0] = START + timedelta(days=31 * (month // 2))
        ledger.reserve("data", charge(step), limit)
        if month % 2:
            with pytest.raises(BudgetExhausted, match="within 30 days"):
                ledger.reserve("data", charge("more"), limit)
    clock[0] += timedelta(days=31)
    with pytest.raises(BudgetExhausted, match="in all"):
        ledger.reserve("data", charge("more"), limit)
    first, second = ledger.quote("data", [], limit).balances
    assert first.after == 0.0
    assert second.after == four


def test_a_clock_that_is_set_back_gives_nothing_back(tmp_path):
    clock = [START]
    ledger = Ledger(tmp_path / "ledger.db", now=lambda: clock[0])
    ledger.reserve("data", charge("a"))
    clock[0] = START - timedelta(days=400)
    ledger.reserve("data", charge("b"))
    assert len({each["time"] for each in ledger.entries()}) == 1


def test_prv_is_asked_where_renyi_would_refuse_and_its_answer_serves_the_whole_run(
    ledger, monkeypatch
):
    row = (1.0, 0.1, 4)
    whole = (1.0, 0.1, 16)
    limit = budget((cost(whole) + cost(whole, prv=False)) / 2)
    asked = []
    real = composition.by_prv
    monkeypatch.setattr(composition, "by_prv", lambda *a: asked.append(a) or real(*a))
    for number in range(4):
        one = charge(str(number), sigma=row[0], rate=row[1], steps=row[2], ahead=4 * (3 - number))
        ledger.reserve("data", one, limit)
        within = cost((*row[:2], row[2] * (number + 1)), prv=False) <= limit.epsilon
        assert len(asked) == (0 if within else 1)
    refused = 0
    for number in range(4, 12):
        try:
            ledger.reserve(
                "data", charge(str(number), sigma=row[0], rate=row[1], steps=row[2]), limit
            )
        except BudgetExhausted:
            refused += 1
    assert refused
    steps = sum(each[2] for each in rows_of(ledger))
    assert steps >= 16
    assert cost((1.0, 0.1, steps)) <= limit.epsilon < cost((1.0, 0.1, steps + 4))


def test_the_account_adds_up_unlike_uses_as_the_accountant_does(ledger):
    uses = [(2.0, 1.0, 1), (1.3, 0.1, 50), (0.9, 0.02, 200), (1.3, 0.1, 50)]
    for number, (sigma, rate, steps) in enumerate(uses):
        ledger.reserve("data", charge(str(number), sigma=sigma, rate=rate, steps=steps))
    (balance,) = ledger.quote("data", [(3.0, 0.5, 2)], budget(9.0)).balances
    assert balance.before == cost(*uses)
    assert balance.after == cost(*uses, (3.0, 0.5, 2))
    assert balance.left == 9.0 - balance.before
    assert len(ledger.entries()) == len(uses)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET steps = 1",
        "DELETE FROM entries",
        "INSERT OR REPLACE INTO entries SELECT * FROM entries WHERE seq = 0",
        "REPLACE INTO entries SELECT seq, time, kind, account, run_id, step_id, mark, mechanism,"
        " 99.0, sample_rate, 1, num_rows, prev, hash FROM entries WHERE seq = 1",
        "INSERT INTO entries SELECT seq + 5, time, kind, account, run_id, 'x', mark, mechanism,"
        " sigma, sample_rate, steps, num_rows, prev, hash FROM entries WHERE seq = 1",
        "INSERT INTO entries SELECT 2, time, kind, account, run_id, 'x', mark, mechanism,"
        " sigma, sample_rate, steps, num_rows, prev, hash FROM entries WHERE seq = 1",
    ],
)
def test_what_was_written_cannot_be_changed(ledger, statement):
    ledger.reserve("data", charge("a", steps=7))
    ledger.reserve("data", charge("b", steps=7))
    before = ledger.entries()
    database = sqlite3.connect(ledger.path)
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|follows the last"):
        database.execute(statement)
    database.close()
    assert ledger.entries() == before


def test_the_entries_are_a_chain(ledger):
    for step in "abc":
        ledger.reserve("data", charge(step))
        ledger.settle(step)
    entries = ledger.entries()
    check_links(entries, "ledger.db")
    for place in range(len(entries)):
        with pytest.raises(RecordTampered):
            check_links([*entries[:place], *entries[place + 1 :], entries[0]], "ledger.db")
        body = {**entries[place]["body"], "steps": 2}
        edited = [*entries[:place], {**entries[place], "body": body}, *entries[place + 1 :]]
        with pytest.raises(RecordTampered, match="edited"):
            check_links(edited, "ledger.db")


# What dies when. A budget pays for two of three steps; a real child process works through them.

PAID = [(2.0, 1.0, 1)] * 2
LIMIT = budget(cost(*PAID) + 1e-9)


def work(ledger):
    for step in "abc":
        try:
            ledger.reserve("data", charge(step), LIMIT)
        except BudgetExhausted:
            return
        ledger.settle(step)


def died(path: Path, moment: int, *, every: int | None) -> bool:
    """Work in a child that is killed at the given moment; return whether it was.

    A moment is the start of a statement, or, where ``every`` says so, that many operations of
    SQLite's virtual machine, within a statement.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            left = [moment]

            def tick(*_: object) -> int:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return 0

            def connect(place):
                database = sqlite3.connect(place, timeout=60.0)
                if every is None:
                    database.set_trace_callback(tick)
                else:
                    database.set_progress_handler(tick, every)
                return database

            work(Ledger(path, now=lambda: START, connect=connect))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("every", [None, 29])
def test_killed_at_any_moment_nothing_is_paid_twice_and_nothing_overspent(tmp_path, every):
    moment, kills = 0, set()
    while True:
        path = tmp_path / str(moment) / "ledger.db"
        path.parent.mkdir()
        killed = died(path, moment, every=every)
        after = Ledger(path, now=lambda: START)
        left = after.entries()
        check_links(left, "ledger.db")
        assert rows_of(after) == PAID[: len(rows_of(after))]
        kills.add((len(rows_of(after)), len(rows_of(after, "settled"))))
        work(after)
        assert rows_of(after) == rows_of(after, "settled") == PAID
        assert after.entries()[: len(left)] == left
        assert [each["body"]["step_id"] for each in after.entries()] == list("aabb")
        with pytest.raises(BudgetExhausted):
            after.reserve("data", charge("c"), LIMIT)
        shutil.rmtree(path.parent)
        moment += 1
        if not killed:
            break
    # Every state that there is was met: reserved and not settled, settled, for each of the steps.
    met = {(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)}
    assert moment > 20
    assert kills <= met
    assert every is not None or kills == met


def test_two_processes_at_once_cannot_both_spend_what_is_left(tmp_path):
    path = tmp_path / "ledger.db"
    Ledger(path, now=lambda: START).reserve("data", charge("first"), LIMIT)
    gate, opened = os.pipe()
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            granted = 0
            try:
                os.close(opened)
                os.read(gate, 1)  # all of them start when the gate is closed
                for step in range(3):
                    with_step = charge(f"{number}/{step}", run=str(number))
                    try:
                        Ledger(path, now=lambda: START).reserve("data", with_step, LIMIT)
                        granted += 1
                    except BudgetExhausted:
                        pass
            finally:
                os._exit(granted)
        children.append(child)
    os.close(gate)
    os.close(opened)
    granted = sum(os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children)
    assert granted == 1
    assert rows_of(Ledger(path)) == PAID
    check_links(Ledger(path).entries(), "ledger.db")


class Years(RuleBasedStateMachine):
    """Any order of reserving, asking again, settling and waiting keeps the account right."""

    @initialize(
        epsilon=st.floats(0.5, 6.0),
        days=st.one_of(st.none(), st.integers(1, 60)),
        slack=st.floats(1.0, 3.0),
    )
    def begin(self, epsilon, days, slack):
        import tempfile

        self.home = Path(tempfile.mkdtemp())
        self.clock = START
        self.ledger = Ledger(self.home / "ledger.db", now=lambda: self.clock)
        total = None if days is None else epsilon * slack
        self.budget = budget(epsilon, window_days=days, total_epsilon=total)
        self.kept = []  # (time, charge)
        self.settled = set()

    @rule(
        step=st.sampled_from("abcdefgh"),
        mark=st.sampled_from("xy"),
        sigma=st.sampled_from([1.0, 2.0, 5.0]),
        steps=st.integers(1, 3),
    )
    def reserve(self, step, mark, sigma, steps):
        asked = charge(step, mark=mark, sigma=sigma, steps=steps)
        known = asked in [each for _, each in self.kept]
        try:
            self.ledger.reserve("data", asked, self.budget)
        except BudgetExhausted:
            assert not known
            assert any(
                cost(*[each.row for each in self._since(limit.days)], asked.row) > limit.epsilon
                for limit in self.budget.limits
            )
        else:
            if not known:
                self.kept.append((self.clock, asked))

    @rule(step=st.sampled_from("abcdefgh"))
    def settle(self, step):
        newest = [each for _, each in self.kept if each.step_id == step][-1:]
        news = bool(newest) and newest[0] not in self.settled
        assert self.ledger.settle(step) == news
        self.settled |= set(newest)

    @rule(days=st.integers(0, 40))
    def wait(self, days):
        self.clock += timedelta(days=days)

    @invariant()
    def nothing_is_overspent(self):
        if not hasattr(self, "ledger"):
            return
        assert rows_of(self.ledger) == [each.row for _, each in self.kept]
        check_links(self.ledger.entries(), "ledger.db")
        for limit in self.budget.limits:
            assert cost(*[each.row for each in self._since(limit.days)]) <= limit.epsilon

    def _since(self, days):
        first = START - timedelta(days=1) if days is None else self.clock - timedelta(days=days)
        return [each for time, each in self.kept if time > first]

    def teardown(self):
        if hasattr(self, "home"):
            shutil.rmtree(self.home)


TestYears = Years.TestCase
TestYears.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


def test_close_kinds_of_rows_count_as_the_worst_of_them():
    years = [(1.0 + 0.002 * (n % 40), 0.02 + 0.00002 * (n % 70), 3) for n in range(400)]
    few = composition.alike(years)
    assert len(few) <= composition.MOST_KINDS < len(composition.merged(years))
    assert sum(each[2] for each in few) == 1200
    bounds = [
        composition.by_renyi(
            sum(steps * composition.moments(sigma=s, sample_rate=q) for s, q, steps in rows), DELTA
        )
        for rows in (composition.merged(years)[::20], few)
    ]
    least = composition.moments(sigma=1.0, sample_rate=0.02 + 0.00002 * 69)
    most = composition.moments(sigma=1.078, sample_rate=0.02)
    assert composition.by_renyi(1200 * most, DELTA) <= bounds[1]
    assert bounds[0] < bounds[1] <= composition.by_renyi(1200 * least, DELTA)


@given(
    st.lists(
        st.tuples(st.floats(0.5, 20.0), st.floats(0.001, 1.0), st.integers(1, 50)),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 16),
)
def test_every_row_is_counted_as_one_that_costs_no_less(rows, most):
    few = composition.alike(rows, most)
    assert len(few) <= most
    assert sum(each[2] for each in few) == sum(each[2] for each in rows)
    # Match each row to a kind that is no better, without using a kind's steps twice.
    for sigma, rate, _ in rows:
        no_worse = sum(n for s, q, n in rows if s <= sigma and q >= rate)
        assert sum(n for s, q, n in few if s <= sigma and q >= rate) >= no_worse


def test_rows_that_are_few_are_left_as_they_are():
    rows = [(1.0, 0.1, 3), (2.0, 0.1, 1), (1.0, 0.1, 4)]
    assert composition.alike(rows) == [(1.0, 0.1, 7), (2.0, 0.1, 1)]
    assert composition.covers(rows, [(1.0, 0.1, 7)])
    assert not composition.covers(rows, [(1.0, 0.1, 8)])
    assert not composition.covers(rows, [(1.0, 0.2, 1)])


def test_a_run_that_is_repeated_under_another_name_pays_again(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", now=lambda: START)
    limit = budget(1.2 * cost((2.0, 1.0, 1)))
    ledger.reserve("data", charge("a", run="one"), limit)
    with pytest.raises(BudgetExhausted):
        ledger.reserve("data", charge("b", run="another"), limit)
    assert [each["body"]["run_id"] for each in ledger.entries()] == ["one"]
