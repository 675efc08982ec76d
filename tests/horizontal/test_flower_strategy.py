import logging

import clinic
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import IncompatibleJob, QuorumLost
from consilo.horizontal.fedavg import FedAvg
from consilo.horizontal.fedopt import FedAdagrad, FedAdam, FedYogi
from consilo.horizontal.flower_strategy import FlowerStrategy
from consilo.horizontal.training import TrainState
from consilo.kernel.steps import Answers, Ask, Checkpoint, Reply
from consilo.reduce.mean import finish, fold
from consilo.runs.planning.plan import plan
from consilo.wire.parcel import Fault
from consilo.wire.payload import pack, unpack

FLWR = "flwr.serverapp.strategy:"
NAMES = ("east", "north", "south", "west", "zenith")


class Everybody:
    """What a coordinator half sees of a federation."""

    def __init__(self, job, names=NAMES):
        self.job, self.names = job, names

    def cohort(self):
        return self.names


def flower(strategy, rounds=3, **args):
    path = strategy if ":" in strategy else FLWR + strategy
    return clinic.job(protocol={"name": "flower", "strategy": path, "args": args, "rounds": rounds})


def start(rounds=3):
    rng = np.random.default_rng(7)
    shapes = {"b.weight": (2, 3), "a.bias": (2,)}
    params = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    return TrainState(params, rounds)


def deltas_of(number, names=NAMES, size=1.0):
    """Unlike deltas and row counts of every silo, the same whenever asked."""
    found = {}
    for place, name in enumerate(names):
        rng = np.random.default_rng([number, place])
        like = start().params
        delta = {k: (size * rng.normal(size=v.shape)).astype(np.float32) for k, v in like.items()}
        found[name] = (delta, int(rng.integers(1, 50)))
    return found


def reply(name, delta, rows, loss=0.5):
    fields = {"delta": delta, "num_examples": rows, "metrics": {}, "tally": {}, "loss": loss}
    return Reply(name, fields, 0.0)


def drive(job, state, deltas=deltas_of, *, stop_after=None, missing=(), names=NAMES):
    """Play kernel and silos; return the states of every checkpoint and who was asked."""
    protocol = FlowerStrategy(job)
    protocol.prepare()
    generator = protocol.coordinate(Everybody(job, names), state)
    states, asked, result, number = [], [], None, state.round
    while True:
        try:
            step = generator.send(result)
        except StopIteration:
            return states, asked
        result = None
        if isinstance(step, Ask):
            number += 1
            asked.append(step.members)
            given_ = deltas(number)
            told = {m: reply(m, *given_[m]) for m in step.members if m not in missing}
            result = Answers(told, {m: Fault("crashed", "gone") for m in missing})
        elif isinstance(step, Checkpoint):
            states.append(step.state)
            if len(states) == stop_after:
                return states, asked


def ours(kind, job, state, deltas=deltas_of):
    """Our own rule over the same deltas."""
    protocol = kind(job)
    states = []
    while state.round < state.rounds:
        total, mass = None, 0.0
        for delta, rows in deltas(state.round + 1).values():
            total, mass = fold(total, delta, rows), mass + rows
        stepped = protocol.step(state, finish(total, mass))
        state = TrainState(stepped.params, state.rounds, state.round + 1, stepped.server)
        states.append(state)
    return states


def assert_close(left, right, tolerance=1e-6):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=tolerance)


def assert_equal_states(left, right):
    assert pack(left.to_payload()) == pack(right.to_payload())


def test_flowers_fedavg_equals_ours():
    theirs, _ = drive(flower("FedAvg"), start())
    mine = ours(FedAvg, clinic.job(), start())
    for left, right in zip(theirs, mine, strict=True):
        assert_close(left.params, right.params)


