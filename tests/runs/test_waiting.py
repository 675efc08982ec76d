"""A run that lost its quorum waits for its silos, where the job says so; on a virtual clock."""

from __future__ import annotations

import clinic
import numpy as np
import pandas as pd
import pytest
import vertical
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import BudgetExhausted, JobInvalid, RunCancelled
from consilo.jobs.job import Job
from consilo.kernel.headers import Header, fault_parcel
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read
from consilo.runs.analytics import AnalyticsRun, run_analytics
from consilo.runs.horizontal import Run, run_all
from consilo.runs.match import run_match
from consilo.runs.vertical import VerticalRun, run_vertical
from consilo.transports.local import LocalTransport
from consilo.wire import params as tree
from consilo.wire.parcel import Arrival, Fault

KEY = Ed25519PrivateKey.generate()
WAITS = {"min_silos": 2, "on_loss": "wait", "for": "2h"}
PRIVATE = {"epsilon": 5.0, "delta": 1e-3}


class Time:
    """A clock that only moves while somebody sleeps."""

    def __init__(self):
        self.now = 1_800_000_000.0
        self.sleeps = 0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.sleeps += 1
        self.now += seconds


class Away:
    """A transport on which some silos are not there for some time.

    Args:
        inner: moves the parcels.
        time: the clock.
        gone: silo → from and to, in seconds of the clock; or the verb from which on, and how long.
    """

    def __init__(self, inner, time, gone):
        self.inner, self.time, self.gone = inner, time, dict(gone)
        self.asked = []

    def is_gone(self, silo):
        since, until = self.gone.get(silo, (0.0, 0.0))
        return not isinstance(since, str) and since <= self.time() < until

    def online(self):
        return tuple(name for name in self.inner.online() if not self.is_gone(name))

    def exchange(self, parcels, *, deadline_s):
        for name, parcel in parcels.items():
            header = Header.decode(parcel.header)
            since, seconds = self.gone.get(name, ("", 0.0))
            if isinstance(since, str) and since == f"{header.verb} {header.round}":
                self.gone[name] = (self.time(), self.time() + seconds)
            if self.is_gone(name):
                yield Arrival(name, None, Fault("unreachable", "the node has gone"), 0.0)
            else:
                self.asked.append((name, header.verb, header.round))
                yield from self.inner.exchange({name: parcel}, deadline_s=deadline_s)

    def close(self):
        self.inner.close()


def silos(**settings):
    hosts = clinic.hosts(clinic.frames(40, 30), **settings)
    for place, host in enumerate(hosts.values()):
        host.run_secrets["r1"] = bytes([place]) * 32
    return hosts


def opened(job, hosts, folder, time, gone, *, kind=Run, contract=None, **settings):
    answers = {n: each if callable(each) else answerer(each) for n, each in hosts.items()}
    return kind(
        job,
        contract or clinic.contract(),
        Away(LocalTransport(answers), time, gone),
        silos=tuple(hosts),
        directory=folder,
        run_id="r1",
        key=KEY,
        clock=time,
        now=time,
        sleep=time.sleep,
        **settings,
    )


def lines(folder, *kinds):
    return [e["body"] for e in read(folder / "record.jsonl") if e["kind"] in kinds]


def test_a_round_waits_tells_people_and_goes_on_with_the_same_bits_and_cost(tmp_path):
    time, said = Time(), []
    whole_silos, hosts = silos(), silos()
    job = clinic.job(privacy=PRIVATE, quorum=WAITS)
    whole = run_all(opened(job, whole_silos, tmp_path / "whole", time, {}))
    run = opened(job, hosts, tmp_path / "lost", time, {"north": ("train 2", 3000.0)})
    began = time()
    result = run_all(run, say=said.append)
    assert result.status == "complete", result.reason
    assert 3000 <= time() - began < 3100
    assert tree.digest(result.params) == tree.digest(whole.params)
    assert {n: h.spends for n, h in hosts.items()} == {n: h.spends for n, h in whole_silos.items()}
    begun, ended = lines(tmp_path / "lost", "waiting", "went_on")
    assert begun["for_s"] == 7200
    assert begun["missing"] == {"north": "unreachable: the node has gone"}
    assert "no answer from north" in begun["reason"]
    assert ended["waited_s"] >= 3000
    assert any(each.startswith("waiting for north until ") for each in said)
    assert any("the silos are back after 50 min" in each for each in said)


