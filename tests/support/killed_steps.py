"""A private step in a real silo, killed at statements of its ledger and its answers' table.

Run as a script, so that nothing has computed before it forks: it prints one JSON object a kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import clinic
import yaml
from agreed import agree
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forked import in_child

from consilo.horizontal.features import Scale
from consilo.horizontal.training import Training, TrainState, request
from consilo.kernel.federation import Federation
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.loop import Kernel, Party
from consilo.kernel.steps import Ask
from consilo.protocols.dispatch import answerer
from consilo.runs.planning.plan import plan
from consilo.transports.local import LocalTransport
from consilo.wire.payload import digest
from silos.kept.ledger import Ledger
from silos.node import ready  # noqa: F401  # imports all, so that children begin warm
from silos.simulation.simulation import acquainted

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CONTRACT = clinic.contract()
JOB = clinic.job(
    privacy={"epsilon": 3.0, "delta": 1e-3, "accountant": "rdp"},
    local={"steps": 2},
    protocol={"rounds": 1},
)
POLICY = {
    "allow": [{"jobs": ["*"]}],
    "disclosures": {"metric": True, "statistic": True, "update": True},
    "min_cohort": 1,
    "privacy": {"budgets": {"data": {"epsilon": 3.0, "delta": 1e-3}}},
}


def opened(place: Path):
    return acquainted({"north": place}, place, KEY, ())["north"]


def made(place: Path) -> None:
    """Make a silo with its rows checked and the run's secret drawn."""
    place.mkdir()
    clinic.frame(30).to_parquet(place / "rows.parquet", index=False)
    source = {"type": "parquet", "path": "rows.parquet"}
    (place / "silo.yaml").write_text(yaml.safe_dump({"name": "north", "data": {"data": source}}))
    (place / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    agree(place, CONTRACT)


def prepared(place: Path) -> None:
    silo = opened(place)
    silo.rows.check(CONTRACT, purpose=JOB.purpose)
    silo.secrets.secret("run")
    silo.secrets.lasting("holdout")
    assert silo.signing_key


def question(place: Path):
    """Return the signed request for the first round."""
    silo = opened(place)
    seen = {}

    class Wire(LocalTransport):
        def exchange(self, parcels, *, deadline_s):
            seen.update(parcels)
            return iter(())

    class Once(Training):
        def coordinate(self, fed, state):
            return (yield Ask(("north",), "train", request(state)))

    learner = plan(JOB, CONTRACT, ("north",)).learner
    transport = Wire({"north": answerer(silo)})
    kernel = Kernel(
        transport,
        run_id="run",
        job=JOB,
        contract=CONTRACT,
        observe=lambda _: None,
        key=KEY,
        parties={"north": Party(silo.signing_key, wire=2)},  # job and contract in the body
    )
    fed = Federation(("north",), JOB, CONTRACT, transport.online)
    state = TrainState(learner.parameters(), 1, scale=Scale.unit(2))
    kernel.run("fedavg", Once(JOB), fed, state)
    assert Header.decode(seen["north"].header).round == 1
    return seen["north"]


def killing(moment: int) -> None:
    """Kill this process at the given statement."""
    left = [moment]
    connect = sqlite3.connect

    def traced(path, *arguments, **settings):
        database = connect(path, *arguments, **settings)
        ledger = Path(path).name == "ledger.db"

        def tick(statement: str) -> None:
            if ledger or "replies" in statement or statement.startswith(("BEGIN", "COMMIT")):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        database.set_trace_callback(tick)
        return database

    sqlite3.connect = traced


def main(home: Path, stride: int) -> None:
    base, asked = home / "base", home / "asked"
    made(base)
    in_child(lambda: prepared(base))
    assert in_child(lambda: asked.write_bytes(_joined(question(base)))) == 0
    parcel = _split(asked.read_bytes())

    def answered(place: Path) -> dict[str, object]:
        """Answer in a child, and once more in the same one."""
        said = home / "said"

        def work() -> None:
            answer = answerer(opened(place))
            replies = [answer(parcel), answer(parcel)]
            headers = [ReplyHeader.decode(each.header) for each in replies]
            told = [
                [h.status, h.reason, digest(r.body)] for h, r in zip(headers, replies, strict=True)
            ]
            said.write_text(json.dumps({"replies": told, "entries": kinds(place)}))

        assert in_child(work) == 0
        return json.loads(said.read_text())

    whole = shutil.copytree(base, home / "whole")
    print(json.dumps(answered(whole)), flush=True)
    moment = 0
    while True:
        place = shutil.copytree(base, home / "killed")

        def work(place: Path = place, moment: int = moment) -> None:
            killing(moment)
            answerer(opened(place))(parcel)

        killed = os.WIFSIGNALED(in_child(work))
        before = kinds(place)
        told = {"moment": moment, "killed": killed, "before": before, **answered(place)}
        print(json.dumps(told), flush=True)
        shutil.rmtree(place)
        moment += stride
        if not killed:
            return


def kinds(place: Path) -> list[str]:
    return [each["kind"] for each in Ledger(place / "ledger.db").entries()]


def _joined(parcel) -> bytes:
    return len(parcel.header).to_bytes(8, "big") + parcel.header + bytes(parcel.body)


def _split(data: bytes):
    from consilo.wire.parcel import Parcel

    size = int.from_bytes(data[:8], "big")
    return Parcel(data[8 : 8 + size], data[8 + size :])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
