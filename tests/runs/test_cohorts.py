"""Rounds that are asked of drawn silos: who is asked, what is told of the others, what it costs."""

from dataclasses import replace

import clinic
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import BudgetExhausted, IncompatibleJob, JobInvalid, QuorumLost
from consilo.kernel.headers import Header
from consilo.privacy.accounting import noise_multiplier
from consilo.record.run_record import read
from consilo.runs.continued import extended
from consilo.runs.planning.plan import plan
from consilo.wire import params as tree
from consilo.wire.parcel import Arrival, Fault

KEY = Ed25519PrivateKey.generate()
SIZES = (40, 30, 60, 20, 50)
SILOS = ("east", "north", "south", "west", "zenith")
BY = [
    {"size": 2},
    {"size": 2, "by": "rows"},
    {"size": 2, "by": "availability"},
    {"rate": 0.4, "by": "poisson"},
]


def job(cohort, **changes):
    changes = {"protocol": {"name": "fedadam", "rounds": 5, "server_lr": 0.1}, **changes}
    return clinic.job(cohort=cohort, **changes)


def silos():
    hosts = clinic.hosts(clinic.frames(*SIZES))
    for place, host in enumerate(hosts.values()):
        host.run_secrets["r1"] = bytes([place]) * 32
    return hosts


class Away:
    """A transport over which some silos are gone in some rounds of training, and heard by none."""

    def __init__(self, inner, gone):
        self.inner, self.gone, self.asked = inner, gone, {}

    def online(self):
        return self.inner.online()

    def exchange(self, parcels, *, deadline_s):
        for name, parcel in parcels.items():
            head = Header.decode(parcel.header)
            if head.round:
                self.asked.setdefault(head.round, []).append(name)
            if name in self.gone.get(head.round, ()):
                yield Arrival(name, None, Fault("unreachable", "gone"), 0.0)
            else:
                yield from self.inner.exchange({name: parcel}, deadline_s=deadline_s)

    def close(self):
        self.inner.close()


def drawn(record):
    rounds = [each["body"] for each in read(record) if each["kind"] == "round"]
    return {each["round"]: tuple(each["cohort"]["drawn"]) for each in rounds}


@pytest.mark.parametrize("cohort", BY, ids=lambda each: each.get("by", "uniform"))
def test_only_who_was_drawn_is_asked_and_the_run_is_complete(cohort, tmp_path):
    made = []

    def wrap(inner):
        made.append(Away(inner, {}))
        return made[0]

    run = clinic.run_of(job(cohort), silos(), tmp_path, key=KEY, wrap=wrap)
    result = clinic.finished(run)
    told = drawn(tmp_path / "record.jsonl")
    assert {number: tuple(names) for number, names in made[0].asked.items()} == told
    assert all(len(names) == 2 for names in told.values()) or cohort.get("by") == "poisson"
    assert result.status == "complete"
    assert (
        result.sentence == "complete: in each of 5 rounds, all took part who were drawn of 5 silos"
    )
    for name, each in result.silos.items():
        assert each.rounds == tuple(number for number in told if name in told[number])
        assert each.status == ("trained" if each.rounds else "not_drawn")
        assert each.num_held_out  # all judge the model at the end
    for part in result.participation:
        was_drawn = part.silo in told[part.round]
        assert part.outcome == ("trained" if was_drawn else "not_drawn")
        assert part.invited is was_drawn
        assert (part.weight is not None) is was_drawn
    assert {each.reason for each in result.participation} == {"", "not drawn for this round"}


@pytest.mark.parametrize("cohort", BY, ids=lambda each: each.get("by", "uniform"))
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_run_that_died_draws_whom_it_would_have_drawn(cohort, rounds, tmp_path):
    gone = {2: SILOS[:1], 3: SILOS[2:3]}  # so that availability has something to remember
    cohort = {**cohort, "most_rounds": 4}
    wrap = lambda inner: Away(inner, gone)  # noqa: E731
    whole = clinic.finished(
        clinic.run_of(job(cohort), silos(), tmp_path / "whole", key=KEY, wrap=wrap)
    )
    hosts = silos()
    died = clinic.run_of(job(cohort), hosts, tmp_path / "died", key=KEY, wrap=wrap)
    died.admit()
    died.standardize()
    for _ in range(rounds):
        died.train_round()
    again = clinic.run_of(job(cohort), hosts, tmp_path / "died", key=KEY, wrap=wrap, resume=True)
    result = clinic.finished(again)
    assert drawn(tmp_path / "died" / "record.jsonl") == drawn(tmp_path / "whole" / "record.jsonl")
    assert tree.digest(result.params) == tree.digest(whole.params)
    assert result.metrics == whole.metrics