def test_nobody_is_asked_while_it_waits_and_it_is_no_busy_loop(tmp_path):
    time, hosts = Time(), silos()
    run = opened(clinic.job(quorum=WAITS), hosts, tmp_path, time, {"north": ("train 2", 3000.0)})
    result = run_all(run)
    asked = run._transport.asked
    assert [each for each in asked if each[1:] == ("train", 2)] == [
        ("east", "train", 2),  # before it was noticed that north is gone
        ("east", "train", 2),  # the same question once more, when north is back
        ("north", "train", 2),
    ]
    assert len(hosts["east"].replies) == len(hosts["north"].replies)
    assert time.sleeps <= 3001
    assert result.status == "complete"


def test_it_fails_with_the_cause_when_the_time_is_over(tmp_path):
    time = Time()
    run = opened(clinic.job(quorum=WAITS), silos(), tmp_path, time, {"north": ("train 2", 1e9)})
    began = time()
    result = run_all(run)
    assert result.status == "failed"
    assert result.reason.startswith("QuorumLost: waited 2 h (quorum.for), and too few silos came")
    assert "north: unreachable: the node has gone" in result.reason
    assert 7200 <= time() - began < 7300
    assert read(tmp_path / "record.jsonl")[-1]["kind"] == "closed"


def test_where_coming_back_would_not_help_it_does_not_wait(tmp_path):
    time, hosts = Time(), silos()

    def pays_no_more(parcel):
        header = Header.decode(parcel.header)
        if header.verb == "train":
            fault = Fault("budget_exhausted", "nothing is left")
            return fault_parcel(silo="north", step_id=header.step_id, fault=fault)
        return answerer(hosts["north"])(parcel)

    answers = {"east": hosts["east"], "north": pays_no_more}
    run = opened(clinic.job(quorum=WAITS), answers, tmp_path, time, {})
    for name in run.silos:
        run.check(name)
    run.admit()
    run.standardize()
    with pytest.raises(BudgetExhausted):
        run.train_round()
    assert time.sleeps == 0
    assert lines(tmp_path, "waiting") == []


def test_a_silo_that_crashes_each_time_is_asked_ever_more_seldom_and_the_time_ends(tmp_path):
    # It is connected all the time: without a pause it would be asked in a loop for two hours.
    time, hosts, asked = Time(), silos(), []

    def crashes(parcel):
        header = Header.decode(parcel.header)
        if header.verb == "train":
            asked.append(time())
            fault = Fault("crashed", "its process died")
            return fault_parcel(silo="north", step_id=header.step_id, fault=fault)
        return answerer(hosts["north"])(parcel)

    answers = {"east": hosts["east"], "north": crashes}
    result = run_all(opened(clinic.job(quorum=WAITS), answers, tmp_path, time, {}))
    assert result.reason.startswith("QuorumLost: waited 2 h")
    assert "crashed: its process died" in result.reason
    assert 100 < len(asked) < 140
    pauses = np.diff(asked)
    assert pauses[0] >= 2
    assert pauses[-1] >= 60


def test_silos_that_are_not_there_at_the_start_are_waited_for_and_checked(tmp_path):
    time = Time()
    gone = {"north": (0.0, time() + 600.0)}
    result = run_all(opened(clinic.job(quorum=WAITS), silos(), tmp_path, time, gone))
    assert result.status == "complete", result.reason
    told = [(e["silo"], e["verdict"]) for e in lines(tmp_path, "contract")]
    assert told == [("east", "passed"), ("north", "not_checked"), ("north", "passed")]


def test_without_the_key_a_run_fails_at_once(tmp_path):
    time = Time()
    job = clinic.job(quorum={"min_silos": 2})
    result = run_all(opened(job, silos(), tmp_path, time, {"north": (0.0, time() + 600.0)}))
    assert result.status == "failed"
    assert time.sleeps == 0


def killed_while_it_waits(run):
    def killed(seconds):
        raise KeyboardInterrupt

    run.patience._sleep = killed
    run.check_all()
    run.admit()
    run.standardize()
    run.train_round()
    with pytest.raises(KeyboardInterrupt):
        run.train_round()


