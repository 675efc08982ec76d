"""A split training that died goes on from its last checkpoint and ends in the same bytes."""

import copy
import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import vertical

from consilo.errors import QuorumLost, Refused
from consilo.kernel.federation import Federation
from consilo.kernel.headers import Header
from consilo.kernel.loop import Kernel
from consilo.kernel.view import SiloView
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.vertical.parts import Part
from consilo.vertical.split.protocol import VerticalSplit
from consilo.vertical.split.state import Shelf
from consilo.vertical.training import Turn
from consilo.wire.parcel import Arrival, Fault
from consilo.wire.payload import pack, unpack

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1")}
BOTTOM = {
    "name": "consilo.learners.tabular:MLP",
    "args": {"hidden": [4], "dropout": 0.2},
}
PRIVATE = {"epsilon": 4.0, "delta": 1e-3, "accountant": "rdp"}
EPOCHS = 3


class Died(Exception):
    pass


class Dying(LocalTransport):
    """A transport that carries so many asks, and then no more."""

    def __init__(self, answers, asks):
        super().__init__(answers)
        self.left = asks

    def exchange(self, parcels, *, deadline_s):
        if not self.left:
            raise Died
        self.left -= 1
        return super().exchange(parcels, deadline_s=deadline_s)


def table(rows=40):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(rows, 4))
    found = pd.DataFrame(values, columns=[n for names in COLUMNS.values() for n in names])
    return found.assign(y=(values[:, 0] + values[:, 2] > 0).astype(int))


def job_of(**changes):
    args = {"width": 2, "bottom": BOTTOM, **changes.pop("args", {})}
    local = {"batch_size": 8, "optimizer": "adam", "lr": 0.05}
    return vertical.job_of(
        "vertical_split",
        COLUMNS,
        args=args,
        features={"standardize": "none"},
        model="consilo.learners.tabular:LogisticRegression",
        protocol={"rounds": EPOCHS},
        local=local,
        **changes,
    )


def fresh_hosts(*, keep_replies):
    hosts = vertical.silos_of(table(), COLUMNS)
    for name, host in hosts.items():
        host.run_secrets["r"] = hashlib.sha256(name.encode()).digest()
        host.keep_replies = keep_replies
    return hosts


def driven(job, hosts, state, asks=10**6):
    """Drive from a state; return the checkpoints and the final state, None where it died."""
    transport = Dying({name: answerer(host) for name, host in hosts.items()}, asks)
    contract = vertical.contract_of(COLUMNS)
    kernel = Kernel(transport, run_id="r", job=job, contract=contract, observe=lambda _: None)
    fed = Federation(tuple(sorted(hosts)), job, contract, lambda: tuple(hosts))
    drive = kernel.drive("vertical_split", VerticalSplit.from_job(job), fed, state)
    checkpoints = []
    try:
        while True:
            checkpoints.append(next(drive).state)
    except StopIteration as stop:
        return checkpoints, stop.value
    except Died:
        return checkpoints, None


def parts_of(hosts):
    return {name: Part.from_bytes(host.part("r")).digest for name, host in hosts.items()}


@pytest.mark.parametrize(
    ("kind", "asks", "keep_replies"),
    [
        ("plain", 9, False),
        ("plain", 20, False),
        ("plain", 20, True),
        ("plain", 28, False),
        ("private", 20, False),
        ("folds", 12, False),
    ],
)
def test_a_run_that_died_within_an_epoch_ends_in_the_same_bytes(kind, asks, keep_replies):
    """What silos answered is forgotten: they do the epoch anew, from where it began."""
    job = job_of(
        **{
            "plain": {"args": {"bits": 4}},
            "private": {"args": {"clip": 1.0}, "privacy": PRIVATE},
            "folds": {"args": {"folds": 2}},
        }[kind]
    )
    hosts = fresh_hosts(keep_replies=keep_replies)
    driven(job, hosts, Turn(), 2)  # relay keys are drawn, and noise depends on what they seal
    whole = copy.deepcopy(hosts)
    _, wanted = driven(job, whole, Turn())
    checkpoints, ended = driven(job, hosts, Turn(), asks)
    assert ended is None
    state = checkpoints[-1] if checkpoints else Turn()
    state = Turn.from_payload(unpack(pack(state.to_payload())))
    later, found = driven(job, hosts, state)
    assert len(checkpoints) + len(later) == EPOCHS
    assert parts_of(hosts) == parts_of(whole)
    assert dict(found.metrics) == dict(wanted.metrics)
    assert dict(found.references) == dict(wanted.references)
    assert dict(found.epsilon) == dict(wanted.epsilon)


