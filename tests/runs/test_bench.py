"""A silo that comes and goes is left out for some rounds; who was away once is asked at once."""

import clinic
import pytest

from consilo.jobs.quorum import Awaited, Quorum
from consilo.kernel.headers import Header
from consilo.kernel.loop import Exchange
from consilo.record.run_record import read
from consilo.runs.bench import benched
from consilo.wire.parcel import Arrival, Fault


def exchanges(text, silo="b"):
    """One letter a round: h here, a away, r refused, - not asked."""
    faults = {"a": Fault("deadline", "late"), "r": Fault("refused", "no"), "h": None}
    return [
        Exchange(number, "fedavg", "train", silo, faults[each], 0, 0, 0.0, 0.0)
        for number, each in enumerate(text, 1)
        if each != "-"
    ]


def left_out(text, number, quorum, *, here=("a", "b"), rows=None):
    holds = Awaited(quorum, rows or {})
    return benched(exchanges(text), number, silos=("a", "b"), here=here, holds=holds)


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("", 0),
        ("hhaaaaaa", 0),  # away, not flapping: asked in each round
        ("aaaaaa", 0),
        ("haha", 0),
        ("hahaha", 9),
        ("hahahah", 0),
        ("hahaha--haa", 15),
        ("hahaha--ha", 15),
        ("hahahahahahaha", 23),
        ("hrhrhr", 0),
    ],
)
def test_the_third_time_costs_two_rounds_and_each_further_one_twice_as_many(text, again):
    number = len(text) + 1
    found = left_out(text, number, Quorum(1))
    if not again:
        assert found == {}
    else:
        assert list(found) == ["b"]
        assert f"asked again in round {again}" in found["b"]
        assert not left_out(text, again, Quorum(1))


def test_nobody_is_left_out_whom_the_quorum_needs():
    flaps, rows = "hahaha", {"a": 50, "b": 50}
    assert left_out(flaps, 7, Quorum(1))
    assert not left_out(flaps, 7, Quorum(2))
    assert not left_out(flaps, 7, Quorum(1, mandatory=("b",)))
    assert left_out(flaps, 7, Quorum(1, 0.5), rows=rows)
    assert not left_out(flaps, 7, Quorum(1, 0.6), rows=rows)
    assert not left_out(flaps, 7, Quorum(1), here=("b",))  # for want of others


def test_a_run_leaves_it_out_says_why_and_takes_it_back(tmp_path):
    class Flapping:
        def __init__(self, inner):
            self.inner, self.asked = inner, []

        def online(self):
            return self.inner.online()

        def exchange(self, parcels, *, deadline_s):
            for arrival in self.inner.exchange(parcels, deadline_s=deadline_s):
                head = Header.decode(parcels[arrival.silo].header)
                if head.verb == "train" and arrival.silo == "north":
                    self.asked.append(head.round)
                    if head.round in (2, 4, 6):
                        yield Arrival("north", None, Fault("unreachable", "gone"), 0.0)
                        continue
                yield arrival

    made = []

    def wrap(inner):
        made.append(Flapping(inner))
        return made[0]

    job = clinic.job(protocol={"rounds": 10})
    run = clinic.trained(job, clinic.hosts(clinic.frames(40, 30)), tmp_path, wrap=wrap)
    assert made[0].asked == [1, 2, 3, 4, 5, 6, 9, 10]
    run.evaluate()
    result = run.close()
    assert result.silos["north"].rounds == (1, 3, 5, 9, 10)
    rounds = [each["body"] for each in read(tmp_path / "record.jsonl") if each["kind"] == "round"]
    told = {each["round"]: each["benched"] for each in rounds if "benched" in each}
    why = "came and went 3 times; asked again in round 9"
    assert told == {7: {"north": why}, 8: {"north": why}}
