"""Differential privacy through the whole round: secret noise, booking, budgets."""

from dataclasses import replace

import clinic
import numpy as np
import pytest

from consilo.errors import BudgetExhausted
from consilo.kernel.headers import Header, Manifest, ReplyHeader
from consilo.kernel.loop import Kernel
from consilo.privacy.account import Charge
from consilo.privacy.accounting import spent
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.wire.payload import unpack
from silos.simulation.in_memory import InMemorySilo

PRIVACY = {"epsilon": 3.0, "delta": 1e-3, "accountant": "rdp"}
ROWS = clinic.frames(40, 30)


def job(**changes):
    return clinic.job(
        privacy={**PRIVACY, **changes.pop("privacy", {})}, local={"steps": 4}, **changes
    )


def updates(path, hosts, *, run_id="r1", reproducible=False, **changes):
    private = job(privacy={"reproducible": reproducible}, **changes)
    run = clinic.trained(private, hosts, path, run_id=run_id)
    return {name: value.tobytes() for name, value in run.params.items()}


def test_in_secret_mode_two_runs_differ_and_in_reproducible_mode_they_are_equal(tmp_path):
    def twice(reproducible):
        return [
            updates(
                tmp_path / f"{reproducible}{each}",
                clinic.hosts(ROWS),
                run_id=f"run-{each}",
                reproducible=reproducible,
                protocol={"rounds": 1},
            )
            for each in range(2)
        ]

    secret, open_ = twice(False), twice(True)
    assert secret[0] != secret[1]
    assert open_[0] == open_[1]


@pytest.mark.parametrize("reproducible", [True, False])
def test_a_repeated_run_of_the_same_silos_answers_the_same_bytes_and_books_once(
    tmp_path, reproducible
):
    hosts = clinic.hosts(ROWS)
    first = updates(tmp_path / "a", hosts, reproducible=reproducible)
    booked = {name: len(host.spends["r1"]) for name, host in hosts.items()}
    assert booked == dict.fromkeys(hosts, 3)
    for host in hosts.values():
        host.replies.clear()  # the answers have lapsed: everything is computed anew
    assert updates(tmp_path / "b", hosts, reproducible=reproducible) == first
    assert {name: len(host.spends["r1"]) for name, host in hosts.items()} == booked


def ask(hosts, private, *, run_id="run", number=1, params=None, scale=None):
    """One training question to every silo; return silo → (header, reply fields)."""
    seen = {}

    class Wire(LocalTransport):
        def exchange(self, parcels, *, deadline_s):
            for arrival in super().exchange(parcels, deadline_s=deadline_s):
                request = Header.decode(parcels[arrival.silo].header)
                seen[arrival.silo] = (request, arrival.parcel)
                yield arrival

    from consilo.horizontal.training import Training, TrainState
    from consilo.kernel.federation import Federation
    from consilo.kernel.steps import Ask
    from consilo.runs.planning.plan import plan

    transport = Wire({name: answerer(host) for name, host in hosts.items()})
    made = plan(private, clinic.contract(), tuple(hosts))
    from consilo.horizontal.features import Scale
    from consilo.horizontal.training import request

    state = TrainState(params or made.learner.parameters(), 9, scale=scale or Scale.unit(2))

    class Once(Training):
        def coordinate(self, fed, _):
            return (yield Ask(tuple(hosts), "train", request(state)))

    kernel = Kernel(
        transport, run_id=run_id, job=private, contract=clinic.contract(), observe=lambda _: None
    )
    fed = Federation(tuple(hosts), private, clinic.contract(), transport.online)

    class At:
        round = number - 1

    driven = kernel.drive("fedavg", Once(private), fed, At())
    with pytest.raises(StopIteration):
        next(driven)
    return seen


def fields(reply):
    assert ReplyHeader.decode(reply.header).status == "ok", reply.header
    return unpack(reply.body)


def test_another_question_gets_another_noise():
    host = InMemorySilo("north", ROWS["north"])
    private = job(privacy={"epsilon": 0.05})
    shifted = {"linear.weight": np.zeros((1, 5), np.float32), "linear.bias": np.zeros(1, "f4")}
    shifted = {name: value + np.float32(1e-6) for name, value in shifted.items()}
    first, again, other, later = (
        ask({"north": host}, private, **each)["north"]
        for each in ({}, {}, {"params": shifted}, {"number": 2})
    )
    assert again[1] == first[1]
    assert len({each[0].step_id for each in (first, other, later)}) == 3
    deltas = [fields(each[1])["delta"]["linear.weight"] for each in (first, other, later)]
    # The data's part of the three is nearly the same; what differs is the noise.
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(deltas[left] - deltas[right]).max() > 0.5
    assert len(host.spends["run"]) == 3


def test_reproducible_noise_is_that_of_the_step_and_the_silo_whatever_is_asked():
    """A last bit that differs between two machines became other noise: models .02 to .19 apart."""
    settings = {"reproducible": True, "epsilon": 0.05}
    private, other = job(privacy=settings), job(privacy=settings, seed=1)
    start = {"linear.weight": np.zeros((1, 5), np.float32), "linear.bias": np.zeros(1, "f4")}
    nearby = {name: np.nextafter(value, np.float32(1)) for name, value in start.items()}

    def asked(private, silo="north", **question):
        host = InMemorySilo(silo, ROWS["north"])
        seen = ask({silo: host}, private, **{"params": start, **question})[silo]
        return seen[0].step_id, fields(seen[1])["delta"]["linear.weight"]

    (step, first), (step_nearby, same) = asked(private), asked(private, params=nearby)
    assert step != step_nearby
    np.testing.assert_allclose(same, first, atol=1e-3)
    for unlike in (asked(private, number=2), asked(private, silo="east"), asked(other)):
        assert np.abs(unlike[1] - first).max() > 0.5


