"""FedAvg, FedProx and the FedOpt family over silos in memory: identities, resume, oracles."""

import clinic
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import IncompatibleJob, ModelDiverged
from consilo.protocols.fedavg import FedAvg
from consilo.protocols.fedopt import FedAdagrad, FedAdam, FedOpt, FedYogi
from consilo.protocols.fedprox import FedProx
from consilo.protocols.training import TrainState
from consilo.wire import pack, unpack
from silos.in_memory import InMemorySilo

RULES = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "fedadam": {"server_lr": 0.1},
    "fedyogi": {"server_lr": 0.1, "betas": (0.8, 0.9), "tau": 0.01},
    "fedadagrad": {"server_lr": 0.1},
    "fedopt": {"server_lr": 0.1, "optimizer": "torch.optim:Adam"},
}
KINDS = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedopt": FedOpt,
}


def job(name="fedavg", rounds=3, **changes):
    return clinic.job(protocol={"name": name, "rounds": rounds, **RULES[name]}, **changes)


def deltas(number):
    rng = np.random.default_rng(number)
    return {"w": rng.normal(size=(2, 3)).astype(np.float32), "b": np.float32(rng.normal(size=1))}


def walk(protocol, state, upto):
    while state.round < upto:
        made = protocol.step(state, deltas(state.round))
        state = TrainState(made.params, made.rounds, state.round + 1, made.server, state.scale)
    return state


@pytest.mark.parametrize("name", RULES)
def test_a_state_round_trips_exactly_and_resumes_the_same(name):
    first = TrainState({"w": np.ones((2, 3), np.float32), "b": np.zeros(1, np.float32)}, 4)
    protocol = KINDS[name](job(name))
    half = walk(protocol, first, 2)
    saved = TrainState.from_payload(unpack(pack(half.to_payload())))
    assert list(saved.params) == ["w", "b"]
    assert pack(saved.to_payload()) == pack(half.to_payload())
    resumed = walk(KINDS[name](job(name)), saved, 4)
    assert pack(resumed.to_payload()) == pack(walk(protocol, half, 4).to_payload())


@pytest.mark.parametrize("name", RULES)
def test_a_step_changes_nothing_of_the_state_it_is_given(name):
    first = TrainState({"w": np.ones((2, 3), np.float32), "b": np.zeros(1, np.float32)}, 4)
    protocol = KINDS[name](job(name))
    one = walk(protocol, first, 1)
    before = pack(one.to_payload())
    walk(protocol, one, 3)
    assert pack(one.to_payload()) == before


def paper(name, number, settings_):
    """Reddi et al. 2021, Algorithm 2, in numpy and float64."""
    lr, (b1, b2), tau = settings_
    x = np.ones((2, 3))
    m = v = np.zeros((2, 3))
    for each in range(number):
        delta = -deltas(each)["w"].astype(np.float64)
        m = b1 * m + (1 - b1) * delta
        square = delta**2
        v = {
            "fedadagrad": v + square,
            "fedyogi": v - (1 - b2) * square * np.sign(v - square),
            "fedadam": b2 * v + (1 - b2) * square,
        }[name]
        x = x + lr * m / (np.sqrt(v) + tau)
    return x


@pytest.mark.parametrize(
    ("name", "settings_"),
    [
        ("fedadam", (0.1, (0.9, 0.99), 1e-3)),
        ("fedadagrad", (0.1, (0.9, 0.99), 1e-3)),
        ("fedyogi", (0.1, (0.8, 0.9), 0.01)),
    ],
)
def test_the_adaptive_rules_equal_the_papers_formulas(name, settings_):
    first = TrainState({"w": np.ones((2, 3), np.float32), "b": np.zeros(1, np.float32)}, 4)
    found = walk(KINDS[name](job(name)), first, 4).params["w"]
    np.testing.assert_allclose(found, paper(name, 4, settings_), rtol=2e-5, atol=2e-6)


def test_fedopt_is_the_named_torch_optimiser_on_the_pseudo_gradient():
    first = TrainState({"w": np.ones((2, 3), np.float32), "b": np.zeros(1, np.float32)}, 4)
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    for each in range(4):
        parameter.grad = torch.from_numpy(deltas(each)["w"])
        optimizer.step()
    found = walk(FedOpt(job("fedopt")), first, 4).params["w"]
    np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-6)


