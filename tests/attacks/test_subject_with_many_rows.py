"""Where subjects are hidden, a person with 40 rows is as hidden as one with a single row."""

from __future__ import annotations

import clinic
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clipping_underflow import MODELS

from consilo.errors import JobInvalid, Refused
from consilo.horizontal.dataset import Rows, rows_of, training_rows
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.subjects import Subjects, at_most
from consilo.horizontal.training import Training, train_locally
from consilo.jobs.job import Job
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.verbs import Disclosure, Permitted
from consilo.kernel.view import Message, SiloView
from consilo.learners.tabular import LogisticRegression
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import Arrays, FitPlan, TorchLearner
from consilo.privacy.clipping import HookedRows, clipped_groups
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.noise import ARITHMETIC, SecretStream
from consilo.privacy.sums import Sums, noisy_histogram
from silos.gate.policy import PrivacyRules
from silos.simulation.in_memory import InMemorySilo
from silos.simulation.simulation import simulate

LIMIT = 1.0 + ARITHMETIC
TEXT = clinic.CONTRACT + "  person: {type: string, role: subject}\n"
PRIVACY = {
    "unit": "subject",
    "epsilon": 3.0,
    "delta": 1e-3,
    "accountant": "rdp",
    "statistics_epsilon": 0.5,
    "metrics_epsilon": 0.5,
}

ROWS_ONLY = {"epsilon": 3.0, "delta": 1e-3}


def contract():
    return clinic.contract(TEXT)


def job(**changes) -> Job:
    privacy = {**PRIVACY, **changes.pop("privacy", {})}
    return clinic.job(privacy=privacy, features={"standardize": "contract"}, **changes)


def table(*sizes: int, seed: int = 0) -> pd.DataFrame:
    """Rows of as many people as there are sizes; the n-th has the n-th number of rows."""
    people = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    return clinic.frame(sum(sizes), seed, missing=0).assign(person=people)


def view(frame: pd.DataFrame, asked: Job, *, about=None, **permitted) -> SiloView:
    about = about or contract()
    header = Header(
        "run", "1/0/train", "c" * 64, 1, "north", "fedavg", "train", ("north",),
        Manifest.of("run", asked, about, ""),
    )  # fmt: skip
    silo = InMemorySilo("north", frame)
    return SiloView(silo, asked, about, header, Permitted(**permitted))


def rows(frame: pd.DataFrame, **changes) -> Rows:
    seen = view(frame, job(**changes))
    return rows_of(seen, Encoding.plan(contract(), seen.job), Scale.unit(2))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    exponents=st.lists(st.floats(-20, 20), min_size=4, max_size=4),
    norm=st.sampled_from([1e-6, 0.5, 100.0]),
    seed=st.integers(0, 99),
)
def test_one_subject_moves_the_clipped_sum_by_the_norm_at_most(
    name, sizes, exponents, norm, seed
) -> None:
    torch.manual_seed(seed)
    model = MODELS[name]()
    features = torch.randn(sum(sizes), 4) * 10.0 ** exponents[0]
    labels = torch.arange(sum(sizes)) % 2

    def total(upto: int) -> torch.Tensor:
        """The sum over the first so many subjects."""
        sums = HookedRows(model, list(model.parameters()), norm)
        count = sum(sizes[:upto])
        if count:
            given_, those = features[:count], labels[:count]
            sums.add(
                lambda called: torch.nn.functional.cross_entropy(
                    called(given_), those, reduction="none"
                ),
                count,
                sizes=sizes[:upto],
            )
        found = torch.cat([each.reshape(-1) for each in sums.take()])
        sums.close()
        return found

    with_, without = total(len(sizes)), total(len(sizes) - 1)
    # The sums are of some few vectors: their own rounding is far below the limit's.
    assert float((with_ - without).norm()) <= norm * LIMIT * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=50),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_rows_that_cancel_or_overflow_leave_nothing_behind(groups, is_odd) -> None:
    """Were factors put on rows, cancelling rows of 1e38 would leave rounding far above the norm."""
    values = [each for group in groups for each in (*group, *(-one for one in group))]
    column = torch.tensor(values, dtype=torch.float32)[:, None]
    if is_odd:
        column[0] = float("nan")
    sizes = [2 * len(each) for each in groups]
    (found,) = clipped_groups([column], sizes, 0.25)
    assert float(found.abs().max()) <= 0.25 * LIMIT * len(groups)
    if is_odd and len(groups) == 1:
        assert float(found) == 0.0


