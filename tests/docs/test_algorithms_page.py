"""The algorithms of ``docs/algorithms.md`` run, word for word, and are what they say they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import clinic
import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from consilo.cli import build
from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.kernel.headers import Header
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import Run
from consilo.wire import params as tree
from consilo.wire.parcel import Parcel
from consilo.wire.payload import unpack
from flows.services.bundle_modules import local_modules
from silos import simulate
from silos.simulation.in_memory import InMemorySilo

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
KEY = Ed25519PrivateKey.generate()
SILOS = ("east", "north", "south")
Asked = list[tuple[str, Header, dict[str, Any], dict[str, Any]]]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The page's files, as a reader would write them."""
    place = tmp_path / "study"
    for title, text in re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', PAGE, re.DOTALL):
        file = place / title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return place


def wards(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, pressure = rng.uniform(20, 90, rows), rng.uniform(80, 200, rows)
    ill = (age + pressure + rng.normal(0, 20, rows) > 190 + 10 * seed).astype(int)
    return pd.DataFrame({"age": age, "pressure": pressure, "ill": ill})


def hosts_of(study: Path | None, **settings: Any) -> dict[str, InMemorySilo]:
    path = () if study is None else (study,)
    return {
        name: InMemorySilo(name, wards(40 + 10 * seed, seed), search_path=path, **settings)
        for seed, name in enumerate(SILOS)
    }


def run_of(study: Path, job: Job, answers: Mapping[str, Any], place: str, **settings: Any) -> Run:
    contract = Contract.load(job.contract, search=(study,))
    settings |= {"contract_": contract, "search_path": (study,), "key": KEY}
    run = clinic.run_of(job, answers, study.parent / place, **settings)
    run.admit()
    if run.state is None:
        run.standardize()
    return run


def finished(run: Run) -> Run:
    while run.rounds_left:
        run.train_round()
    return run


def listening(host: InMemorySilo, asked: Asked) -> Callable[[Parcel], Parcel]:
    answer = answerer(host)

    def told(parcel: Parcel) -> Parcel:
        reply, header = answer(parcel), Header.decode(parcel.header)
        if header.verb == "train":
            payload = unpack(parcel.body)["payload"]
            asked.append((host.name, header, payload, unpack(reply.body)))
        return reply

    return told


@pytest.mark.parametrize("name", ["median", "scaffold"])
def test_the_jobs_are_valid_and_a_forecast_is_made(study: Path, name: str) -> None:
    said = CliRunner().invoke(build(), ["job", "validate", str(study / f"{name}.yaml"), "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["bytes_per_round_and_silo"] > 0


def test_the_rule_is_the_median_of_the_silos_updates_and_no_silo_has_its_module(
    study: Path,
) -> None:
    job, asked = Job.load(study / "median.yaml"), Asked()
    answers = {name: listening(host, asked) for name, host in hosts_of(None).items()}
    run = finished(run_of(study, job, answers, "rule"))
    assert run.state is not None
    rounds: dict[int, list[Any]] = {}
    for _, header, payload, fields in asked:
        rounds.setdefault(header.round, []).append((payload["params"], fields["delta"]))
    assert [len(each) for each in rounds.values()] == [3, 3, 3]
    ends = [rounds[2][0][0], rounds[3][0][0], run.state.params]
    for told, end in zip(rounds.values(), ends, strict=True):
        for name, start in told[0][0].items():
            median = np.median([delta[name] for _, delta in told], axis=0)
            np.testing.assert_allclose(end[name], start - median, rtol=1e-6, atol=1e-7)
    assert local_modules(job, study) == []


def test_the_median_as_a_protocol_is_the_rule(study: Path) -> None:
    rule = Job.load(study / "median.yaml")
    own = rule.changed(protocol={"name": "median:Median"}, reduce={"rule": "mean"})
    one = finished(run_of(study, rule, hosts_of(None), "rule"))
    two = finished(run_of(study, own, hosts_of(study), "own"))
    assert tree.digest(one.params) == tree.digest(two.params)
    assert local_modules(own, study) == [study / "median.py"]


def test_scaffold_is_the_papers_algorithm(study: Path) -> None:
    """Karimireddy et al. 2020, Algorithm 1, option II, lines 12 to 17, from what travelled."""
    job, asked, hosts = Job.load(study / "scaffold.yaml"), Asked(), hosts_of(study)
    answers = {name: listening(host, asked) for name, host in hosts.items()}
    run = finished(run_of(study, job, answers, "scaffold"))
    assert run.state is not None
    own: dict[str, Any] = {}
    for number in range(1, 5):
        told = [each for each in asked if each[1].round == number]
        assert [name for name, *_ in told] == list(SILOS)
        x, c = told[0][2]["params"], told[0][2]["control"]
        after = [each[2] for each in asked if each[1].round == number + 1]
        end = after[0] if after else {**run.state.server, "params": run.state.params}
        for key in x:
            mean_delta = np.mean([fields["delta"][key] for *_, fields in told], axis=0)
            np.testing.assert_allclose(end["params"][key], x[key] - mean_delta, atol=1e-6)
            for silo, _, _, fields in told:
                before = own.get((silo, key), np.zeros_like(x[key]))
                own[silo, key] = before - c[key] + fields["delta"][key] / (5 * 0.1)
                change = own[silo, key] - before
                np.testing.assert_allclose(-fields["delta_control"][key], change, atol=1e-5)
            # With everybody taking part, c is the mean of the silos' own.
            mean = np.mean([own[silo, key] for silo in SILOS], axis=0)
            np.testing.assert_allclose(end["control"][key], mean, atol=1e-5)
    assert any(np.abs(value).max() > 1e-3 for value in run.state.server["control"].values())


def test_scaffold_over_equal_silos_is_fedavg(study: Path) -> None:
    table = pd.DataFrame({"age": [30.0, 70.0], "pressure": [90.0, 160.0], "ill": [0, 1]})
    rows = pd.concat([table] * 20, ignore_index=True)
    everything = {"local": {"batch_size": 1000}, "evaluation": {"holdout": 1e-9}}
    job = Job.load(study / "scaffold.yaml").changed(**everything)

    def run(job: Job, place: str) -> Run:
        hosts = {name: InMemorySilo(name, rows, search_path=(study,)) for name in SILOS}
        return finished(run_of(study, job, hosts, place))

    one = run(job, "scaffold").params
    two = run(job.changed(protocol={"name": "fedavg", "server_lr": None}), "fedavg").params
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("answered", [0, 2, 3])
def test_scaffold_that_died_within_a_round_ends_in_the_same_bytes(
    study: Path, answered: int
) -> None:
    job = Job.load(study / "scaffold.yaml")
    whole = finished(run_of(study, job, hosts_of(study), "whole"))
    hosts, count = hosts_of(study, keep_replies=False), 0

    class Died(BaseException):
        pass

    def dying(host: InMemorySilo) -> Callable[[Parcel], Parcel]:
        answer = answerer(host)

        def told(parcel: Parcel) -> Parcel:
            nonlocal count
            if Header.decode(parcel.header).verb == "train":
                if count == 2 * len(SILOS) + answered:
                    raise Died
                count += 1
            return answer(parcel)

        return told

    died = run_of(study, job, {name: dying(host) for name, host in hosts.items()}, "died")
    if answered < len(SILOS):
        with pytest.raises(Died):
            finished(died)
    else:  # after the third round's answers, before the fourth's
        for _ in range(3):
            died.train_round()
    resumed = finished(run_of(study, job, hosts, "died", resume=True))
    assert tree.digest(resumed.params) == tree.digest(whole.params)
    assert resumed.state is not None
    assert whole.state is not None
    control = [dict(run.state.server["control"]) for run in (resumed, whole) if run.state]
    assert tree.digest(dict(sorted(control[0].items()))) == tree.digest(
        dict(sorted(control[1].items()))
    )


def test_a_message_that_is_answered_twice_changes_nothing(study: Path) -> None:
    job, hosts = Job.load(study / "scaffold.yaml"), hosts_of(study, keep_replies=False)
    once = finished(run_of(study, job, hosts_of(study, keep_replies=False), "once"))

    def twice(host: InMemorySilo) -> Callable[[Parcel], Parcel]:
        answer = answerer(host)

        def told(parcel: Parcel) -> Parcel:
            first = answer(parcel)
            second = answer(parcel)
            assert bytes(first.body) == bytes(second.body)
            return second

        return told

    run = finished(run_of(study, job, {n: twice(host) for n, host in hosts.items()}, "twice"))
    assert tree.digest(run.params) == tree.digest(once.params)


@pytest.mark.parametrize(("name", "vectors"), [("fedavg", 1), ("scaffold:Scaffold", 2)])
def test_a_forecast_counts_what_the_transport_moves(study: Path, name: str, vectors: int) -> None:
    """It said the model's bytes, twice, whatever travelled."""
    wide = {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [256, 256]}}
    job = Job.load(study / "scaffold.yaml").changed(
        model=wide, protocol={"name": name, "server_lr": None, "rounds": 1}
    )
    run = run_of(study, job, hosts_of(study), "forecast")
    said = run.forecast().moved
    assert said is not None
    assert run.state is not None
    assert said.bytes_up == vectors * tree.num_bytes(run.state.params)
    run.train_round()
    moved = [each for each in run.exchanges if each.verb == "train"]
    assert len(moved) == len(SILOS)
    for each in moved:  # contract, job, headers and figures: a model of this size is 270 kB
        assert 0 <= each.bytes_down - said.bytes_down < 16_000
        assert 0 <= each.bytes_up - said.bytes_up < 16_000


def test_own_algorithms_run_through_guard_policy_and_ledger(study: Path) -> None:
    frames = {name: wards(60, seed) for seed, name in enumerate(SILOS)}
    for name in ("scaffold", "median"):
        result = simulate(study / f"{name}.yaml", frames)
        assert result.status == "complete", result.reason
        assert result.metrics["accuracy"] > 0.5