@pytest.mark.parametrize("cohort", [BY[0], BY[1], BY[3]], ids=str)
def test_whoever_dies_the_same_silos_are_drawn(cohort, tmp_path):
    there = clinic.trained(job(cohort), silos(), tmp_path / "there", key=KEY)
    there.close()
    gone = {1: SILOS[:2], 4: SILOS[3:]}
    one = clinic.run_of(
        job(cohort), silos(), tmp_path / "gone", key=KEY, wrap=lambda each: Away(each, gone)
    )
    one.admit()
    one.standardize()
    missed = {}
    while one.rounds_left:
        number = 6 - one.rounds_left
        try:
            one.train_round()
        except QuorumLost:  # all that were drawn are away
            missed[number] = True
            gone.pop(number)
    one.close()
    assert drawn(tmp_path / "gone" / "record.jsonl") == drawn(tmp_path / "there" / "record.jsonl")


def test_a_job_that_draws_all_has_the_model_of_one_that_asks_all(tmp_path):
    plain = clinic.trained(clinic.job(), silos(), tmp_path / "plain")
    for place, cohort in enumerate(
        ({"size": 5}, {"size": 9, "by": "rows"}, {"rate": 1.0, "by": "poisson"})
    ):
        run = clinic.trained(clinic.job(cohort=cohort), silos(), tmp_path / str(place))
        assert tree.digest(run.params) == tree.digest(plain.params)


def test_who_was_drawn_and_is_away_is_missing_and_who_was_not_is_not(tmp_path):
    found = drawn_of(job({"size": 2}), tmp_path)
    absent = found[3][0]
    run = clinic.run_of(
        job({"size": 2}),
        silos(),
        tmp_path / "run",
        key=KEY,
        wrap=lambda each: Away(each, {number: (absent,) for number in found}),
    )
    result = clinic.finished(run)
    assert result.status == "degraded"
    rounds = ", ".join(str(number) for number in found if absent in found[number])
    assert list(result.silos) == list(SILOS)
    assert [n for n, each in result.silos.items() if each.reason] == [absent]
    assert result.silos[absent].reason == "gone"
    by = {(each.round, each.silo): each for each in result.participation}
    for number, names in found.items():
        expected = "dropped" if absent in names else "not_drawn"
        assert by[number, absent].outcome == expected, rounds
        others = [name for name in names if name != absent]
        assert {by[number, name].outcome for name in others} == {"trained"}


def drawn_of(job_, place):
    run = clinic.trained(job_, silos(), place / "before", key=KEY)
    run.close()
    return drawn(place / "before" / "record.jsonl")


def test_the_quorum_is_one_of_the_drawn_and_nobody_is_drawn_in_place_of_another(tmp_path):
    wanted = job({"size": 2}, quorum={"min_silos": 2})
    found = drawn_of(wanted, tmp_path)
    run = clinic.run_of(
        wanted,
        silos(),
        tmp_path / "run",
        key=KEY,
        wrap=lambda each: Away(each, {1: found[1][:1]}),
    )
    run.admit()
    run.standardize()
    with pytest.raises(QuorumLost, match="1 of at least 2 silos answered") as lost:
        run.train_round()
    assert list(lost.value.missing) == [found[1][0]]
    enough = lost.value.awaits
    assert enough is not None
    assert not enough(set(SILOS) - {found[1][0]})  # the others are no help
    assert enough(found[1])
    parts = run.close(lost.value).participation
    assert {each.silo: each.outcome for each in parts} == {
        name: "not_drawn"
        if name not in found[1]
        else "dropped"
        if name == found[1][0]
        else "unused"
        for name in SILOS
    }


