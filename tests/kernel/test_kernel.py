import json
import threading

import clinic
import pytest

from consilo.errors import MessagesLost, QuorumLost, Refused
from consilo.jobs.quorum import Quorum
from consilo.kernel.federation import Federation
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.loop import Kernel
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Checkpoint, Publish, Stream
from consilo.kernel.verbs import count, verb
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Arrival, Fault, Parcel
from consilo.wire.payload import pack, unpack

SILOS = ("east", "north", "south")


class Count(Protocol):
    """Ask everybody for a number, in one way or another."""

    def __init__(self, step=None):
        self.step = step

    def coordinate(self, fed, state):
        result = yield self.step
        return list(result) if isinstance(self.step, Stream) else result

    @verb("count", replies={"n": count()})
    def count(self, silo, message):
        return {"n": len(silo.host.table) + message.payload.get("extra", 0)}


class Rounds(Protocol):
    """Checkpoints after each of three rounds of two questions each."""

    def coordinate(self, fed, state):
        while state.round < 3:
            for _ in range(2):
                yield Ask(fed.cohort(), "count", {})
            yield Publish("round", {"round": state.round + 1})
            state = Done(state.round + 1)
            yield Checkpoint(state)
        return state

    count = Count.count


class Done:
    def __init__(self, round):
        self.round = round


class Wire(LocalTransport):
    """The local transport that keeps what travelled, and may change replies on their way."""

    def __init__(self, answers, change=None):
        super().__init__(answers)
        self.seen, self.deadlines, self.change = [], [], change or {}

    def exchange(self, parcels, *, deadline_s):
        self.deadlines.append(deadline_s)
        for arrival in super().exchange(parcels, deadline_s=deadline_s):
            self.seen += [parcels[arrival.silo], arrival.parcel]
            change = self.change.get(arrival.silo)
            yield arrival if change is None else change(arrival)


def federation(change=None, *, protocol="Count", job=None, online=None, **refusals):
    job = job or clinic.job(protocol={"name": f"test_kernel:{protocol}"})
    rows = dict(zip(SILOS, clinic.frames(10, 20, 30).values(), strict=True))
    silos = clinic.hosts(rows)
    for name, refusal in refusals.items():
        silos[name].refusal = refusal
    transport = Wire({n: answerer(host) for n, host in silos.items()}, change)
    exchanges, published = [], []
    kernel = Kernel(
        transport,
        run_id="run",
        job=job,
        contract=clinic.contract(),
        observe=exchanges.append,
        publish=published.append,
    )
    fed = Federation(SILOS, job, clinic.contract(), online or transport.online)
    return kernel, fed, transport, exchanges, published


def altered(**changes):
    """Return a change of a reply's header or, under ``fields``, of its body."""

    def change(arrival):
        header = {**json.loads(arrival.parcel.header), **changes}
        body = pack(header.pop("fields")) if "fields" in header else arrival.parcel.body
        body = header.pop("body", body)
        raw = header.pop("raw", b"")
        parcel = Parcel(raw or json.dumps(header).encode(), body)
        return Arrival(arrival.silo, parcel, None, arrival.seconds)

    return change


def test_an_ask_brings_valid_replies_in_the_order_asked():
    kernel, fed, _, exchanges, _ = federation()
    answers = kernel.run("test_kernel:Count", Count(Ask(SILOS[::-1], "count", {"extra": 1})), fed)
    assert {n: r.fields["n"] for n, r in answers.replies.items()} == {
        "south": 31,
        "north": 21,
        "east": 11,
    }
    assert list(answers.replies) == list(SILOS[::-1])
    assert [each.silo for each in exchanges] == list(SILOS[::-1])


class Losing(LocalTransport):
    """Loses what is under way after a number of arrivals, each time that one is left."""

    def __init__(self, answers, arrive):
        super().__init__(answers)
        self.arrive, self.asked = list(arrive), []

    def exchange(self, parcels, *, deadline_s):
        self.asked.append([Header.decode(each.header) for each in parcels.values()])
        left = self.arrive.pop(0) if self.arrive else None
        for arrival in super().exchange(parcels, deadline_s=deadline_s):
            if left == 0:
                raise MessagesLost("the SuperLink came back without the run")
            left = left and left - 1
            yield arrival


