"""What a silo's rules make of evidence: at the borders, and of rows of noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.decisions.evidence import Heard, weigh
from consilo.decisions.rules import Evidence, FairnessRule, VoteRules, verdict
from consilo.decisions.vote import WORDS, Ballot, Vote
from consilo.errors import ReplyInvalid
from consilo.metrics.bootstrap import FIGURES, Interval

RULES = VoteRules(tolerance=0.02)


def said(low: float, high: float, **more) -> tuple[str, tuple[str, ...]]:
    return verdict(RULES, Evidence(100, {"champion": Interval(0.0, low, high)}, **more))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.0199, 0.1, ("yes", ("not_worse",))),
        (-0.02, 0.1, ("abstain", ("uncertain_champion",))),
        (-0.1, 0.1, ("abstain", ("uncertain_champion",))),
        (-0.1, -0.02, ("abstain", ("uncertain_champion",))),
        (-0.1, -0.0201, ("no", ("worse_than_champion",))),
        (0.0, 0.0, ("yes", ("not_worse",))),
    ],
)
def test_an_interval_is_below_above_or_neither(low, high, expected) -> None:
    assert said(low, high) == expected


def test_the_worst_decides_and_every_reason_is_told() -> None:
    worse, better = Interval(-0.3, -0.4, -0.2), Interval(0.1, 0.05, 0.2)
    doubt = Interval(0, -0.1, 0.1)
    found = verdict(RULES, Evidence(100, {"champion": worse, "local": doubt}))
    assert found == ("no", ("worse_than_champion",))
    found = verdict(RULES, Evidence(100, {"champion": better, "local": doubt}))
    assert found == ("abstain", ("uncertain_local",))
    found = verdict(RULES, Evidence(100, {"champion": better, "local": better}))
    assert found == ("yes", ("not_worse",))
    assert verdict(RULES, Evidence(100, {"champion": None}))[0] == "abstain"
    assert verdict(RULES, Evidence(100)) == ("abstain", ("metric",))
    assert verdict(RULES, Evidence(49, {"champion": better})) == ("abstain", ("few_rows",))


@given(
    low=st.floats(-1, 1),
    width=st.floats(0, 1),
    tolerance=st.floats(0, 0.5),
    more=st.floats(0, 0.5),
)
def test_who_bears_more_never_turns_a_yes_into_less(low, width, tolerance, more) -> None:
    seen = Evidence(100, {"champion": Interval(low, low, low + width)})
    order = ["no", "abstain", "yes"]
    strict = verdict(VoteRules(tolerance=tolerance), seen)[0]
    mild = verdict(VoteRules(tolerance=tolerance + more), seen)[0]
    assert order.index(strict) <= order.index(mild)


def test_other_rules_bind_too_and_what_nobody_could_judge_is_no_yes() -> None:
    fine = {"champion": Interval(0.1, 0.05, 0.2)}
    rules = VoteRules(fairness=FairnessRule(gap=0.1), max_ece=0.1, max_epsilon=4.0)

    def of(epsilon=2.0, gap=None, ece=None, gaps=True):
        seen = Evidence(100, fine, {"sex": gap} if gaps else {}, {"ece": ece}, epsilon)
        return verdict(rules, seen)

    fair, true = Interval(0.05, 0.0, 0.2), Interval(0.05, 0.0, 0.2)
    assert of(gap=fair, ece=true) == ("yes", ("not_worse",))
    assert of(gap=Interval(0.3, 0.2, 0.4), ece=true) == ("no", ("unfair",))
    assert of(gap=Interval(0.15, 0.05, 0.3), ece=true) == ("abstain", ("fairness_uncertain",))
    assert of(gap=None, ece=true) == ("abstain", ("fairness_unjudged",))
    assert of(gaps=False, ece=true) == ("abstain", ("fairness_unjudged",))
    assert of(gap=fair, ece=Interval(0.3, 0.2, 0.4)) == ("no", ("uncalibrated",))
    assert of(gap=fair, ece=Interval(0.3, 0.05, 0.4)) == ("abstain", ("calibration_uncertain",))
    assert of(gap=fair, ece=None) == ("abstain", ("calibration_unjudged",))
    assert of(epsilon=4.1, gap=fair, ece=true) == ("no", ("epsilon",))
    assert of(epsilon=None, gap=fair, ece=true) == ("no", ("epsilon",))


def noise(seed: int, rows: int, kind: str = "binary") -> Heard:
    """Return two models that know nothing of the rows."""
    rng = np.random.default_rng(seed)
    if kind == "regression":
        targets = rng.normal(0, 1, rows)
        own, its = rng.normal(0, 1, (2, rows))
        return Heard(kind, targets, own, {"champion": its})
    labels = rng.permutation(np.arange(rows) % 2)
    shape = (2, rows) if kind == "binary" else (2, rows, 2)
    own, its = rng.normal(0, 1, shape)
    return Heard(kind, labels, own, {"champion": its})


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("binary", "roc_auc"), ("binary", "accuracy"), ("regression", "rmse"),
     ("multiclass", "log_loss")],
)  # fmt: skip
def test_thirty_rows_of_noise_seldom_vote_and_by_default_never(kind, metric) -> None:
    bold, votes = VoteRules(min_rows=1), []
    for seed in range(60):
        heard, rng = noise(seed, 30, kind), np.random.default_rng(seed)
        seen = weigh(heard, metric, bold, rng)
        votes.append(verdict(bold, seen)[0])
        assert verdict(VoteRules(), weigh(heard, metric, VoteRules(), rng))[0] == "abstain"
    assert votes.count("abstain") >= 54, votes


def test_many_rows_tell_models_apart() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    good, poor = (k * (2.0 * labels - 1) + rng.normal(0, 1, 2000) for k in (1.0, 0.3))
    rules = VoteRules()
    up = weigh(Heard("binary", labels, good, {"champion": poor}), "roc_auc", rules, rng)
    down = weigh(Heard("binary", labels, poor, {"champion": good}), "roc_auc", rules, rng)
    assert verdict(rules, up)[0] == "yes"
    assert verdict(rules, down) == ("no", ("worse_than_champion",))


@pytest.mark.parametrize("kind", list(FIGURES))
def test_every_metric_of_a_task_gives_a_vote_and_others_are_told(kind) -> None:
    heard = noise(1, 300, kind)
    for metric in FIGURES[kind]:
        seen = weigh(heard, metric, VoteRules(), np.random.default_rng(0))
        assert seen.gains["champion"] is not None, metric
        assert seen.lacking == ()
        alone = weigh(
            Heard(kind, heard.targets, heard.candidate), metric, VoteRules(),
            np.random.default_rng(0),
        )  # fmt: skip
        assert set(alone.gains) == {"constant"}, metric
    seen = weigh(heard, "my_own", VoteRules(), np.random.default_rng(0))
    assert verdict(VoteRules(), seen) == ("abstain", ("metric",))


def test_a_group_below_the_floor_stays_unjudged() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    scores = 2.0 * labels - 1 + rng.normal(0, 0.3, 400)
    scores[:20] = -scores[:20]  # all wrong
    groups = {"ward": (np.arange(20), np.arange(20, 200), np.arange(200, 400))}
    heard = Heard("binary", labels, scores, {"champion": scores}, groups=groups)

    def of(floor):
        rules = VoteRules(fairness=FairnessRule(gap=0.2, floor=floor))
        return verdict(rules, weigh(heard, "accuracy", rules, np.random.default_rng(0)))

    assert of(21) == ("yes", ("not_worse",))
    assert of(20) == ("no", ("unfair",))
    assert of(190) == ("abstain", ("fairness_unjudged",))


def test_the_same_question_gets_the_same_figures() -> None:
    heard = noise(3, 200)
    one, two = (weigh(heard, "roc_auc", RULES, np.random.default_rng(5)) for _ in range(2))
    assert one.figures() == two.figures()


def test_a_vote_travels_and_reads_back_and_what_is_none_does_not() -> None:
    vote = Vote("north", "run", "a" * 64, None, "no", ("unfair",), {"rows": 80.0}, "too old")
    assert Vote.from_json(vote.to_json()) == vote
    assert "too old" in vote.told
    assert WORDS["unfair"] in vote.told
    ballot = Ballot("v", (vote,), {"south": "not connected"})
    assert Ballot.from_json(ballot.to_json()) == ballot
    assert (ballot.count("no"), ballot.count("yes")) == (1, 0)
    for change in ({"verdict": "maybe"}, {"reasons": ["because"]}, {"reasons": []},
                   {"figures": {"rows": "many"}}, {"overruled": "x" * 501}):  # fmt: skip
        with pytest.raises(ReplyInvalid):
            Vote.from_json({**vote.to_json(), **change})
