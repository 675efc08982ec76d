import json

import clinic
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import IncompatibleJob, ModelDiverged, QuorumLost
from consilo.kernel.headers import Header, fault_parcel
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read, verify
from consilo.runs.horizontal import run_all
from consilo.transports.local import LocalTransport
from consilo.wire.params import digest
from consilo.wire.parcel import Fault

KEY = Ed25519PrivateKey.generate()
ISSUE_KEYS = {
    "status",
    "silos",
    "metrics",
    "pooled_baseline",
    "local_baselines",
    "model",
    "mlflow",
    "prefect",
    "record",
    "seconds",
}


def failing(host, *, verb="train", rounds=(), code="crashed"):
    """A silo that gives no answer to a verb in some rounds."""
    answer = answerer(host)

    def reply(parcel):
        header = Header.decode(parcel.header)
        if header.verb == verb and header.round in rounds:
            return fault_parcel(
                silo=host.name, step_id=header.step_id, fault=Fault(code, "its process died")
            )
        return answer(parcel)

    return reply


@pytest.fixture
def hosts():
    return clinic.hosts(clinic.frames(30, 20, 40))


def finish(run):
    run.admit()
    run.standardize()
    while run.rounds_left:
        run.train_round()
    run.evaluate()
    return run.close()


def test_a_whole_run_is_complete_and_says_all_that_the_issue_asks(hosts, tmp_path):
    run = clinic.run_of(clinic.job(), hosts, tmp_path, key=KEY)
    result = finish(run)
    value = json.loads(json.dumps(result.to_json()))
    assert value["status"] == "complete"
    assert value["reason"] == ""
    assert set(value) >= ISSUE_KEYS
    for outcome in value["silos"].values():
        assert outcome["status"] == "trained"
        assert outcome["rounds"] == [1, 2, 3]
        assert outcome["num_examples"] > 0
        assert outcome["epsilon"] is None
        assert {"accuracy", "log_loss"} <= set(outcome["metrics"])
    assert {"check", "train"} <= {"check", *value["seconds"]}
    assert {"accuracy", "roc_auc", "log_loss"} <= set(value["metrics"])


def test_its_record_verifies_and_names_who_took_part_and_the_model(hosts, tmp_path):
    run = clinic.run_of(clinic.job(), hosts, tmp_path, key=KEY)
    finish(run)
    body = verify(tmp_path / "record.jsonl", KEY.public_key().public_bytes_raw())
    entries = read(tmp_path / "record.jsonl")
    kinds = [each["kind"] for each in entries]
    before = ["opened", *["contract"] * 3, "standardized"]
    after = ["evaluated", "ending", "model", "closed"]
    assert kinds == [*before, *["round"] * 3, *after]
    assert entries[0]["body"]["job_digest"] == run.job.digest
    assert entries[0]["body"]["contract_digest"] == clinic.contract().digest
    assert set(entries[5]["body"]["silos"]) == set(hosts)
    assert entries[-2]["body"]["params"] == digest(run.params)
    assert body["status"] == "complete"
    assert set(body["silos"]) == set(hosts)


def test_a_record_holds_no_row(tmp_path):
    rows = clinic.frames(30, 20)
    rows["east"].loc[0, "age"] = 87.654321
    run = clinic.run_of(clinic.job(), clinic.hosts(rows), tmp_path)
    finish(run)
    assert "87.654321" not in (tmp_path / "record.jsonl").read_text()


@pytest.mark.parametrize(
    ("rounds", "status", "reason"),
    [
        ((2,), "trained", "missed round 2: its process died"),
        ((2, 3), "dropped", "missed round 2, 3: its process died"),
        ((1, 2, 3), "dropped", "its process died"),
    ],
)
def test_a_silo_that_drops_out_makes_the_run_degraded(hosts, tmp_path, rounds, status, reason):
    answers = {**hosts, "north": failing(hosts["north"], rounds=rounds)}
    result = finish(clinic.run_of(clinic.job(), answers, tmp_path))
    assert result.status == "degraded"
    outcome = result.silos["north"]
    assert (outcome.status, outcome.reason) == (status, reason)
    assert outcome.rounds == tuple(n for n in (1, 2, 3) if n not in rounds)
    assert reason in result.reason
    assert result.silos["south"].status == "trained"