def fitted(codes, features, *, most, kind=DPHook, sigma=0.0, norm=0.5, **plan):
    learner = TorchLearner(LogisticRegression(2), Task.of("binary"))
    for each in learner.model.parameters():
        torch.nn.init.zeros_(each)
    hook = kind(
        sigma=sigma,
        max_grad_norm=norm,
        sample_rate=plan.pop("rate", 1.0),
        stream=SecretStream(bytes(32), "subject"),
        subjects=codes,
        max_rows_per_subject=most,
    )
    labels = np.arange(len(features)) % 2
    fit = FitPlan(batch_size=8, lr=1.0, **{"steps": 1, **plan})
    report = learner.fit(Arrays(features, labels), fit, rng=np.random.default_rng(0), hooks=[hook])
    moved = [value.reshape(-1) for value in learner.parameters().values()]
    return np.concatenate(moved), report


@pytest.mark.parametrize("count", [1, 2, 40])
def test_forty_rows_move_a_step_no_more_than_one(count) -> None:
    calm = np.full((8, 2), 1e-3, np.float32)
    loud = np.full((count, 2), 1e6, np.float32)
    codes = np.concatenate([np.arange(8), np.full(count, 8)])
    before, _ = fitted(np.arange(8), calm, most=40)
    after, _ = fitted(codes, np.concatenate([calm, loud]), most=40)
    assert np.linalg.norm(after * 9 - before * 8) <= 0.5 * LIMIT * (1 + 1e-5)


