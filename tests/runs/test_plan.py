import clinic
import pytest

from consilo.errors import IncompatibleJob
from consilo.runs.planning.plan import plan, refuse_reduction

SILOS = ("north", "south")


def refusal(silos=SILOS, contract=None, **changes) -> str:
    with pytest.raises(IncompatibleJob) as caught:
        plan(clinic.job(**changes), contract or clinic.contract(), silos)
    return str(caught.value)


def test_a_sound_job_gets_its_parts():
    made = plan(clinic.job(), clinic.contract(), SILOS)
    assert len(made.encoding.inputs) == 5
    assert made.learner.parameters()["linear.weight"].shape == (1, 5)
    assert type(made.protocol).__name__ == "FedAvg"


def test_every_reason_is_told_at_once():
    told = refusal(
        protocol={"name": "fedprox"},
        reduce={"secure": True},
        quorum={"min_silos": 3, "mandatory": ["west"]},
        model="consilo.learners.tabular:MPL",
        contract=clinic.contract(clinic.CONTRACT.replace("[0, 1]", "[0, 1, 2]")),
    )
    assert told.count("\n  - ") == 5
    for part in ("protocol.mu", "secure", "min_silos", "not registered: west", "two classes"):
        assert part in told


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": {"name": "fedavgg"}}, "did you mean 'fedavg'"),
        ({"protocol": {"name": "evaluation"}}, "does not train a model"),
        ({"protocol": {"name": "fedadam"}}, "server learning rate"),
        ({"protocol": {"name": "fedopt", "server_lr": 1}}, "needs a torch optimiser's path"),
        (
            {"protocol": {"name": "fedopt", "server_lr": 1, "optimizer": "torch.optim:Nope"}},
            "has no 'Nope'",
        ),
        (
            {"protocol": {"name": "fedopt", "server_lr": 1, "optimizer": "subprocess:run"}},
            "was not found beside the job file",
        ),
        (
            {"protocol": {"name": "fedopt", "server_lr": 1, "optimizer": "torch.optim:LBFGS"}},
            "refuses",
        ),
        (
            {
                "protocol": {
                    "name": "fedopt",
                    "server_lr": 1,
                    "optimizer": "torch.optim:SGD",
                    "args": {"momentumm": 1},
                }
            },
            "momentumm",
        ),
        ({"model": "consilo.learners.tabular:MPL"}, "did you mean 'MLP'"),
        ({"model": "nowhere:Net"}, "was not found"),
        ({"task": "custom"}, "a custom task needs a loss"),
        ({"task": "custom", "loss": "math:dist"}, "was not found beside the job file"),
        ({"outputs": 3}, "needs outputs of shape"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_any_message(changes, why):
    assert why in refusal(**changes)


def test_a_model_that_mixes_rows_is_refused_under_privacy(tmp_path):
    (tmp_path / "mixing.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_inputs):\n"
        "        super().__init__(nn.BatchNorm1d(num_inputs), nn.Linear(num_inputs, 1))\n"
    )
    job = clinic.job(model="mixing:Net")
    plan(job, clinic.contract(), SILOS, (tmp_path,))
    private = job.changed(privacy={"epsilon": 1.0, "delta": 1e-4})
    with pytest.raises(IncompatibleJob, match="BatchNorm"):
        plan(private, clinic.contract(), SILOS, (tmp_path,))


def test_a_rule_that_ranks_silos_cannot_live_on_a_sum():
    assert "reveals only their sum" in refuse_reduction("krum", needs_vectors=True, gives="sum")[0]
    assert refuse_reduction("krum", needs_vectors=True, gives="vectors") == []
    assert refuse_reduction("fedavg", needs_vectors=False, gives="sum") == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reduce": {"rule": "rules:median", "secure": True}}, "is not linear, so that it needs"),
        (
            {
                "reduce": {"secure": True},
                "protocol": {"name": "flower", "strategy": "flwr.serverapp.strategy:FedMedian"},
            },
            "the reduction reveals only their sum",
        ),
        (
            {
                "reduce": {"rule": "rules:median"},
                "protocol": {"name": "flower", "strategy": "flwr.serverapp.strategy:FedMedian"},
            },
            "combines the silos' vectors itself",
        ),
        ({"reduce": {"rule": "rules:broken"}}, "with the names and shapes of one silo's vector"),
        (
            {"reduce": {"rule": "rules:Twice"}, "privacy": {"epsilon": 1.0, "delta": 1e-4}},
            "takes 2 exchanges a round, each of which costs privacy",
        ),
        ({"protocol": {"name": "rules:Idle"}}, "has no coordinator half"),
        ({"protocol": {"name": "rules:Mute"}}, "has no verb"),
    ],
    ids=str,
)
def test_a_rule_or_protocol_that_cannot_work_is_refused(changes, why, tmp_path):
    (tmp_path / "rules.py").write_text(
        "from consilo.protocol import Protocol\n"
        "def median(vectors, weights):\n"
        "    return vectors[0]\n"
        "def broken(vectors, weights):\n"
        "    return {}\n"
        "class Twice:\n"
        "    gives, linear, passes = 'vectors', True, 2\n"
        "    def __call__(self, members, verb, payload, *, vectors, quorum):\n"
        "        yield from ()\n"
        "class Idle(Protocol):\n"
        "    pass\n"
        "class Mute(Protocol):\n"
        "    def coordinate(self, fed, state):\n"
        "        yield from ()\n"
    )
    with pytest.raises(IncompatibleJob) as caught:
        plan(clinic.job(**changes), clinic.contract(), SILOS, (tmp_path,))
    assert why in str(caught.value)


def test_the_first_model_depends_on_the_seed_alone():
    def first(seed):
        job = clinic.job(seed=seed, model="consilo.learners.tabular:MLP")
        return plan(job, clinic.contract(), SILOS).learner.parameters()["layers.0.weight"].tobytes()

    assert first(1) == first(1) != first(2)
