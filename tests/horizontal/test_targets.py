"""Targets of a regression are learnt standardised, and told in their own units."""

import clinic
import numpy as np
import pandas as pd
import pytest

from consilo.errors import IncompatibleJob, JobInvalid
from consilo.horizontal.apart import GradientsApart, LearnerApart
from consilo.horizontal.features import Encoding, Scale, target_range
from consilo.horizontal.learning import learner_apart, learner_of
from consilo.horizontal.private_figures import outputs_of
from consilo.horizontal.scaling import target_mode
from consilo.horizontal.unit import answer
from consilo.jobs.job import Job
from consilo.learners.torch_learner import Arrays, FitPlan
from consilo.models.scoring import Model
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.noise import ReproducibleStream
from silos.simulation.simulation import simulate

TEXT = """
name: stay
version: 1
columns:
  who: {type: string, role: subject}
  age: {type: float, range: {min: -10, max: 10}}
  dose: {type: float, range: {min: -10, max: 10}}
  y: {type: float, role: target%s}
"""
LINEAR = "consilo.learners.tabular:LinearRegression"
OWN_LOSS = (
    "import torch\n"
    "def absolute(outputs, targets):\n"
    "    return (outputs - targets).abs().mean()\n"
    "def bias(outputs, targets):\n"
    "    return {'bias': (float((outputs - targets).sum()), float(len(targets)))}\n"
)


def contract(low=None, high=None):
    bounds = "" if low is None else f", range: {{min: {low}, max: {high}}}"
    return clinic.contract(TEXT % bounds)


def frames(factor=1.0, offset=0.0, rows=120):
    found = {}
    for seed, name in enumerate(("east", "north")):
        rng = np.random.default_rng(seed)
        age, dose = rng.normal(size=rows), rng.normal(size=rows)
        y = 2 * age - dose + 0.3 * rng.normal(size=rows)
        who = [f"{name}{row}" for row in range(rows)]
        found[name] = pd.DataFrame({"who": who, "age": age, "dose": dose, "y": factor * y + offset})
    return found


def job_of(**changes):
    local = {"batch_size": 16, "lr": 0.05, **changes.pop("local", {})}
    named = {"contract": "stay@1", "model": LINEAR, "task": "regression", "local": local}
    return clinic.job(**{**named, "protocol": {"rounds": 8}, **changes})


def run(job, factor=1.0, offset=0.0, contract_=None, **settings):
    return simulate(job, frames(factor, offset), contract=contract_ or contract(), **settings)


@pytest.mark.parametrize(
    ("factor", "offset", "protocol"),
    [
        (1e6, 0, {}),
        (1, 50, {}),
        (1e-7, 0, {}),
        (1, 1e9, {}),
        (-3e4, 7, {}),
        (1e6, 50, {"name": "fedadam", "server_lr": 0.3, "rounds": 15}),
    ],
)
def test_a_target_in_other_units_gives_the_same_model(factor, offset, protocol):
    job = job_of(protocol={"rounds": 8, **protocol})
    plain, other = run(job), run(job, factor, offset)
    assert (plain.status, other.status) == ("complete", "complete")
    rows = frames()["east"]
    expected = factor * plain.predict(rows)["y"] + offset
    slack = 2e-3 * abs(factor)
    assert np.allclose(other.predict(rows)["y"], expected, rtol=0, atol=slack)
    assert other.metrics["r2"] == pytest.approx(plain.metrics["r2"], abs=1e-4)
    for figure in ("rmse", "mae"):
        assert other.metrics[figure] == pytest.approx(abs(factor) * plain.metrics[figure], rel=1e-3)
    assert plain.metrics["r2"] > 0.8