@pytest.mark.parametrize(("strategy", "kind"), [("FedYogi", FedYogi), ("FedAdagrad", FedAdagrad)])
def test_flowers_fedopt_equals_ours(strategy, kind):
    settings_ = {"eta": 0.05, "tau": 1e-3}
    if strategy == "FedYogi":
        settings_ |= {"beta_1": 0.9, "beta_2": 0.99}
    job = clinic.job(protocol={"server_lr": 0.05, "tau": 1e-3, "betas": (0.9, 0.99)})
    if strategy == "FedAdagrad":  # no first moment in Flower's
        job = clinic.job(protocol={"server_lr": 0.05, "tau": 1e-3, "betas": (0.0, 0.99)})
    theirs, _ = drive(flower(strategy, **settings_), start())
    for left, right in zip(theirs, ours(kind, job, start()), strict=True):
        assert_close(left.params, right.params, 2e-6)


def test_flowers_fedadam_is_ours_with_its_bias_correction():
    """Flower scales the rate by sqrt(1 - b2^(t+1)) / (1 - b1^(t+1)); the paper does not."""
    b1, b2, eta = 0.9, 0.99, 0.05
    theirs, _ = drive(flower("FedAdam", eta=eta, beta_1=b1, beta_2=b2, tau=1e-3), start())
    state = start()
    for left in theirs:
        t = state.round + 1
        lr = eta * np.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        job = clinic.job(protocol={"server_lr": float(lr), "tau": 1e-3, "betas": (b1, b2)})
        stop = TrainState(state.params, t, state.round, state.server)
        state = TrainState.from_payload(ours(FedAdam, job, stop)[-1].to_payload())
        assert_close(left.params, state.params, 2e-6)


def test_krum_with_an_attacker_picks_an_honest_update():
    def attacked(number):
        found = deltas_of(number, size=0.1)
        evil = {k: np.full_like(v, 1e4) for k, v in found["south"][0].items()}
        return {**found, "south": (evil, 10**6)}

    job = flower("Krum", num_malicious_nodes=1, rounds=1)
    (after,), _ = drive(job, start(1), attacked)
    honest = [
        {k: start().params[k] - delta[k] for k in delta}
        for name, (delta, _) in attacked(1).items()
        if name != "south"
    ]
    assert any(all(np.allclose(after.params[k], h[k], atol=1e-6) for k in h) for h in honest)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**16))
def test_trimmed_mean_equals_a_numpy_oracle(seed):
    def deltas(number):
        return deltas_of(number + seed)

    (after,), _ = drive(flower("FedTrimmedAvg", beta=0.2, rounds=1), start(1), deltas)
    for key, first in start().params.items():
        stacked = np.sort(np.stack([first - d[key] for d, _ in deltas(1).values()]), axis=0)
        np.testing.assert_allclose(after.params[key], stacked[1:-1].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "args"),
    [
        ("FedAvg", {"fraction_train": 0.6}),
        ("FedAvgM", {"server_momentum": 0.9, "server_learning_rate": 0.5}),
        ("FedAdam", {"eta": 0.05}),
        ("FedYogi", {}),
        ("FedMedian", {}),
        ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 2}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(strategy, args):
    job = flower(strategy, rounds=2, **args)
    whole, asked = drive(job, start(2))
    first, before = drive(job, start(2), stop_after=1)
    saved = TrainState.from_payload(unpack(pack(first[-1].to_payload())))
    assert_equal_states(saved, first[-1])
    rest, after = drive(job, saved)
    assert before + after == asked
    assert_equal_states(rest[-1], whole[-1])


def test_momentum_survives_the_round():
    still, _ = drive(flower("FedAvgM", server_momentum=0.9), start())
    plain, _ = drive(flower("FedAvg"), start())
    assert_close(still[0].params, plain[0].params, 1e-5)
    assert not np.allclose(still[2].params["a.bias"], plain[2].params["a.bias"], atol=1e-3)