def test_a_round_asks_nobody_where_too_few_of_the_drawn_are_connected(tmp_path):
    wanted = job({"size": 2}, quorum={"min_silos": 2})
    found = drawn_of(wanted, tmp_path)
    made = []

    class Fewer(Away):
        missing = ""

        def online(self):
            return tuple(name for name in self.inner.online() if name != self.missing)

    def wrap(inner):
        made.append(Fewer(inner, {}))
        return made[0]

    run = clinic.run_of(wanted, silos(), tmp_path / "run", key=KEY, wrap=wrap)
    run.admit()
    run.standardize()
    made[0].missing = found[1][0]
    with pytest.raises(QuorumLost, match="before the next step"):
        run.train_round()
    assert made[0].asked == {}
    made[0].missing = ""
    while run.rounds_left:
        run.train_round()
    assert drawn(tmp_path / "run" / "record.jsonl") == found


def test_a_mandatory_silo_is_in_every_round(tmp_path):
    wanted = job({"size": 2}, quorum={"mandatory": ["west"]})
    assert all("west" in names for names in drawn_of(wanted, tmp_path).values())


def test_a_silo_that_says_no_is_drawn_no_more(tmp_path):
    wanted = job({"size": 2})
    found = drawn_of(wanted, tmp_path)
    who = found[1][0]

    class Refuses(Away):
        def exchange(self, parcels, *, deadline_s):
            for arrival in super().exchange(parcels, deadline_s=deadline_s):
                if arrival.silo == who and arrival.fault is not None:
                    yield Arrival(who, None, Fault("refused", "no more"), 0.0)
                else:
                    yield arrival

    run = clinic.run_of(
        wanted, silos(), tmp_path / "run", key=KEY, wrap=lambda each: Refuses(each, {1: (who,)})
    )
    result = clinic.finished(run)
    now = drawn(tmp_path / "run" / "record.jsonl")
    assert now[1] == found[1]
    assert all(who not in names and len(names) == 2 for number, names in now.items() if number > 1)
    assert result.silos[who].status == "refused"
    outcomes = [each.outcome for each in result.participation if each.silo == who]
    assert outcomes == ["refused"] * 5


PRIVATE = {"epsilon": 4.0, "delta": 1e-3, "accountant": "rdp", "reproducible": True}


def private(cohort, **changes):
    return job(
        cohort,
        privacy=PRIVATE,
        protocol={"name": "fedavg", "rounds": 3},
        local={"batch_size": 8, "steps": 2, "lr": 0.3},
        features={"standardize": "contract"},
        **changes,
    )


def spends(hosts):
    """(σ, rate, steps) of each round that a silo has booked."""
    return {name: [each[-1] for each in host.spends.get("r1", [])] for name, host in hosts.items()}


def three():
    return {name: host for name, host in silos().items() if name in SILOS[:3]}


@pytest.mark.parametrize(("cohort", "most"), [({"size": 2}, 3), ({"size": 2, "most_rounds": 2}, 2)])
def test_a_private_silo_pays_for_its_rounds_with_noise_for_all_or_for_its_cap(
    cohort, most, tmp_path
):
    """The draw is known to the coordinator, so that no silo's noise may count on it."""
    hosts = three()
    result = clinic.trained(private(cohort), hosts, tmp_path, key=KEY).close()
    assert sum(len(each) for each in spends(hosts).values()) >= 5  # of 2 in each of 3 rounds
    for name, booked in spends(hosts).items():
        assert len(booked) == len(result.silos[name].rounds) <= most
        for sigma, rate, steps in booked:
            assert sigma == noise_multiplier(
                target_epsilon=PRIVATE["epsilon"],
                delta=PRIVATE["delta"],
                sample_rate=rate,
                steps=steps * most,
                accountant="rdp",
            )
        assert (result.silos[name].epsilon or 0.0) <= PRIVATE["epsilon"]