@pytest.mark.parametrize("left", [1000.0, -5.0])
def test_a_process_that_died_while_it_waited_goes_on_waiting_for_what_is_left(tmp_path, left):
    time, hosts = Time(), silos()
    job = clinic.job(quorum=WAITS)
    run = opened(job, hosts, tmp_path, time, {"north": ("train 2", 1e9)})
    killed_while_it_waits(run)
    lost = time()
    time.now += 7200.0 - left
    resumed = opened(job, hosts, tmp_path, time, {"north": (0.0, 1e12)}, resume=True)
    result = run_all(resumed)
    assert result.reason.startswith("QuorumLost: waited 2 h"), result.reason
    assert time() - lost == pytest.approx(max(7200.0, 7200.0 - left), abs=2.0)


def test_one_whose_silos_are_back_when_it_is_resumed_is_as_if_nothing_was(tmp_path):
    time, hosts, whole_silos = Time(), silos(), silos()
    job = clinic.job(privacy=PRIVATE, quorum=WAITS)
    whole = run_all(opened(job, whole_silos, tmp_path / "whole", time, {}))
    run = opened(job, hosts, tmp_path / "died", time, {"north": ("train 2", 1e9)})
    killed_while_it_waits(run)
    result = run_all(opened(job, hosts, tmp_path / "died", time, {}, resume=True))
    assert result.status == "complete", result.reason
    assert tree.digest(result.params) == tree.digest(whole.params)
    assert {n: h.spends for n, h in hosts.items()} == {n: h.spends for n, h in whole_silos.items()}
    assert len(lines(tmp_path / "died", "went_on")) == 1


def test_a_run_that_waits_can_be_cancelled(tmp_path):
    time = Time()
    run = opened(clinic.job(quorum=WAITS), silos(), tmp_path, time, {"north": ("train 1", 1e9)})
    online = run._transport.online

    def until_cancelled():
        if time.sleeps > 10:
            raise RunCancelled("somebody cancelled the flow run")
        return online()

    run._transport.online = until_cancelled
    with pytest.raises(RunCancelled):
        run_all(run)
    assert read(tmp_path / "record.jsonl")[-1]["body"]["reason"].startswith("RunCancelled")


def test_a_silo_whose_disk_is_full_is_asked_again_until_there_is_room(tmp_path):
    time, hosts, until = Time(), silos(), []

    def has_no_room(parcel):
        header = Header.decode(parcel.header)
        if header.verb == "train" and header.round == 2:
            until[:] = until or [time() + 600]
            if time() < until[0]:
                fault = Fault("disk_full", "its people have to make room")
                return fault_parcel(silo="north", step_id=header.step_id, fault=fault)
        return answerer(hosts["north"])(parcel)

    answers = {"east": hosts["east"], "north": has_no_room}
    result = run_all(opened(clinic.job(quorum=WAITS), answers, tmp_path, time, {}))
    assert result.status == "complete", result.reason
    (begun,) = lines(tmp_path, "waiting")
    assert "the disk is full in north" in begun["reason"]


def test_without_patience_a_full_disk_is_named_for_each_round(tmp_path):
    time, hosts = Time(), silos()

    def has_no_room(parcel):
        header = Header.decode(parcel.header)
        if header.verb == "train" and header.round == 2:
            fault = Fault("disk_full", "its people have to make room")
            return fault_parcel(silo="north", step_id=header.step_id, fault=fault)
        return answerer(hosts["north"])(parcel)

    answers = {"east": hosts["east"], "north": has_no_room}
    job = clinic.job(quorum={"min_silos": 1})
    result = run_all(opened(job, answers, tmp_path, time, {}))
    assert result.status == "degraded", result.reason
    (missed,) = [each for each in result.participation if each.outcome != "trained"]
    assert (missed.round, missed.silo, missed.outcome) == (2, "north", "dropped")
    assert missed.code == "disk_full"


def test_a_run_that_waits_long_between_two_tries_can_be_cancelled_at_once(tmp_path):
    time, hosts = Time(), silos()
    north = answerer(hosts["north"])

    def crashes(parcel):
        header = Header.decode(parcel.header)
        if header.verb == "train":
            fault = Fault("crashed", "its process died")
            return fault_parcel(silo="north", step_id=header.step_id, fault=fault)
        return north(parcel)

    hosts["north"] = crashes
    run = opened(clinic.job(quorum=WAITS), hosts, tmp_path, time, {})
    online, cancelled_at = run._transport.online, time() + 600

    def until_cancelled():
        if time() >= cancelled_at:
            raise RunCancelled("somebody cancelled the flow run")
        return online()

    run._transport.online = until_cancelled
    with pytest.raises(RunCancelled):
        run_all(run)
    assert time() - cancelled_at <= 1