def test_subjects_of_one_row_each_are_rows() -> None:
    """To rounding: without noise, in several steps, where every subject has a single row."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(50, 2)).astype(np.float32)
    as_rows, one = fitted(None, features, most=1, steps=None, epochs=3)
    as_subjects, other = fitted(np.arange(50), features, most=1, steps=None, epochs=3)
    np.testing.assert_allclose(as_subjects, as_rows, rtol=1e-5, atol=1e-7)
    assert one.steps == other.steps


def test_steps_and_rate_are_of_subjects_and_each_has_a_place_of_its_own() -> None:
    features = np.ones((60, 2), np.float32)
    codes = np.repeat(np.arange(20), 3)
    _, report = fitted(codes, features, most=3, steps=None, epochs=2)
    assert report.steps == 2 * -(-20 // 8)
    hook = DPHook(
        sigma=1.0, max_grad_norm=1.0, sample_rate=0.5, stream=SecretStream(bytes(32), "x"),
        subjects=codes, max_rows_per_subject=3,
    )  # fmt: skip
    assert [each.tolist() for each in hook._units(np.arange(9))] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
    ]
    with pytest.raises(JobInvalid, match="more than 2"):
        DPHook(
            sigma=1.0, max_grad_norm=1.0, sample_rate=0.5, stream=SecretStream(bytes(32), "x"),
            subjects=codes, max_rows_per_subject=2,
        )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), min_size=1, max_size=40),
    st.integers(0, 2**20),
)
def test_one_subject_moves_sums_by_what_a_row_would(values, seed) -> None:
    """Rows of any values, gaps and classes, as many as one likes."""
    rng = np.random.default_rng(seed)
    wide = np.array(values)
    wide[rng.random(wide.shape) < 0.2] = np.nan
    weights = Subjects(np.zeros(len(wide), np.int64)).weights
    sums = Sums.of(
        wide, low=np.zeros(2), high=np.full(2, 7.0), codes=rng.integers(0, 3, len(wide)),
        num_classes=3, weights=weights, rows=1,
    )  # fmt: skip
    assert np.linalg.norm(sums.vector) <= sums.sensitivity * LIMIT
    assert sums.rows == 1


def test_of_a_subject_its_own_rows_alone_decide_which_are_used() -> None:
    few = table(*[3, 40] * 15)
    others = table(*[20] * 9, seed=5)
    many = pd.concat([others.assign(person="other " + others["person"]), few])

    def kept(frame):
        training = training_rows(view(frame, job()), Encoding.plan(contract(), job()))
        found = pd.concat([block for block, _ in training.blocks()])
        assert training.count == found["person"].nunique()
        return {
            (person, age)
            for person, age in zip(found["person"], found["age"], strict=True)
            if not person.startswith("other")
        }

    assert kept(few) == kept(many)
    counts = pd.Series([person for person, _ in kept(few)]).value_counts()
    assert set(counts) == {3, 16}


def test_at_most_keeps_the_smallest_and_the_order() -> None:
    whose = np.array([5, 5, 9, 5, 9, 5], np.uint64)
    numbers = np.array([4, 1, 3, 2, 8, 3], np.uint64)
    assert at_most(np.arange(6), whose, numbers, 2).tolist() == [1, 2, 3, 4]
    assert at_most(np.array([0, 3, 5]), whose, numbers, 1).tolist() == [3]
    assert at_most(np.zeros(0, np.int64), whose, numbers, 1).tolist() == []


def test_a_subject_is_on_one_side_only_whatever_a_column_says() -> None:
    text = TEXT + "  part: {type: category, role: split, allowed: [train, test]}\n"
    frame = table(*[4] * 30).assign(part=["train", "test", "test", "test"] * 20 + ["test"] * 40)
    about = clinic.contract(text)
    for privacy in (PRIVACY, None):
        asked = clinic.job(
            privacy=privacy, features={"standardize": "contract"}, evaluation={"split": "part"}
        )
        found = rows_of(view(frame, asked, about=about), Encoding.plan(about, asked), Scale.unit(2))
        # Of the first 20 people one row each is learnt from, and none of theirs is judged by.
        assert (len(found.train), len(found.test)) == (20, 40)


def answers(frame, verb, payload, **changes):
    """Return what leaves for a verb of statistics or evaluation, and training."""
    from consilo.horizontal.evaluation import Evaluation
    from consilo.horizontal.statistics import Statistics

    seen = view(frame, job(**changes))
    kind = Statistics if verb in ("silo_moments", "silo_histogram") else Evaluation
    return getattr(kind(), verb)(seen, Message(payload, 1, ("north",)))


def model_of(asked):
    from consilo.horizontal.learning import learner_of

    return learner_of(asked, Encoding.plan(contract(), asked)).parameters()


def public(frame) -> dict:
    """Return every number that leaves and is not noisy."""
    asked = job(local={"steps": 2})
    params = model_of(asked)
    zeros = np.zeros(2)
    moments = answers(
        frame, "silo_moments",
        {"moments": {name: zeros for name in ("count", "mean", "m2")}, "classes": {}},
    )  # fmt: skip
    request = {"params": params, "scale": {"mean": zeros, "deviation": np.ones(2)}}
    seen = view(frame, asked)
    trained = train_locally(seen, Message(request, 1, ("north",)))
    judged = answers(frame, "evaluate", request)
    return {
        "rows": moments["rows"],
        "train": {key: trained[key] for key in ("num_examples", "epsilon", "epsilon_bound")},
        "n": float(judged["tally"]["n"]),
        "test": judged["num_examples"],
        "booked": sorted((name, *row) for name, row in seen.account.reserved("run")),
    }


def test_no_number_of_rows_leaves() -> None:
    """Two tables that differ in how many rows one person has answer the same public numbers."""
    sizes = [2] * 40
    one = public(table(*sizes))
    for count in (1, 12, 40):
        assert public(table(count, *sizes[1:])) == one
    assert one["rows"] + one["test"] == 40
    assert all(name.endswith("/subject") for name, *_ in one["booked"])


def test_exact_statistics_are_refused_and_only_subjects_are_counted() -> None:
    frame = table(*[3] * 40)
    empty = {"moments": {}, "classes": {}}
    told = answers(frame, "silo_moments", empty, privacy={"statistics_epsilon": None})
    assert set(told) == {"rows"}
    zeros = {name: np.zeros(2) for name in ("count", "mean", "m2")}
    for verb, payload in (
        ("silo_moments", {"moments": zeros, "classes": {}}),
        ("silo_histogram", {"edges": {"age": [0.0, 50.0, 99.0], "smoker": [0.0, 0.5, 1.0]}}),
    ):
        with pytest.raises(Refused, match="statistics_epsilon"):
            answers(frame, verb, payload, privacy={"statistics_epsilon": None})


def test_floors_count_subjects() -> None:
    """One person with 40 rows is no group of 40."""
    seen = view(table(40), job(), floors={Disclosure.STATISTIC: 2})
    from consilo.horizontal.statistics import Statistics

    with pytest.raises(Refused, match="2 rows or more"):
        Statistics().silo_moments(seen, Message({"moments": {}, "classes": {}}, 0, ("north",)))


def test_a_silo_refuses_a_contract_without_subjects_in_words() -> None:
    about = clinic.contract()
    seen = view(clinic.frame(40, missing=0), job(), about=about)
    with pytest.raises(Refused, match="role subject"):
        training_rows(seen, Encoding.plan(about, seen.job))


def test_histograms_weigh_subjects() -> None:
    counts = {"age": np.bincount([0, 1, 1], weights=[0.5, 0.25, 0.25], minlength=2)}
    noisy = noisy_histogram(counts, 1e-9, SecretStream(bytes(32), "bins"))
    assert float(sum(counts["age"])) == 1.0
    assert noisy["age"].tolist() == [0.0, 0.0]


def test_a_policy_that_wants_subjects_hidden_takes_no_other_job() -> None:
    from consilo.protocols.names import asked_of
    from silos.gate.policy import Policy

    rules = Policy.simulation().model_copy(
        update={"privacy": PrivacyRules(unit="subject", allow_reproducible=True)}
    )
    trains = asked_of("fedavg", Training.verbs()["train"])
    for asked, fits in (
        (job(), True),
        (clinic.job(privacy=ROWS_ONLY), False),
        (clinic.job(), False),
    ):
        header = view(table(1), asked).header
        if fits:
            rules.permit(header, asked, trains)
        else:
            with pytest.raises(Refused, match="privacy"):
                rules.permit(header, asked, trains)


def test_jobs_over_joint_tables_and_matches_hide_no_subjects() -> None:
    joint = {
        "protocol": {"name": "vertical_linear", "args": {}},
        "privacy": {"unit": "subject", "epsilon": 1.0, "delta": 1e-5},
        "features": {"standardize": "contract"},
    }
    with pytest.raises(JobInvalid, match="horizontal and analytics"):
        clinic.job("vertical", **joint)
    with pytest.raises(JobInvalid, match="privacy"):
        Job.from_json(
            {
                "name": "match", "kind": "match", "contract": "clinic@1",
                "match": {"recipe": {"keys": [{"parts": [{"column": "age"}]}]}},
                "privacy": {"unit": "subject", "epsilon": 1.0, "delta": 1e-5},
            }
        )  # fmt: skip


def test_a_plan_refuses_a_contract_without_subjects() -> None:
    from consilo.errors import IncompatibleJob
    from consilo.runs.planning.plan import plan

    with pytest.raises(IncompatibleJob, match="role subject"):
        plan(job(), clinic.contract(), ())
    plan(job(), contract(), ())
    with pytest.raises(JobInvalid, match="statistics_epsilon"):
        clinic.job(privacy={"unit": "subject", "epsilon": 1.0, "delta": 1e-5})


def test_a_run_of_three_silos_in_which_people_have_many_rows(tmp_path) -> None:
    """From the job to the model, in simulation: only numbers of people are told."""
    (tmp_path / "clinic.yaml").write_text(TEXT)
    asked = job(protocol={"rounds": 2}, quorum={"min_silos": 3})
    sizes = {"east": [1, 40] * 20, "north": [3] * 60, "south": [2] * 50}
    rows = {name: table(*each, seed=len(name)) for name, each in sizes.items()}
    result = simulate(asked, rows, contract=contract(), search_path=[tmp_path])
    assert result.status in ("complete", "degraded"), result.reason
    for name, each in result.silos.items():
        assert each.status == "trained"
        assert 0.5 * len(sizes[name]) < each.num_examples < len(sizes[name])
        assert 0 < each.epsilon <= 3.0 * 1.000001


def test_the_gates_floor_counts_subjects() -> None:
    from silos.rows.tables import Tables

    class Fixed(Tables):
        def __init__(self) -> None:
            """It has one table."""

        def frame(self, contract, *, purpose):
            return table(40, 1)

    assert Fixed().num_rows(contract(), "research") == 41
    assert Fixed().num_rows(contract(), "research", subjects=True) == 2
    assert Fixed().num_rows(clinic.contract(), "research", subjects=True) == 0
