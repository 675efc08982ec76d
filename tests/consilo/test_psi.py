"""Entity matching over the local transport: who matches whom, against the same in the clear."""

import clinic
import numpy as np
import pandas as pd
import pytest

from consilo.dispatch import answerer
from consilo.kernel import Federation, Kernel
from consilo.protocols.psi import Psi
from consilo.transports.local import LocalTransport

CONTRACT = """
name: people
version: 1
columns:
  number: {type: string, role: id, nullable_share: 1.0}
  name: {type: string, role: id, nullable_share: 1.0}
  born: {type: date, role: id, nullable_share: 1.0}
  rows: {type: integer}
"""
KEYS = [
    {"parts": [{"column": "number", "steps": ["trim"]}], "duplicates": "same"},
    {"parts": [{"column": "name"}, {"column": "born", "steps": ["date"]}]},
]
SILOS = ("bank", "clinic", "shop")


class Recording(LocalTransport):
    """Keeps everything that the coordinator ever held, and may change what passes it."""

    def __init__(self, answers, change=None):
        super().__init__(answers)
        self.held, self.change = [], change

    def exchange(self, parcels, *, deadline_s):
        if self.change is not None:
            parcels = {name: self.change(name, parcel) for name, parcel in parcels.items()}
        self.held += [part for each in parcels.values() for part in (each.header, each.body)]
        for arrival in super().exchange(parcels, deadline_s=deadline_s):
            if arrival.parcel is not None:
                self.held += [arrival.parcel.header, arrival.parcel.body]
            yield arrival


def table(numbers, **columns):
    numbers = list(numbers)
    made = {
        "number": pd.Series([None if n is None else f"id-{n}" for n in numbers], dtype="string"),
        "name": pd.Series([None if n is None else f"Person {n}" for n in numbers], dtype="string"),
        "born": pd.to_datetime(pd.Series(["1990-01-01"] * len(numbers))),
        "rows": np.arange(len(numbers)),
    }
    return pd.DataFrame({**made, **columns})


def job(keys=KEYS, **match):
    return clinic.job(contract="people@1", match={"recipe": {"keys": keys}, **match})


def setting(tables, *, job_=None, shard=1 << 16, change=None, hosts=None, run_id="run"):
    hosts = hosts or clinic.hosts(tables)
    job_ = job_ or job()
    transport = Recording({name: answerer(each) for name, each in hosts.items()}, change)
    contract = clinic.contract(CONTRACT)
    seen = []
    kernel = Kernel(transport, run_id=run_id, job=job_, contract=contract, observe=seen.append)
    fed = Federation(tuple(hosts), job_, contract, transport.online)
    protocol = Psi.from_job(job_)
    return hosts, kernel, fed, protocol, transport, seen


def matched(tables, **settings):
    hosts, kernel, fed, protocol, transport, _ = setting(tables, **settings)
    result = kernel.run("psi", protocol, fed)
    return {name: each.matches["clinic"] for name, each in hosts.items()}, result, transport


def numbers(tables, matches):
    """Return the ids that each side has in the joint order."""
    return {n: tables[n]["number"].iloc[m.rows].tolist() for n, m in matches.items()}


@pytest.mark.parametrize("hub", ["bank", "clinic"])
def test_two_silos_find_whom_they_share_in_one_order(hub):
    tables = {"bank": table(range(40)), "clinic": table(range(60, 20, -1))}
    matches, result, _ = matched(tables, job_=job(hub=hub))
    found = numbers(tables, matches)
    assert found["bank"] == found["clinic"]
    assert set(found["bank"]) == {f"id-{n}" for n in range(21, 40)}
    assert matches["bank"].rows.tolist() != sorted(matches["bank"].rows)
    assert result["silos"]["bank"] == {
        "matched": 19,
        "match_rate": 19 / 40,
        "rows": 40,
        "entities": 40,
    }


def test_three_silos_share_who_is_in_all_of_them():
    tables = {
        "bank": table(range(30)),
        "clinic": table(range(10, 50)),
        "shop": table(range(0, 60, 2)),
    }
    matches, *_ = matched(tables)
    found = numbers(tables, matches)
    assert found["bank"] == found["clinic"] == found["shop"]
    assert set(found["bank"]) == {f"id-{n}" for n in range(10, 30, 2)}