@pytest.mark.parametrize(
    ("arrive", "asked"),
    [([0], [3, 3]), ([1], [3, 2]), ([2, 0, 0], [3, 1, 1, 1]), ([1, 1], [3, 2, 1])],
)
@pytest.mark.parametrize("kind", [Ask, Stream])
def test_what_is_lost_on_the_way_is_asked_again_of_those_who_had_not_answered(arrive, asked, kind):
    clock = iter(range(10_000, 99_999))
    kernel, fed, transport, exchanges, _ = federation()
    kernel._now = lambda: float(next(clock))
    losing = Losing(transport._answers, arrive)
    kernel._transport = losing
    kernel.run("test_kernel:Count", Count(kind(SILOS, "count", {})), fed)
    assert [each.silo for each in exchanges] == list(SILOS)
    assert all(each.fault is None for each in exchanges)
    assert [len(each) for each in losing.asked] == asked
    last = {each.silo: each for each in losing.asked[-1]}
    for first in losing.asked[0]:
        if first.silo in last:
            again = last[first.silo]
            assert again.step_id == first.step_id  # so its silo pays nothing twice
            assert again.cohort == first.cohort
            assert again.issued > first.issued  # a header of before could have expired


def test_a_silo_that_was_shut_out_is_missing_for_that_reason():
    # A suspended silo's node is taken offline: "the silo's node has gone".
    def lost(arrival):
        return Arrival("north", None, Fault("unreachable", "the silo's node has gone"), 1.0)

    kernel, fed, _, exchanges, _ = federation({"north": lost})
    fed.standing = lambda name: "suspended" if name == "north" else ""
    step = Ask(SILOS, "count", {}, quorum=Quorum(min_silos=3))
    with pytest.raises(QuorumLost, match="suspended"):
        kernel.run("test_kernel:Count", Count(step), fed)
    assert [each.fault.reason for each in exchanges if each.fault] == ["suspended"]
    others = Ask(SILOS[::2], "count", {}, quorum=Quorum(min_silos=3))
    fed.online = lambda: SILOS[::2]
    with pytest.raises(QuorumLost, match="suspended"):
        kernel.run("test_kernel:Count", Count(others), fed)


def test_bytes_are_those_of_the_serialised_messages_and_the_body_is_shared():
    kernel, fed, transport, exchanges, _ = federation()
    kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {})), fed)
    requests, replies = transport.seen[::2], transport.seen[1::2]
    assert [each.bytes_down for each in exchanges] == [each.num_bytes for each in requests]
    assert [each.bytes_up for each in exchanges] == [each.num_bytes for each in replies]
    assert all(each.body is requests[0].body for each in requests)


def test_what_one_silo_alone_gets_reaches_nobody_else():
    kernel, fed, transport, *_ = federation()
    step = Ask(SILOS, "count", {}, own={"north": {"extra": 5}})
    answers = kernel.run("test_kernel:Count", Count(step), fed)
    assert [each.fields["n"] for each in answers.replies.values()] == [10, 25, 30]
    payloads = [unpack(each.body)["payload"] for each in transport.seen[::2]]
    assert payloads == [{}, {"extra": 5}, {}]


ODD = {
    "other silo": altered(silo="south"),
    "other step": altered(step_id="0" * 32),
    "junk body": altered(body=b"junk"),
    "junk header": altered(raw=b"\x00\x01"),
    "deep json": altered(raw=b"[" * 100_000),
    "wrong type": altered(fields={"n": "many"}),
    "negative": altered(fields={"n": -1}),
    "too large": altered(fields={"n": 10**400}),
    "undeclared": altered(fields={"n": 1, "rows": [1]}),
    "missing field": altered(fields={}),
    "other wire": altered(wire=9),
    "no fields": altered(body=b""),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_reply_drops_that_silo_and_not_the_run(kind):
    kernel, fed, _, exchanges, _ = federation({"north": ODD[kind]})
    answers = kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {}, quorum=Quorum(2))), fed)
    assert list(answers.replies) == ["east", "south"]
    assert answers.missing["north"].code == "invalid_reply"
    assert [each.fault is None for each in exchanges] == [True, False, True]


def test_a_fault_is_data():
    kernel, fed, *_ = federation(north="not today")
    answers = kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {})), fed)
    assert answers.missing == {"north": Fault("refused", "not today")}