def test_figures_are_those_of_the_predictions(tmp_path):
    result = run(job_of(), 1e6, 50, directory=tmp_path)
    assert result.metrics["r2"] > 0.9
    result.save(tmp_path / "kept")
    (scoring,) = (tmp_path / "kept").rglob("scoring.json")
    rows = pd.concat(frames(1e6, 50).values())
    error = Model(scoring.parent).predict(rows)["y"] - rows["y"]
    # Of all rows, learnt from and held out alike: the model is a line.
    assert np.sqrt(np.mean(error**2)) == pytest.approx(result.metrics["rmse"], rel=0.2)


def test_a_run_says_in_what_its_loss_is(tmp_path):
    result = run(job_of(), 1e6, 50, directory=tmp_path)
    assert any("learnt standardised (y less" in note for note in result.notes)
    assert result.history["loss"].iloc[-1] < 1.0


def test_a_job_may_learn_the_target_as_it_is():
    job = job_of(features={"standardize_target": "none"})
    result = run(job, 1, 0)
    assert result.metrics["r2"] > 0.9
    assert not any("learnt standardised" in note for note in result.notes)
    far = run(job, 1e20, 0)
    assert (far.status, run(job_of(), 1e20, 0).status) == ("failed", "complete")
    assert "the loss is NaN or infinite" in far.reason


def test_several_targets_each_have_their_own_scale():
    text = TEXT % "" + "  z: {type: float, role: target}\n"
    rows = {name: each.assign(z=1e4 * each["age"] - 300) for name, each in frames(1, 50).items()}
    result = simulate(job_of(), rows, contract=clinic.contract(text))
    told = result.predict(rows["east"])
    assert result.metrics["r2"] > 0.9
    for name in ("y", "z"):
        assert np.corrcoef(told[name], rows["east"][name])[0, 1] > 0.9
        assert abs((told[name] - rows["east"][name]).mean()) < 0.2 * rows["east"][name].std()


@pytest.mark.parametrize("mode", ["contract", "silo"])
def test_where_no_moments_leave_the_silos_the_range_scales_the_target(mode, tmp_path):
    bounds = contract(-1e7, 1e7)
    result = run(job_of(features={"standardize": mode}), 1e6, 0, bounds, directory=tmp_path)
    assert result.status == "complete"
    assert result.metrics["rmse"] < 2e6
    with pytest.raises(IncompatibleJob, match="no range with min and max for y"):
        run(job_of(features={"standardize": mode}))


def test_with_privacy_the_scale_is_the_contracts_range_and_nothing_of_the_rows():
    private = {"epsilon": 8.0, "delta": 1e-3, "metrics_epsilon": 1.0, "reproducible": True}
    features = {"standardize": "contract"}
    job = job_of(privacy=private, features=features, local={"batch_size": 32})
    assert target_mode(job, contract(-8, 8), own_loss=False) == "contract"
    with pytest.raises(IncompatibleJob, match="with privacy, the target is standardised by its"):
        run(job)
    with pytest.raises(JobInvalid, match="exact moments of the target do not leave"):
        job.changed(features={"standardize_target": "global"})
    plain, large = run(job, 1, 0, contract(-8, 8)), run(job, 1e6, 0, contract(-8e6, 8e6))
    spent = [
        {name: each.epsilon for name, each in result.silos.items()} for result in (plain, large)
    ]
    assert spent[0] == spent[1]
    # What is clipped and made noisy is the same, up to the last bits of a change of units.
    assert np.allclose(
        large.predict(frames()["east"])["y"] / 1e6, plain.predict(frames()["east"])["y"], atol=0.02
    )


def test_a_loss_of_ones_own_sees_the_target_as_it_is_unless_asked(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_LOSS)
    own = {"loss": "mine:absolute", "metrics": "mine:bias"}
    as_it_is = run(job_of(**own), 1, 50, search_path=(tmp_path,))
    asked = run(
        job_of(**own, features={"standardize_target": "global"}), 1, 50, search_path=(tmp_path,)
    )
    assert abs(as_it_is.metrics["bias"]) > 10  # an absolute error's steps do not reach 50
    assert abs(asked.metrics["bias"]) < 1
    assert asked.metrics["rmse"] < 2