def test_the_noise_covers_every_part_of_the_question():
    """The coordinator could otherwise ask two protocols under one noise and subtract."""
    header = Header(
        "run",
        "1/0/train",
        "c",
        1,
        "north",
        "fedavg",
        "train",
        ("north",),
        manifest=Manifest(job_digest="j", contract_digest="k"),
    )
    assert set(header.question) == {"fedavg", "train", 1, "1/0/train", "c", "j", "k"}
    # Until wire version 3 the body, whose digest is in it, held job and contract.
    assert set(replace(header, wire=2).question) == {"fedavg", "train", 1, "1/0/train", "c"}


def test_epsilon_grows_over_the_rounds_and_ends_at_most_at_the_target(tmp_path):
    run = clinic.trained(job(protocol={"rounds": 4}), clinic.hosts(ROWS), tmp_path)
    for name in ROWS:
        told = [each["silos"][name]["epsilon"] for each in run.rounds]
        assert told == sorted(told)
        assert 0 < told[0] < told[-1] <= PRIVACY["epsilon"]
        assert told[-1] > 0.9 * PRIVACY["epsilon"]
        assert all(each["silos"][name]["loss"] is None for each in run.rounds)
    outcome = run.close().silos["east"]
    assert outcome.epsilon == run.rounds[-1]["silos"]["east"]["epsilon"]


def test_prv_is_the_figure_and_rdp_the_bound_beside_it(tmp_path):
    private = job(privacy={"accountant": "prv"}, protocol={"rounds": 1})
    run = clinic.trained(private, clinic.hosts(clinic.frames(40)), tmp_path)
    told = run.rounds[0]["silos"]["east"]
    assert told["epsilon"] <= 3.0 * (1 + 1e-6)
    assert told["epsilon"] < told["epsilon_bound"] < 2 * told["epsilon"]


def test_a_step_beyond_the_budget_is_refused_and_trains_nothing():
    host = InMemorySilo("north", ROWS["north"])
    private = job(protocol={"rounds": 2})
    for number in (1, 2):
        reply = fields(ask({"north": host}, private, number=number)["north"][1])
        assert reply["epsilon"] <= PRIVACY["epsilon"] * (1 + 1e-6)
    refused = ReplyHeader.decode(ask({"north": host}, private, number=3)["north"][1].header)
    assert (refused.status, refused.code) == ("fault", "budget_exhausted")
    assert "the job allows 3" in refused.reason
    # What was granted before is still answered, from memory.
    assert fields(ask({"north": host}, private, number=2)["north"][1])["num_examples"] > 0


def spend(host):
    """Let the run have cost more than the job allows."""
    charge = Charge("r1", "earlier", "m", "dp_sgd", 0.3, 1.0, 50, 10)
    host.reserve("data", charge, lambda history: None)


def test_a_run_that_exhausts_a_silos_budget_says_refused(tmp_path):
    hosts = clinic.hosts(ROWS)
    spend(hosts["east"])
    run = clinic.trained(job(), hosts, tmp_path)
    result = run.close()
    assert result.status == "degraded"
    assert result.silos["east"].status == "refused"
    assert "start a new run" in result.silos["east"].reason


def test_a_silo_whose_budget_is_spent_is_not_asked_again(tmp_path):
    hosts = clinic.hosts(ROWS)
    spend(hosts["east"])
    run = clinic.trained(job(), hosts, tmp_path)
    run.evaluate()
    asked = [each.round for each in run.exchanges if each.silo == "east" and each.verb == "train"]
    assert asked == [1]
    assert not [e for e in run.exchanges if e.silo == "east" and e.verb == "evaluate"]
    outcome = run.close().silos["east"]
    assert (outcome.status, outcome.rounds) == ("refused", ())


def test_a_run_that_fails_later_names_who_had_said_no(tmp_path):
    hosts = clinic.hosts(ROWS)
    spend(hosts["east"])
    run = clinic.run_of(job(quorum={"min_silos": 1}), hosts, tmp_path)
    run.admit()
    run.standardize()
    run.train_round()
    hosts["north"].refusal = "not today"
    with pytest.raises(BudgetExhausted, match="does not suffice in east") as failed:
        run.train_round()
    assert failed.value.missing["east"].startswith("budget_exhausted: ")
    assert failed.value.missing["north"] == "refused: not today"


def test_when_every_budget_is_spent_that_is_the_error(tmp_path):
    hosts = clinic.hosts(ROWS)
    for host in hosts.values():
        spend(host)
    with pytest.raises(BudgetExhausted, match="does not suffice in"):
        clinic.trained(job(), hosts, tmp_path)


def test_what_is_booked_is_what_was_calibrated(tmp_path):
    hosts = clinic.hosts(ROWS)
    clinic.trained(job(), hosts, tmp_path)
    for host in hosts.values():
        history = [row for _, row in host.reserved("r1")]
        assert len(set(history)) == 1
        assert [row[2] for row in history] == [4, 4, 4]
        assert spent(history, 1e-3).epsilon_rdp <= 3.0


def test_a_reproducible_run_is_marked_in_the_record(tmp_path):
    run = clinic.run_of(job(privacy={"reproducible": True}), clinic.hosts(ROWS), tmp_path)
    assert '"reproducible":true' in run.record.path.read_text().splitlines()[0]


def test_a_silo_that_refused_the_check_and_then_passed_it_takes_part(tmp_path):
    hosts = clinic.hosts(ROWS)
    hosts["east"].refusal = "not yet"
    run = clinic.run_of(job(), hosts, tmp_path)
    hosts["east"].refusal = ""
    run.check("east")
    assert run.admit() == ("east", "north")
    run.standardize()
    assert set(run.train_round()["silos"]) == {"east", "north"}
