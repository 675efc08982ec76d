"""Many silos on this machine: silo-rounds per second and memory, whatever the number of silos.

One table is cut by labels (Dirichlet, alpha 0.5) into silos of 60 rows; FedAvg of the tabular MLP
(30 inputs, 2,081 parameters), one local epoch a round, the whole run from contract check to
evaluation over the pool of processes that ``consilo job run --simulate`` uses.

    silo_rounds_per_s      rounds of training times silos, per second of training
    coordinator_peak_mib   peak resident memory of the process that runs the kernel
    workers_peak_mib       peak of all workers together, shared pages counted once (PSS)
    cpu_ms_per_silo_round  CPU of all processes, start and imports and evaluation included
    few_*                  some of it with a tenth of the silos
    few_inline_silo_rounds_per_s, few_inline_cpu_ms_per_silo_round
                           the same few in one process
    few_private_silo_rounds_per_s
                           the same few with differential privacy
    peak_ratio             coordinator's peak with all silos over that with a tenth of them
    workers_ratio          the same for the workers
    speed_ratio            silo-rounds a second with all silos over those with a tenth of them
    pool_over_inline       the few in processes over the few in one
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from report import Report, load_now, options, say, sized
from trees import cpu_seconds, peak_bytes

NUM_INPUTS = 30
_NEED_MORE_RUNS = (
    *("few_*", "few_inline_silo_rounds_per_s", "few_inline_cpu_ms_per_silo_round"),
    *("few_private_silo_rounds_per_s", "peak_ratio", "workers_ratio", "speed_ratio"),
    "pool_over_inline",
)
_OF_FEW = ("silo_rounds_per_s", "cpu_ms_per_silo_round", "coordinator_peak_mib")
ROWS_PER_SILO = 60


def run_once(silos: int, rounds: int, engine: str, epsilon: float | None) -> dict[str, float]:
    """Run the job in this process and return what it took."""
    import numpy as np
    import pandas as pd

    from consilo.contract import Contract
    from consilo.job import Job
    from consilo.partition import Partition
    from silos.simulation import simulate_cut

    columns: dict[str, object] = {
        f"x{place}": {"type": "float", "range": {"min": -10, "max": 10}}
        for place in range(NUM_INPUTS)
    }
    columns["label"] = {"type": "integer", "allowed": [0, 1], "role": "target"}
    contract = Contract.parse({"name": "made", "version": 1, "columns": columns}, where="here")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((silos * ROWS_PER_SILO, NUM_INPUTS))
    labels = (values[:, :5].sum(axis=1) + rng.standard_normal(len(values)) > 0).astype(np.int64)
    frame = pd.DataFrame(values, columns=[f"x{place}" for place in range(NUM_INPUTS)])
    frame["label"] = labels
    job = Job.from_json(
        {
            "name": "simulate",
            "contract": "made@1",
            "model": "consilo.learners.tabular:MLP",
            "protocol": {"name": "fedavg", "rounds": rounds},
            "local": {"batch_size": 16, "epochs": 1, "lr": 0.05},
            "privacy": None if epsilon is None else {"epsilon": epsilon, "delta": 1e-3},
        }
    )
    if engine == "inline":
        importlib.import_module("silos.ready")  # as a worker: imports do not count

    partition = Partition(silos=silos, rule="dirichlet", alpha=0.5)
    watch = _Watch()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, watch:
        result = simulate_cut(
            job,
            frame,
            partition,
            contract=contract,
            directory=Path(folder) / "run",
            engine=engine,  # type: ignore[arg-type]
        )
        folder_bytes = sum(each.stat().st_size for each in Path(folder).rglob("*"))
    if result.status != "complete":
        raise RuntimeError(f"{result.status}: {result.reason[:500]}")
    figures = {f"{stage}_s": value for stage, value in result.seconds.items()}
    return figures | {
        "wall_s": time.perf_counter() - started,
        "silo_rounds_per_s": result.extra["simulation"]["silo_rounds_per_s"],
        "roc_auc": result.metrics["roc_auc"],
        "coordinator_peak_mib": peak_bytes() / 2**20,
        "workers_peak_mib": watch.peak_bytes / 2**20,
        "cpu_ms_per_silo_round": 1000 * watch.cpu_s / (silos * rounds),
        "folder_mib": folder_bytes / 2**20,
    }


class _Watch:
    """Samples the memory of all processes below this one."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.cpu_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        from consilo.guard import descendants

        while not self._stop.wait(0.5):
            total = sum(_pss_bytes(pid) for pid in descendants(os.getpid()))
            self.peak_bytes = max(self.peak_bytes, total)
            self.cpu_s = max(self.cpu_s, cpu_seconds([os.getpid()]))


def _pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def apart(silos: int, rounds: int, engine: str, epsilon: float | None = None) -> dict[str, float]:
    """Run in a process of its own, whose peak is its own, and return what it took."""
    told = json.dumps([silos, rounds, engine, epsilon])
    done = subprocess.run(
        [sys.executable, __file__, "--one", told], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(f"{silos} silos x {rounds} rounds, {engine}: {found['silo_rounds_per_s']:.0f} a second")
    return found


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--silos", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--ray", action="store_true", help="also on Ray, which must be installed")
    parser.add_argument("--one", help="run one of it, for this program itself")
    given = parser.parse_args()
    if given.one:
        silos, rounds, engine, epsilon = json.loads(given.one)
        print(json.dumps(run_once(silos, rounds, engine, epsilon)))
        return 0
    load = load_now()
    many, rounds = sized(given, full=(given.silos, given.rounds), quick=(30, 2), smoke=(4, 1))
    few = max(3, many // 10)
    if given.size == "smoke":
        figures = {"silos": float(many), "rounds": float(rounds)}
        figures |= run_once(many, rounds, "processes", None)
        left_out = dict.fromkeys(_NEED_MORE_RUNS, "it takes more than one run")
        Report("simulate", given.size, load, figures, {}, left_out).show(as_json=given.json)
        return 0
    small = apart(few, rounds, "processes")
    alone = apart(few, rounds, "inline")
    private = apart(few, min(rounds, 5), "processes", 8.0)
    large = apart(many, rounds, "processes")
    figures = {
        "silos": float(many),
        "rounds": float(rounds),
        **large,
        "few_silos": float(few),
        **{f"few_{name}": small[name] for name in _OF_FEW},
        "few_inline_cpu_ms_per_silo_round": alone["cpu_ms_per_silo_round"],
        "few_inline_silo_rounds_per_s": alone["silo_rounds_per_s"],
        "few_private_silo_rounds_per_s": private["silo_rounds_per_s"],
    }
    ratios = {
        "pool_over_inline": small["silo_rounds_per_s"] / alone["silo_rounds_per_s"],
        "peak_ratio": large["coordinator_peak_mib"] / small["coordinator_peak_mib"],
        "workers_ratio": large["workers_peak_mib"] / max(small["workers_peak_mib"], 1.0),
        "speed_ratio": large["silo_rounds_per_s"] / small["silo_rounds_per_s"],
    }
    if given.ray:
        figures["few_ray_silo_rounds_per_s"] = apart(few, rounds, "ray")["silo_rounds_per_s"]
    Report("simulate", given.size, load, figures, ratios).show(as_json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