@pytest.mark.parametrize("kind", [Ask, Stream])
def test_a_lost_quorum_lists_everybody_missing(kind):
    kernel, fed, *_ = federation(north="not today", online=lambda: ("east", "north"))
    step = kind(("east", "north"), "count", {}, quorum=Quorum(2))
    with pytest.raises(Refused, match="'count' before the rounds: refused by north") as lost:
        kernel.run("test_kernel:Count", Count(step), fed)
    assert lost.value.missing["north"] == "refused: not today"
    assert lost.value.missing["south"] == "unreachable: not connected"


def test_a_quorum_weighs_the_rows_that_the_federation_knows():
    kernel, fed, *_ = federation(south="no")
    fed.num_examples.update(dict(zip(SILOS, (10, 20, 30), strict=True)))
    with pytest.raises(Refused, match="hold 50% of the rows"):
        kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {}, quorum=Quorum(1, 0.6))), fed)


def test_a_stream_holds_one_reply_at_a_time():
    kernel, fed, transport, *_ = federation()

    class Folding(Count):
        def coordinate(self, fed, state):
            replies = yield Stream(SILOS, "count", {})
            counts = []
            for place, each in enumerate(replies):
                assert len(transport.seen) == 2 * (place + 1)
                counts.append(each.fields["n"])
            return counts

    assert kernel.run("test_kernel:Count", Folding(), fed) == [10, 20, 30]


def test_deadlines_are_learnt_per_verb_and_a_step_may_say_its_own():
    kernel, fed, transport, *_ = federation()
    for _ in range(2):
        kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {})), fed)
    kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {}, deadline_s=7)), fed)
    assert transport.deadlines == [600.0, 30.0, 7]
    job = clinic.job(quorum={"deadline": 3.5}, protocol={"name": "test_kernel:Count"})
    kernel, fed, transport, *_ = federation(job=job)
    kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {})), fed)
    assert transport.deadlines == [3.5]


def test_an_answer_after_the_deadline_counts_as_dropped():
    ticks = iter([0.0, 1.0, 0.0, 99.0])
    answer = {name: lambda parcel: parcel for name in ("a", "b")}
    transport = LocalTransport(answer, clock=lambda: next(ticks))
    parcel = Parcel(b"h", b"b")
    found = list(transport.exchange({"a": parcel, "b": parcel}, deadline_s=10))
    assert [each.fault and each.fault.code for each in found] == [None, "deadline"]


def test_rounds_count_from_the_checkpoint_so_that_a_resumed_run_asks_the_same_ids():
    def ids(start):
        kernel, fed, transport, exchanges, published = federation(protocol="Rounds")
        driven = kernel.drive("test_kernel:Rounds", Rounds(), fed, Done(start))
        rounds = [each.state.round for each in driven]
        headers = [Header.decode(each.header) for each in transport.seen[::2]]
        assert [each.round for each in headers] == [each.round for each in exchanges]
        assert [each.value["round"] for each in published] == rounds
        return rounds, [each.step_id for each in headers]

    rounds, whole = ids(0)
    assert rounds == [1, 2, 3]
    assert len(set(whole)) == len(whole) == 18
    assert ids(1) == ([2, 3], whole[6:])


def test_an_unknown_step_is_a_mistake_of_the_protocol():
    kernel, fed, *_ = federation()
    with pytest.raises(TypeError, match="no step"):
        kernel.run("test_kernel:Count", Count("hello"), fed)


def test_several_silos_may_be_asked_from_threads():
    kernel, fed, _, exchanges, _ = federation()
    threads = [
        threading.Thread(
            target=kernel.run, args=("test_kernel:Count", Count(Ask((n,), "count", {})), fed)
        )
        for n in SILOS
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(each.silo for each in exchanges) == list(SILOS)
    assert all(each.fault is None for each in exchanges)


def test_a_fault_without_a_code_is_a_failure():
    quiet = altered(raw=ReplyHeader("", "north", "fault").encode())
    kernel, fed, *_ = federation({"north": quiet})
    answers = kernel.run("test_kernel:Count", Count(Ask(SILOS, "count", {})), fed)
    assert answers.missing["north"].code == "failed"