def test_the_strategy_chooses_who_is_asked_from_the_jobs_seed():
    job = flower("FedAvg", rounds=6, fraction_train=0.4)
    _, asked = drive(job, start(6))
    assert all(len(each) == 2 and set(each) <= set(NAMES) for each in asked)
    assert len(set(asked)) > 1
    assert drive(job, start(6))[1] == asked
    assert drive(job.changed(seed=1), start(6))[1] != asked


def test_missing_silos_are_errors_to_the_strategy():
    (after,), _ = drive(flower("FedAvg", rounds=1), start(1), missing=("south", "west"))
    kept = {n: d for n, d in deltas_of(1).items() if n not in ("south", "west")}
    (mine,) = ours(FedAvg, clinic.job(), start(1), lambda _: kept)
    assert_close(after.params, mine.params)


def test_too_few_silos_are_a_lost_quorum_and_no_endless_wait():
    with pytest.raises(QuorumLost, match="min_available_nodes"):
        drive(flower("FedAvg", min_available_nodes=9), start())


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (FLWR + "DifferentialPrivacyServerSideFixedClipping", "not sound.*section privacy"),
        (FLWR + "DifferentialPrivacyClientSideAdaptiveClipping", "not sound"),
        ("flwr.server.workflow:SecAggPlusWorkflow", "not sound.*32 bits"),
        (FLWR + "FedProx", "protocol fedprox"),
        (FLWR + "FedXgbBagging", "trees"),
        (FLWR + "FedAvgg", "did you mean 'FedAvg'"),
        ("flwr.nowhere:FedAvg", "was not found beside the job file"),
        ("subprocess:Popen", "was not found beside the job file"),
        ("test_flower_strategy:Hoarder", "keeps a Generator in 'rng'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_message(path, why):
    with pytest.raises(IncompatibleJob, match=why):
        plan(flower(path), clinic.contract(), NAMES)


def test_wrong_settings_are_refused_before_any_message():
    with pytest.raises(IncompatibleJob, match="bettas"):
        plan(flower("FedAvg", bettas=1), clinic.contract(), NAMES)
    with pytest.raises(IncompatibleJob, match="flower needs a strategy"):
        plan(clinic.job(protocol={"name": "flower"}), clinic.contract(), NAMES)


def test_a_loss_weighted_strategy_is_refused_under_privacy():
    job = flower("QFedAvg", client_learning_rate=0.1).changed(
        privacy={"epsilon": 1.0, "delta": 1e-4}
    )
    with pytest.raises(IncompatibleJob, match="training loss"):
        plan(job, clinic.contract(), NAMES)


def test_flower_keeps_quiet_and_its_logger_as_it_was(capfd):
    log = logging.getLogger("flwr")
    level = log.level
    drive(flower("FedAvg"), start())
    assert log.level == level
    assert capfd.readouterr() == ("", "")


def test_a_flower_strategy_trains_silos_like_our_own_fedavg(tmp_path):
    rows = clinic.frames(30, 20, 40)
    theirs = clinic.trained(flower("FedAvg"), clinic.hosts(rows), tmp_path / "a")
    mine = clinic.trained(clinic.job(), clinic.hosts(rows), tmp_path / "b")
    assert_close(theirs.params, mine.params)
    assert theirs.close().status == "complete"


def test_a_silo_that_was_not_chosen_has_missed_nothing(tmp_path):
    job = flower("FedAvg", rounds=4, fraction_train=0.7, min_train_nodes=1)
    run = clinic.trained(job, clinic.hosts(clinic.frames(30, 20, 40)), tmp_path)
    result = run.close()
    assert {len(each["silos"]) for each in result.rounds} == {2}
    assert result.status == "complete", result.reason


def _hoarder():
    from flwr.serverapp.strategy import FedAvg as Theirs

    class Hoarder(Theirs):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng()

    return Hoarder


def __getattr__(name):
    if name == "Hoarder":
        return _hoarder()
    raise AttributeError(name)