@pytest.mark.parametrize(
    ("verb", "what"), [("moments", "the statistics"), ("evaluate", "the evaluation")]
)
def test_missing_a_single_step_is_not_plain_success(hosts, tmp_path, verb, what):
    answers = {**hosts, "north": failing(hosts["north"], verb=verb, rounds=(0,))}
    result = finish(clinic.run_of(clinic.job(), answers, tmp_path))
    assert result.status == "degraded"
    assert result.silos["north"].reason == f"missed {what}: its process died"
    assert result.silos["north"].status == "trained"


def test_a_silo_that_never_connects_is_dropped(hosts, tmp_path):
    run = clinic.run_of(clinic.job(), hosts, tmp_path, silos=(*hosts, "zenith"))
    result = finish(run)
    assert result.status == "degraded"
    assert result.silos["zenith"].status == "dropped"
    assert result.silos["zenith"].reason == "not connected"


def test_a_suspended_silo_is_not_asked_and_the_run_says_so(hosts, tmp_path):
    def answer(parcel):
        raise AssertionError("a suspended silo was asked")

    answers = {**hosts, "north": answer}
    run = clinic.run_of(clinic.job(), answers, tmp_path, absent={"north": "suspended"})
    result = finish(run)
    assert result.status == "degraded"
    assert (result.silos["north"].status, result.silos["north"].reason) == ("dropped", "suspended")
    assert all(each.silo != "north" for each in run.exchanges)
    assert result.silos["south"].status == "trained"


def test_a_refusal_is_told_as_such(hosts, tmp_path):
    hosts["north"].refusal = "this silo's policy does not allow the job 'clinic'"
    result = finish(clinic.run_of(clinic.job(), hosts, tmp_path))
    assert result.silos["north"].status == "refused"
    assert "does not allow" in result.reason


@pytest.mark.parametrize(
    "quorum", [{"min_silos": 3}, {"min_silos": 1, "mandatory": ["north"]}], ids=str
)
def test_a_lost_quorum_ends_the_run_as_failed_with_who_was_missing(hosts, tmp_path, quorum):
    answers = {**hosts, "north": failing(hosts["north"], rounds=(2,))}
    run = clinic.run_of(clinic.job(quorum=quorum), answers, tmp_path, key=KEY)
    run.admit()
    run.standardize()
    run.train_round()
    with pytest.raises(QuorumLost, match="round 2") as lost:
        run.train_round()
    assert lost.value.missing == {"north": "crashed: its process died"}
    result = run.close(lost.value)
    assert result.status == "failed"
    assert result.reason.startswith("QuorumLost: round 2")
    body = verify(tmp_path / "record.jsonl", KEY.public_key().public_bytes_raw())
    assert body["status"] == "failed"
    assert "model" not in [each["kind"] for each in read(tmp_path / "record.jsonl")]


def test_a_round_that_lost_its_quorum_can_be_done_again(hosts, tmp_path):
    down = [True]
    good = answerer(hosts["north"])
    bad = failing(hosts["north"], rounds=(2,))
    answers = {**hosts, "north": lambda parcel: bad(parcel) if down[0] else good(parcel)}
    run = clinic.run_of(clinic.job(quorum={"min_silos": 3}), answers, tmp_path / "a")
    run.admit()
    run.standardize()
    run.train_round()
    with pytest.raises(QuorumLost):
        run.train_round()
    down[0] = False
    while run.rounds_left:
        run.train_round()
    fresh = clinic.hosts(clinic.frames(30, 20, 40))
    steady = clinic.trained(clinic.job(), fresh, tmp_path / "b")
    assert digest(run.params) == digest(steady.params)
    assert [each["round"] for each in run.rounds] == [1, 2, 3]
    run.evaluate()
    assert run.close().status == "complete"


def test_a_quorum_by_data_share_holds_in_every_round(hosts, tmp_path):
    answers = {**hosts, "south": failing(hosts["south"], rounds=(1,))}
    job = clinic.job(quorum={"min_silos": 1, "min_data_share": 0.7})
    run = clinic.run_of(job, answers, tmp_path)
    run.admit()
    run.standardize()
    with pytest.raises(QuorumLost, match="of the rows, at least 70% needed"):
        run.train_round()


