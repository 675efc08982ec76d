"""What a silo ten times slower costs: FedAvg, which waits for it, and FedBuff, which does not.

Silos in this process train side by side and answer after a while each, as over a network: 0.1 s,
and the last of them ten times as long. Every run is made with it and without it, all stages.

    fedavg.seconds    fedbuff.seconds    with the slow silo
    fedavg.without_s  fedbuff.without_s  without it
    fedavg.auc        fedbuff.auc        over the held-out rows of all, the slow silo's too
    fedbuff.slow_answers                 answers of the slow silo that were used
    fedavg.ratio      fedbuff.ratio      seconds with it over seconds without; the goal is 1.3
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from report import Report, load_now, options, say, sized

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.kernel.headers import Header
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read
from consilo.runs.horizontal import Run, run_all
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Arrival, Parcel
from silos.simulation.in_memory import InMemorySilo

_COLUMNS = 12
_ROWS = 400
_FAST_S = 0.1
_SLOWER = 10


class _Paced:
    """Each silo answers a round after a while of its own; silos work side by side."""

    def __init__(self, inner: LocalTransport, seconds: Mapping[str, float]) -> None:
        self._inner, self._seconds = inner, dict(seconds)

    def online(self) -> tuple[str, ...]:
        return self._inner.online()

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        found: dict[str, Arrival] = {}

        def work(silo: str, parcel: Parcel) -> None:
            (found[silo],) = self._inner.exchange({silo: parcel}, deadline_s=deadline_s)
            if Header.decode(parcel.header).verb == "train":
                time.sleep(self._seconds[silo])

        threads = {n: threading.Thread(target=work, args=(n, p)) for n, p in parcels.items()}
        for each in threads.values():
            each.start()
        for name, each in threads.items():
            each.join()
            yield found.pop(name)

    def close(self) -> None:
        self._inner.close()


def _contract() -> Contract:
    columns: dict[str, Any] = {
        f"x{i}": {"type": "float", "range": {"min": -20, "max": 20}} for i in range(_COLUMNS)
    }
    columns["y"] = {"type": "integer", "role": "target", "allowed": [0, 1]}
    return Contract.parse({"name": "made_up", "version": 1, "columns": columns}, where="made up")


def _frame(place: int) -> pd.DataFrame:
    """Return a silo's rows: one relation for all, inputs shifted from silo to silo."""
    rng = np.random.default_rng(place)
    weights = np.random.default_rng(99).normal(size=_COLUMNS)
    x = rng.normal(0.3 * place, 1.0, (_ROWS, _COLUMNS))
    y = x @ weights - 0.3 * place * weights.sum() + rng.normal(0, 1.0, _ROWS) > 0
    return pd.DataFrame({f"x{i}": x[:, i] for i in range(_COLUMNS)}).assign(y=y.astype(int))


def _job(protocol: Mapping[str, Any], rounds: int) -> Job:
    return Job.from_json(
        {
            "name": "slow",
            "contract": "made_up@1",
            "model": "consilo.learners.tabular:LogisticRegression",
            "protocol": {**protocol, "rounds": rounds},
            "local": {"batch_size": 32, "epochs": 1, "lr": 0.05},
            "quorum": {"min_silos": 2},
        }
    )


def _one(protocol: Mapping[str, Any], names: list[str], slow: str, rounds: int) -> dict[str, Any]:
    hosts = {name: InMemorySilo(name, _frame(place)) for place, name in enumerate(names)}
    seconds = {name: _FAST_S * (_SLOWER if name == slow else 1) for name in names}
    answers = LocalTransport({name: answerer(host) for name, host in hosts.items()})
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            _job(protocol, rounds),
            _contract(),
            _Paced(answers, seconds),
            silos=names,
            directory=Path(folder) / "run",
            run_id="run",
            key=Ed25519PrivateKey.generate(),
        )
        started = time.perf_counter()
        result = run_all(run)
        took = time.perf_counter() - started
        entries = [e["body"] for e in read(Path(folder) / "run" / "record.jsonl")]
        used = sum(slow == n for e in entries for n, _ in e.get("arrivals", ()))
    if result.status != "complete":
        raise SystemExit(f"the run did not go through: {result.reason}")
    return {"seconds": took, "auc": result.metrics["roc_auc"], "slow_answers": used}


def main() -> int:
    """Run from the command line."""
    chosen = options(__doc__).parse_args()
    load = load_now()
    silos, rounds = sized(chosen, full=(5, 40), quick=(4, 30), smoke=(3, 3))
    names = [f"silo-{i}" for i in range(silos)]
    slow = names[-1]
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for name, more in {"fedavg": {}, "fedbuff": {"buffer": silos - 1}}.items():
        without = _one({"name": name, **more}, names[:-1], slow, rounds)
        found = _one({"name": name, **more}, names, slow, rounds)
        figures |= {
            f"{name}.seconds": found["seconds"],
            f"{name}.without_s": without["seconds"],
            f"{name}.auc": found["auc"],
        }
        ratios[f"{name}.ratio"] = found["seconds"] / without["seconds"]
        say(f"{name}: {found['seconds']:.1f} s with it, {without['seconds']:.1f} s without")
    figures["fedbuff.slow_answers"] = found["slow_answers"]
    Report("asynchronous", chosen.size, load, figures, ratios).show(as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