def test_an_epoch_cannot_be_done_in_another_way():
    """From where an epoch began, other questions would get other embeddings of the same rows."""
    job, hosts = job_of(), fresh_hosts(keep_replies=False)
    asked = {}
    answer = answerer(hosts["shop"])

    def listening(parcel):
        header = Header.decode(parcel.header)
        asked[header.verb, unpack(parcel.body)["payload"].get("step")] = header
        return answer(parcel)

    contract = vertical.contract_of(COLUMNS)
    answers = {"bank": answerer(hosts["bank"]), "shop": listening}
    transport = Dying(answers, 3 + 8)  # four batches of the first epoch's four and a half
    kernel = Kernel(transport, run_id="r", job=job, contract=contract, observe=lambda _: None)
    fed = Federation(tuple(sorted(hosts)), job, contract, lambda: tuple(hosts))
    with pytest.raises(Died):
        kernel.run("vertical_split", VerticalSplit.from_job(job), fed, Turn())
    header = asked["embed", 2]
    state = np.arange(3, dtype=np.uint8)
    again = Shelf(SiloView(hosts["shop"], job, contract, header), 4)
    again.keep(2, state)
    assert np.array_equal(again.after(2), state)
    other = replace(header, content="another question")
    with pytest.raises(Refused, match="has done step 2"):
        Shelf(SiloView(hosts["shop"], job, contract, other), 4).keep(2, state)


def test_a_silo_does_not_go_back_behind_an_epoch():
    """The epoch before is over once the next one has begun."""
    job, hosts = job_of(), fresh_hosts(keep_replies=False)
    checkpoints, _ = driven(job, hosts, Turn(), 3 + 8 + 8 + 1)
    assert [each.round for each in checkpoints] == [1, 2]
    with pytest.raises(Refused, match="does not stand at step 4"):
        driven(job, hosts, checkpoints[0])


def test_faults_of_the_transport_leave_the_last_checkpoint():
    """A silo that does not answer within an epoch: the same drive goes on when it does."""
    job, hosts = job_of(), fresh_hosts(keep_replies=False)
    answers = {name: answerer(host) for name, host in hosts.items()}

    class Deaf(LocalTransport):
        count = 0

        def exchange(self, parcels, *, deadline_s):
            Deaf.count += 1
            if Deaf.count == 15:
                return iter(
                    [Arrival(name, None, Fault("deadline", "late"), 1.0) for name in parcels]
                )
            return super().exchange(parcels, deadline_s=deadline_s)

    contract = vertical.contract_of(COLUMNS)
    transport = Deaf(answers)
    kernel = Kernel(transport, run_id="r", job=job, contract=contract, observe=lambda _: None)
    fed = Federation(tuple(sorted(hosts)), job, contract, lambda: tuple(hosts))
    drive = kernel.drive("vertical_split", VerticalSplit.from_job(job), fed, Turn())
    state = next(drive).state
    with pytest.raises(QuorumLost):
        next(drive)
    whole = fresh_hosts(keep_replies=True)
    driven(job, whole, Turn())
    driven(job, hosts, state)
    assert parts_of(hosts) == parts_of(whole)