def test_a_run_that_only_asks_waits_too(tmp_path):
    time = Time()
    spread = {"name": "spread", "kind": "analytics", "contract": "clinic@1", "quorum": WAITS}
    job = Job.from_json(spread)
    gone = {"north": ("moments 0", 500.0)}
    run = opened(job, silos(), tmp_path, time, gone, kind=AnalyticsRun)
    assert run_analytics(run).status == "complete"
    assert len(lines(tmp_path, "went_on")) == 1


COLUMNS = {"bank": ("a",), "clinic": ("b",)}


def vertical_run(folder, time, gone):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60)})
    table["y"] = (table["a"] + table["b"] > 0).astype(int)
    args = {"match": "m", "label_silo": "bank", "columns": {n: [*c] for n, c in COLUMNS.items()}}
    protocol = {"name": "vertical_linear", "rounds": 3, "args": args}
    asked = {"name": "joint", "kind": "vertical", "contract": "joint@1", "protocol": protocol}
    return opened(
        Job.from_json({**asked, "quorum": WAITS}),
        vertical.silos_of(table, COLUMNS),
        folder,
        time,
        gone,
        kind=VerticalRun,
        contract=vertical.contract_of(COLUMNS),
    )


def test_a_vertical_run_waits_in_each_stage(tmp_path):
    time = Time()
    whole = run_vertical(vertical_run(tmp_path / "whole", time, {}))
    assert whole.status == "complete", whole.reason
    for since in ("check 0", "held 0", "introduce 1", "directions 2", "keep_part 3"):
        folder = tmp_path / since
        result = run_vertical(vertical_run(folder, time, {"clinic": (since, 500.0)}))
        assert (result.status, result.metrics) == ("complete", whole.metrics), since
        assert len(lines(folder, "went_on")) == 1, since


@pytest.mark.parametrize(("seconds", "status"), [(600.0, "complete"), (1e9, "failed")])
@pytest.mark.parametrize("since", ["hello 0", "exchange 0", "finish 0"])
def test_a_match_waits_too(tmp_path, since, seconds, status):
    time = Time()
    recipe = {"keys": [{"parts": [{"column": "age"}]}]}
    people = {"name": "people", "kind": "match", "contract": "clinic@1", "quorum": WAITS}
    rows = clinic.frame(40, 0)
    hosts = clinic.hosts({"east": rows, "north": rows})
    answers = LocalTransport({name: answerer(host) for name, host in hosts.items()})
    told = run_match(
        Job.from_json({**people, "match": {"recipe": recipe}}),
        clinic.contract(),
        Away(answers, time, {"north": (since, seconds)}),
        silos=tuple(hosts),
        directory=tmp_path,
        run_id="match",
        key=KEY,
        sleep=time.sleep,
        clock=time,
    )
    assert told["status"] == status, told["reason"]
    assert len(lines(tmp_path, "waiting")) == 1
    if status == "failed":
        assert told["reason"].startswith("QuorumLost: waited 2 h (quorum.for)")
    else:
        assert {len(host.kept_matches) for host in hosts.values()} == {1}


def test_the_key_is_read_with_its_unit_and_needs_its_partner():
    for quorum, told in (
        ({"on_loss": "wait"}, "give 'for', such as for: 2h"),
        ({"for": "2h"}, "give on_loss: wait"),
        ({"on_loss": "wait", "for": 7200}, "such as 90s, 30m, 2h or 1d"),
        ({"on_loss": "wait", "for": "2 hours"}, "such as 90s, 30m, 2h or 1d"),
        ({"on_loss": "wait", "for": "0h"}, "such as 90s, 30m, 2h or 1d"),
    ):
        with pytest.raises(JobInvalid, match=told):
            clinic.job(quorum=quorum)
    job = clinic.job(quorum={**WAITS, "for": "90s"})
    assert job.quorum.patience_s == 90.0
    assert type(job).from_json(job.to_json()).digest == job.digest
    assert job.young_keys() == {"quorum.on_loss": 3, "quorum.for": 3}
    assert "for" not in clinic.job().to_json()["quorum"]