@pytest.mark.parametrize("task", ["binary", "multiclass", "custom"])
def test_only_a_regression_has_the_key(task):
    for value in ("global", "none"):
        with pytest.raises(JobInvalid, match="only a regression learns a target of values"):
            clinic.job(task=task, features={"standardize_target": value})
    asked = {"name": "ask", "kind": "analytics", "contract": "stay@1", "task": "regression"}
    with pytest.raises(JobInvalid, match="a job that trains nothing leaves it out"):
        Job.from_json({**asked, "features": {"standardize_target": "global"}})


def test_older_silos_are_not_asked_for_what_they_would_learn_unscaled():
    assert clinic.job().young_keys() == {}
    assert job_of().young_keys() == {"features.standardize_target": 3}
    assert "standardize_target" not in job_of().to_json()["features"]
    plain = job_of(features={"standardize_target": "none"})
    assert plain.from_json(plain.to_json()) == plain


def test_numbers_that_a_target_may_be_are_its_range():
    encoding = Encoding.plan(clinic.contract(), clinic.job(task="regression"))
    scale = target_range(clinic.contract())
    assert encoding.targets == ("ill",)
    assert (scale.mean.tolist(), scale.deviation.tolist()) == ([0.5], [0.5])


class Here:
    """Units in this process: what `consilo.horizontal.unit` answers, and what it was asked."""

    def __init__(self, job, encoding):
        self.job, self.encoding, self.asked = job, encoding, []

    def load(self, params):
        self.params = params

    def ask(self, what, unit, most_bytes):
        self.asked.append((what, unit))
        settings = {"job": self.job, "encoding": self.encoding, "params": self.params}
        return answer(what, unit, **settings, search_path=())

    measure = ask


def one_by_one(job, encoding, apart, plain, target):
    """The learner of a model that cannot be written down."""
    task, inputs = plain.task, len(encoding.inputs)
    return LearnerApart(apart, task, plain.parameters(), inputs=inputs, threads=1)


def test_a_model_in_processes_apart_sees_standardised_targets_too():
    job = job_of(privacy={"epsilon": 2.0, "delta": 1e-3}, features={"standardize": "contract"})
    encoding = Encoding.plan(contract(-8, 8), job)
    target = Scale(np.array([1e6]), np.array([200.0]))
    rng = np.random.default_rng(0)
    values = 1e6 + 200 * rng.normal(size=12)
    data = Arrays(rng.normal(size=(12, 2)).astype(np.float32), values)
    plain = learner_of(job, encoding, (), target)
    apart = Here(job, encoding)
    fitted = []
    for learner, source in (
        (one_by_one(job, encoding, apart, plain, target), GradientsApart(apart)),
        (learner_apart(job, encoding, apart, plain.parameters(), target), None),
        (plain, None),
    ):
        stream = ReproducibleStream(b"k" * 32, "a test")
        hook = DPHook(sigma=1e-3, max_grad_norm=1.0, sample_rate=0.5, stream=stream, source=source)
        plan = FitPlan(batch_size=6, steps=4, lr=0.1)
        learner.fit(data, plan, rng=np.random.default_rng(1), hooks=(hook,))
        fitted.append(learner.parameters())
    for name, value in fitted[2].items():
        np.testing.assert_allclose(fitted[0][name], value, atol=1e-2)
        np.testing.assert_allclose(fitted[1][name], value, atol=1e-2)
    seen = [unit["targets"] for what, unit in apart.asked if what == "gradient"]
    assert max(np.abs(each).max() for each in seen) < 10
    # Figures are in the target's own units, as those of a model in this process.
    found = outputs_of(plain, data.features, stream)
    for elsewhere in (
        one_by_one(job, encoding, apart, plain, target),
        learner_apart(job, encoding, apart, plain.parameters(), target),
    ):
        assert np.allclose(outputs_of(elsewhere, data.features, stream), found)
    assert abs(found.mean() - 1e6) < 1000