def test_a_silo_refuses_more_rounds_than_the_cap_whoever_asks(tmp_path):
    capped = private({"size": 2, "most_rounds": 2}, quorum={"min_silos": 2})
    hosts = three()
    run = clinic.run_of(capped, hosts, tmp_path, key=KEY)
    run.admit()
    run.standardize()

    def round_of_one_that_forgets_whom_it_drew():
        run.state = replace(run.state, cohort={})
        run._training = None
        run.train_round()

    round_of_one_that_forgets_whom_it_drew()
    round_of_one_that_forgets_whom_it_drew()
    with pytest.raises(BudgetExhausted, match=r"cohort\.most_rounds allows 2"):
        round_of_one_that_forgets_whom_it_drew()
    assert max(len(each) for each in spends(hosts).values()) == 2


def test_a_run_that_is_extended_goes_on_drawing(tmp_path):
    runs = tmp_path / "runs"
    wanted = job({"size": 2, "by": "availability", "most_rounds": 6})
    first = clinic.run_of(wanted, silos(), runs / "r1", run_id="r1", key=KEY)
    clinic.finished(first)
    kept = first.state.cohort
    longer = extended(runs, "r1", rounds=3)
    assert longer.cohort == wanted.cohort
    second = clinic.run_of(longer, silos(), runs / "r2", run_id="r2", key=KEY)
    second.admit()
    assert second.state.cohort == kept
    while second.rounds_left:
        second.train_round()
    second.close()
    assert sorted(drawn(runs / "r2" / "record.jsonl")) == [6, 7, 8]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cohort": {"by": "rows"}}, "give size"),
        ({"cohort": {"size": 2, "by": "poisson"}}, "give rate, and no size"),
        ({"cohort": {"size": 2, "rate": 0.5}}, "give size, and no rate"),
        ({"cohort": {"size": 2, "every": 4}}, "only by: availability"),
        ({"cohort": {"size": 2, "most": 3}}, "most_rounds"),
        ({"cohort": {"size": 1}, "quorum": {"min_silos": 2}}, "cohort.size: of 1 silos"),
        (
            {"cohort": {"size": 2, "most_rounds": 2}, "quorum": {"mandatory": ["east"]}},
            "east is mandatory",
        ),
        ({"cohort": {"size": 2}, "quorum": {"late": "next_round"}}, "quorum.late"),
    ],
)
def test_a_job_that_makes_no_sense_is_invalid(changes, told):
    with pytest.raises(JobInvalid, match=told):
        clinic.job(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"protocol": {"name": "fedbuff"}, "cohort": {"size": 2}},
            "fedbuff asks whoever is idle",
        ),
        (
            {
                "protocol": {"name": "flower", "strategy": "flwr.serverapp.strategy:FedAvg"},
                "cohort": {"size": 2},
            },
            "fraction_train in protocol.args",
        ),
        ({"cohort": {"size": 2, "by": "availability", "every": 2}}, "need 3 rounds"),
        ({"cohort": {"rate": 0.1, "by": "poisson"}, "quorum": {"min_silos": 2}}, "cohort.rate"),
        ({"cohort": {"size": 4, "most_rounds": 2}}, "cohort.most_rounds: 3 rounds need"),
        ({"cohort": {"size": 1}, "quorum": {"mandatory": ["east"]}}, "the other 4 are never drawn"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(changes, told):
    with pytest.raises(IncompatibleJob, match=told):
        plan(clinic.job(**changes), clinic.contract(), SILOS)


def test_a_job_without_a_cohort_says_nothing_of_it():
    assert "cohort" not in clinic.job().to_json()
    assert clinic.job(cohort={"size": 2}).young_keys()["cohort"] == 3
    with pytest.raises(JobInvalid, match="cohort"):
        clinic.job("analytics", cohort={"size": 2})


def test_the_estimate_is_told_as_each_silos_weight(tmp_path):
    run = clinic.trained(job({"size": 2}), silos(), tmp_path, key=KEY)
    rows = run._talk.fed.num_examples
    for report in run.rounds:
        for name, weight in report["cohort"]["weights"].items():
            np.testing.assert_allclose(weight, rows[name] * 5 / 2 / sum(rows.values()))
    run.close()