def test_what_ends_a_run_from_outside_is_told_without_its_text(hosts, tmp_path):
    run = clinic.run_of(clinic.job(), hosts, tmp_path)
    result = run.close(RuntimeError("SENTINEL"))
    assert result.reason == "RuntimeError: see the coordinator's log"
    assert "SENTINEL" not in (tmp_path / "record.jsonl").read_text()
    assert result.silos["east"].reason == "the run ended before its first round"


def test_nothing_is_made_for_a_job_that_cannot_run(hosts, tmp_path):
    with pytest.raises(IncompatibleJob):
        clinic.run_of(clinic.job(protocol={"name": "fedprox"}), hosts, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_waiting_for_silos_ends_with_everybody_or_with_the_time(hosts, tmp_path):
    run = clinic.run_of(clinic.job(), hosts, tmp_path)
    assert run.wait_for_silos(seconds=60) == ("east", "north", "south")
    late = clinic.run_of(clinic.job(), hosts, tmp_path / "b", silos=(*hosts, "zenith"))
    assert late.wait_for_silos(seconds=0.05) == ("east", "north", "south")


def test_a_silo_that_was_suspended_meanwhile_is_said_to_be(hosts, tmp_path):
    standing = {"south": ""}
    run = clinic.run_of(clinic.job(), hosts, tmp_path, standing=lambda name: standing.get(name, ""))
    run.admit()
    run.standardize()
    run.train_round()
    hosts["south"].refusal = "gone"
    standing["south"] = "suspended"
    while run.rounds_left:
        run.train_round()
    run.evaluate()
    result = run.close()
    assert result.status == "degraded"
    assert result.silos["south"].reason == "missed round 2, 3 and the evaluation: suspended"
    assert result.silos["south"].rounds == (1,)


def test_run_all_makes_a_result_of_a_run_that_cannot_go_on(hosts, tmp_path):
    job = clinic.job(quorum={"min_silos": 3})
    hosts["north"].refusal = "no"
    result = run_all(clinic.run_of(job, hosts, tmp_path))
    assert result.status == "failed"
    assert result.reason.startswith("Refused: before the run: refused by north, so there is no")
    assert result.silos["north"].status == "refused"
    assert result.silos["east"].reason == "the run ended before its first round"


def module(path, text):
    path.mkdir(exist_ok=True)
    (path / "my_model.py").write_text(text)
    return (path,)


HEAD = "import torch\nfrom torch import nn\n"


def test_a_model_that_returns_nan_is_a_clear_fault_of_that_silo(tmp_path):
    search = module(
        tmp_path / "beside",
        HEAD + "class Net(nn.Module):\n"
        "    def __init__(self, num_inputs):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(num_inputs, 1)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x) * (float('nan') if x[:, 0].max() > 4 else 1.0)\n",
    )
    rows = clinic.frames(30, 20, 40)
    # Far from the others' mean after standardising by the contract's range.
    hosts = clinic.hosts(rows, search_path=search)
    hosts["north"].table = rows["north"].assign(age=1200.0)
    job = clinic.job(model="my_model:Net", features={"standardize": "contract"})
    result = finish(clinic.run_of(job, hosts, tmp_path / "run", search_path=search))
    assert result.status == "degraded"
    faults = {each.fault.code for each in result.exchanges if each.silo == "north" and each.fault}
    assert faults == {"diverged"}
    assert "NaN or infinit" in result.silos["north"].reason
    assert result.silos["east"].status == "trained"


def test_a_learning_rate_that_explodes_is_named(hosts, tmp_path):
    job = clinic.job(task="regression", local={"lr": 1e12})
    with pytest.raises(ModelDiverged, match="lower the learning rate"):
        clinic.trained(job, hosts, tmp_path)


USER_MODELS = {
    "multiclass": (
        HEAD + "class Net(nn.Module):\n"
        "    def __init__(self, num_inputs, num_outputs):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(num_inputs, num_outputs)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x)\n",
        clinic.CONTRACT.replace("[0, 1]", "[0, 1, 2]"),
        {"task": "multiclass"},
        {"accuracy", "log_loss"},
    ),
    "regression": (
        HEAD + "class Net(nn.Module):\n"
        "    def __init__(self, num_inputs):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(num_inputs, 1)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x)[:, 0]\n",
        clinic.CONTRACT,
        {"task": "regression"},
        {"rmse", "mae", "r2"},
    ),
    "survival": (
        HEAD + "class Net(nn.Module):\n"
        "    def __init__(self, num_inputs):\n"
        "        super().__init__()\n"
        "        self.rate = nn.Linear(num_inputs, 1)\n"
        "    def forward(self, x):\n"
        "        return self.rate(x)\n"
        "    def loss(self, outputs, targets):\n"
        "        event, time = targets[:, 0], targets[:, 1]\n"
        "        rate = outputs[:, 0].clamp(-5, 5)\n"
        "        return (rate.exp() * time - event * rate).mean()\n"
        "    def metrics(self, outputs, targets):\n"
        "        return {'mean_rate': float(outputs.exp().mean())}\n",
        clinic.CONTRACT + "  months: {type: float, role: target, range: {min: 0}}\n",
        {"task": "custom", "outputs": 1},
        {"silo_mean/loss", "silo_mean/mean_rate", "num_silos/loss"},
    ),
}


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("kind", USER_MODELS)
def test_a_users_module_trains_any_task(kind, private, tmp_path):
    text, contract, changes, expected = USER_MODELS[kind]
    search = module(tmp_path / "beside", text)
    hosts = clinic.hosts(clinic.frames(60, 50), search_path=search)
    for seed, host in enumerate(hosts.values()):
        rng = np.random.default_rng(seed)
        if kind == "multiclass":
            host.table["ill"] = rng.integers(0, 3, len(host.table))
        host.table["months"] = rng.uniform(1, 5, len(host.table))
    privacy = {"epsilon": 5.0, "delta": 1e-3, "accountant": "rdp", "metrics_epsilon": 3.0}
    if private:  # of so few rows, figures are mostly noise
        expected = set()
    job = clinic.job(
        model="my_model:Net",
        privacy=privacy if private else None,
        local={"lr": 0.05},
        protocol={"rounds": 1},
        **changes,
    )
    run = clinic.run_of(
        job, hosts, tmp_path / "run", contract_=clinic.contract(contract), search_path=search
    )
    result = finish(run)
    assert result.status == "complete" or "worse than a constant" in result.reason
    assert expected <= set(result.metrics)
    own = {each.removeprefix("silo_mean/") for each in expected if "num_silos" not in each}
    assert all(own <= set(each.metrics) for each in result.silos.values())
    if private and kind != "survival":  # nothing bounds what one row adds to a figure of one's own
        assert any("left out as mostly noise" in note for note in result.notes)


def test_figures_of_single_classes_have_one_name_in_rounds_and_at_the_end(tmp_path):
    text, contract, changes, _ = USER_MODELS["multiclass"]
    named = contract.replace("{type: integer,", "{type: category,").replace(
        "[0, 1, 2]", "[mild, grave, none]"
    )
    assert "grave" in named
    search = module(tmp_path / "beside", text)
    hosts = clinic.hosts(clinic.frames(60, 50), search_path=search)
    for seed, host in enumerate(hosts.values()):
        draw = np.random.default_rng(seed).choice(["mild", "grave", "none"], len(host.table))
        host.table["ill"] = draw
    job = clinic.job(model="my_model:Net", protocol={"rounds": 2}, **changes)
    run = clinic.run_of(
        job, hosts, tmp_path / "run", contract_=clinic.contract(named), search_path=search
    )
    result = finish(run)
    told = [name for name in result.history.columns if name.startswith("recall/")]
    assert sorted(told) == ["recall/grave", "recall/mild", "recall/none"]
    assert result.history["recall/grave"].notna().all()


def test_a_silo_with_one_class_and_one_with_one_row_take_part(tmp_path):
    rows = clinic.frames(40, 20, 1)
    rows["north"]["ill"] = 1
    result = finish(clinic.run_of(clinic.job(), clinic.hosts(rows), tmp_path))
    assert result.status == "complete", result.reason
    assert "roc_auc" not in result.silos["north"].metrics
    assert result.silos["south"].num_examples == 1
    assert result.silos["south"].metrics == {}
    assert "roc_auc" in result.metrics


def test_an_empty_silo_is_left_out_with_a_reason(tmp_path):
    rows = clinic.frames(40, 20, 30)
    rows["north"] = rows["north"].iloc[:0]
    result = finish(clinic.run_of(clinic.job(), clinic.hosts(rows), tmp_path))
    assert result.status == "degraded"
    assert result.silos["north"].status == "left_out"
    assert "no row is left" in result.silos["north"].reason


LIES = {
    "tally of another shape": {"tally": {"scores_0": np.ones(3)}},
    "tally that breaks a root": {"tally": {"values": np.asarray(1.0), "squared_error_sum": -1}},
    "metrics without end": {"metrics": {"auc": 10**300}},
    "rows without end": {"num_examples": 10**30},
    "delta of one tensor": {"delta": {}},
}


@pytest.mark.parametrize("kind", LIES)
def test_a_lying_silo_is_dropped_and_the_run_goes_on(hosts, tmp_path, kind):
    from consilo.wire.parcel import Parcel
    from consilo.wire.payload import pack, unpack

    honest = answerer(hosts["north"])

    def lying(parcel):
        reply = honest(parcel)
        if Header.decode(parcel.header).verb != "train":
            return reply
        return Parcel(reply.header, pack({**unpack(reply.body), **LIES[kind]}))

    result = finish(clinic.run_of(clinic.job(), {**hosts, "north": lying}, tmp_path))
    assert result.status == "degraded"
    assert result.silos["north"].status == "dropped"
    assert "field" in result.silos["north"].reason


def test_moments_of_another_shape_drop_the_silo(hosts, tmp_path):
    from consilo.wire.parcel import Parcel
    from consilo.wire.payload import pack, unpack

    honest = answerer(hosts["north"])

    def lying(parcel):
        reply = honest(parcel)
        if Header.decode(parcel.header).verb != "moments":
            return reply
        said = unpack(reply.body)
        return Parcel(reply.header, pack({**said, "moments": {"mean": np.ones(9)}}))

    result = finish(clinic.run_of(clinic.job(), {**hosts, "north": lying}, tmp_path))
    assert result.status == "degraded"
    assert "missed the statistics" in result.silos["north"].reason


def test_the_local_transport_forgets_its_silos_when_it_closes(hosts):
    transport = LocalTransport({name: answerer(host) for name, host in hosts.items()})
    transport.close()
    transport.close()
    assert transport.online() == ()


def test_a_model_that_is_worse_than_a_constant_makes_the_run_degraded(tmp_path):
    job = clinic.job(local={"lr": 1e9})
    result = finish(clinic.run_of(job, clinic.hosts(clinic.frames(60, 40)), tmp_path))
    assert result.status == "degraded"
    told = (
        f"worse than a constant prediction (log_loss {result.metrics['log_loss']:.4g} against "
        f"{result.constant['log_loss']:.4g})"
    )
    assert told in result.reason
    assert "degraded" in json.dumps(result.to_json())


def test_a_result_says_how_sure_its_figures_are_and_of_how_many_rows(tmp_path):
    rows = clinic.frames(300, 200)
    result = finish(clinic.run_of(clinic.job(), clinic.hosts(rows), tmp_path))
    low, high = result.intervals["roc_auc"]
    assert 0.5 < low < result.metrics["roc_auc"] < high < 1
    held = {
        name: len(each) - len(clinic.learnt(each, name, clinic.job()))
        for name, each in rows.items()
    }
    assert {name: each.num_held_out for name, each in result.silos.items()} == held
    assert result.to_json()["intervals"]["roc_auc"] == [low, high]


def test_several_classes_have_figures_of_each_and_a_matrix(tmp_path):
    rows = clinic.frames(120, 90)
    rng = np.random.default_rng(0)
    for each in rows.values():
        each["ill"] = rng.integers(0, 3, len(each))
    job = clinic.job(task="multiclass", local={"lr": 0.05}, protocol={"rounds": 1})
    contract = clinic.contract(clinic.CONTRACT.replace("[0, 1]", "[0, 1, 2]"))
    result = finish(clinic.run_of(job, clinic.hosts(rows), tmp_path, contract_=contract))
    assert {"recall/2", "roc_auc/1", "f1_macro"} <= set(result.metrics)
    matrix = np.array(result.confusion["rows"])
    assert matrix.sum() == sum(each.num_held_out for each in result.silos.values())
    assert np.trace(matrix) / matrix.sum() == pytest.approx(result.metrics["accuracy"])
    assert result.confusion["classes"] == ["0", "1", "2"]