def test_fedopt_takes_doubles():
    state = TrainState({"w": np.ones((2, 3)), "b": np.zeros(1)}, 1)
    assert walk(FedOpt(job("fedopt")), state, 1).params["w"].dtype == np.float64


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedadam", "fedyogi", "fedopt"])
def test_a_resumed_run_equals_an_uninterrupted_one_and_asks_the_same_ids(name, tmp_path):
    def states(start, run_id="r1"):
        run = clinic.run_of(job(name), clinic.hosts(clinic.frames(24, 16)), tmp_path / str(start))
        run.admit()
        run.standardize()
        if start:
            payload = unpack((tmp_path / "0" / "checkpoint.safetensors").read_bytes())
            assert payload["state"]["round"] == 3
            run.state = saved[start - 1]
        found = []
        while run.rounds_left:
            run.train_round()
            found.append(run.state)
        return found

    saved = []
    saved += [TrainState.from_payload(unpack(pack(s.to_payload()))) for s in states(0)]
    resumed = states(1)
    assert [pack(s.to_payload()) for s in resumed] == [pack(s.to_payload()) for s in saved[1:]]


def params(name, rows, path, **changes):
    return clinic.trained(job(name, **changes), clinic.hosts(rows), path).params


def close(left, right, tolerance=1e-6):
    for key in left:
        np.testing.assert_allclose(left[key], right[key], rtol=tolerance, atol=tolerance)


def test_with_one_silo_fedavg_is_its_local_training(tmp_path):
    rows = clinic.frames(30)
    federated = params("fedavg", rows, tmp_path / "f", rounds=1)
    run = clinic.run_of(job(rounds=1), clinic.hosts(rows), tmp_path / "l")
    run.admit()
    run.standardize()
    from consilo.features import Scale
    from consilo.learning import learner_of, plan_of
    from consilo.seeds import generator

    encoding, host = run.encoding, InMemorySilo("east", rows["east"])
    learner = learner_of(run.job, encoding)
    from consilo.dataset import rows_of
    from consilo.headers import Header
    from consilo.silo import SiloView

    header = Header("r", "1/0/train", "", 1, "east", "fedavg", "train", ("east",))
    view = SiloView(host, run.job, clinic.contract(), header)
    scale = Scale.of_moments(run.summary.moments.mean, run.summary.moments.variance)
    rng = generator(run.job.seed, "1/0/train", "east", "batches")
    learner.fit(rows_of(view, scale).train, plan_of(run.job), rng=rng)
    close(federated, learner.parameters())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fedprox", {"mu": 0.0}),
        ("fedopt", {"optimizer": "torch.optim:SGD", "server_lr": 1.0}),
    ],
)
def test_special_cases_are_fedavg(name, changes, tmp_path):
    rows = clinic.frames(24, 40)
    special = clinic.job(protocol={"name": name, **changes})
    made = clinic.trained(special, clinic.hosts(rows), tmp_path / "a").params
    close(made, params("fedavg", rows, tmp_path / "b"))


def test_a_proximal_term_holds_silos_back(tmp_path):
    rows = clinic.frames(24, 40)

    def distance(path, **spec):
        run = clinic.trained(clinic.job(protocol={"rounds": 1, **spec}), clinic.hosts(rows), path)
        return sum(float(np.abs(each).sum()) for each in run.params.values())

    free = distance(tmp_path / "a", name="fedavg")
    assert distance(tmp_path / "b", name="fedprox", mu=5.0) < free


@settings(max_examples=5, deadline=None)
@given(st.permutations(["east", "north", "south"]))
def test_the_order_in_which_silos_are_given_does_not_matter(tmp_path_factory, order):
    rows = clinic.frames(24, 16, 30)
    path = tmp_path_factory.mktemp("order")
    shuffled = {name: rows[name] for name in order}
    same = params("fedavg", shuffled, path / "a", rounds=1)
    for name, value in params("fedavg", rows, path / "b", rounds=1).items():
        assert value.tobytes() == same[name].tobytes()


def test_the_federation_learns(tmp_path):
    run = clinic.trained(job(rounds=5), clinic.hosts(clinic.frames(60, 40, 80)), tmp_path)
    found = run.evaluate()
    assert found.metrics["roc_auc"] > 0.8
    assert run.rounds[-1]["loss"] < run.rounds[0]["loss"]
    result = run.close()
    assert all(each.metrics and each.metrics_before for each in result.silos.values())


class Drifting(FedAvg):
    """A server whose model becomes NaN."""

    def step(self, state, mean_delta):
        return TrainState({k: v * np.nan for k, v in state.params.items()}, state.rounds)


def test_a_global_model_that_is_not_finite_ends_the_run(tmp_path):
    drifting = clinic.job(protocol={"name": "test_training:Drifting"})
    with pytest.raises(ModelDiverged, match="global model after round 1"):
        clinic.trained(drifting, clinic.hosts(clinic.frames(20)), tmp_path)


def test_fedprox_needs_its_weight():
    with pytest.raises(IncompatibleJob, match=r"protocol\.mu"):
        FedProx(clinic.job(protocol={"name": "fedprox"}))
