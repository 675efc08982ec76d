"""The coordinator's peak memory in a round, in models, with many silos and with few.

FedAvg of a large model over the kernel and the local transport. Each silo answers in a forked
process, so that what is counted is the coordinator's own: the state, the serialised request, one
reply and the running sum. The untrained learner that a whole run keeps besides is not counted.

    peak_models        growth of peak memory over the process before the model existed, in models
    peak_models_few    the same with 3 silos
    growth_with_silos  the one over the other
    silos              how many the first figure has
    model_mib          size of the model
    s_per_round        all silos, one after the other
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from report import Report, load_now, options, say, sized
from trees import peak_bytes, reset_peak

from consilo.contracts.contract import Contract
from consilo.horizontal.fedavg import FedAvg
from consilo.horizontal.training import TrainState
from consilo.jobs.job import Job
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.kernel.roles import Arrays
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.wire.params import num_bytes
from consilo.wire.parcel import Answer, Parcel
from silos.node.warm_up import warm
from silos.simulation.in_memory import InMemorySilo

INPUTS = 8
ROUNDS = 3  # what one round leaves behind shows in the next


def forked(answer: Answer, folder: Path) -> Answer:
    """Return the same answer, made in a child process whose memory ends with it."""

    def ask(parcel: Parcel) -> Parcel:
        header, body = folder / "header", folder / "body"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                reply = answer(parcel)
                header.write_bytes(reply.header)
                body.write_bytes(reply.body)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError("a silo's process failed; its traceback is above")
        return Parcel(header.read_bytes(), body.read_bytes())

    return ask


def setting(width: int, silos: int) -> tuple[Job, Contract]:
    """Return a job whose perceptron has two hidden layers of ``width``, and its contract."""
    columns: dict[str, Any] = {f"x{place}": {"type": "float"} for place in range(INPUTS)}
    columns["label"] = {"type": "integer", "allowed": [0, 1], "role": "target"}
    contract = Contract.model_validate({"name": "memory", "version": 1, "columns": columns})
    job = Job.from_json(
        {
            "name": "memory",
            "contract": contract.ref,
            "model": {
                "name": "consilo.learners.tabular:MLP",
                "args": {"hidden": [width, width]},
            },
            "features": {"standardize": "silo"},
            "protocol": {"name": "fedavg", "rounds": ROUNDS},
            "local": {"batch_size": 4, "steps": 1, "lr": 0.01},
            "quorum": {"min_silos": silos, "deadline": 600.0},
        }
    )
    return job, contract


def peak_models(width: int, silos: int) -> tuple[float, float, float]:
    """Return peak memory in models, the model's bytes, and the round's seconds."""
    warm()
    job, contract = setting(width, silos)
    names = tuple(f"silo{place:02d}" for place in range(silos))
    gc.collect()
    before = reset_peak()
    rng = np.random.default_rng(0)
    shapes = {
        "layers.0.weight": (width, INPUTS),
        "layers.0.bias": (width,),
        "layers.2.weight": (width, width),
        "layers.2.bias": (width,),
        "layers.4.weight": (1, width),
        "layers.4.bias": (1,),
    }
    params = {
        name: rng.standard_normal(shape, np.float32) * np.float32(0.01)
        for name, shape in shapes.items()
    }
    model_bytes = num_bytes(params)
    with tempfile.TemporaryDirectory(prefix="consilo-memory-") as folder:
        hosts = [InMemorySilo(name, prepared=_rows(rng)) for name in names]
        transport = LocalTransport(
            {each.name: forked(answerer(each), Path(folder)) for each in hosts}
        )
        fed = Federation(names, job, contract, transport.online)
        kernel = Kernel(
            transport, run_id="memory", job=job, contract=contract, observe=lambda _: None
        )
        started = time.perf_counter()
        driven = kernel.drive("fedavg", FedAvg.from_job(job), fed, TrainState(params, ROUNDS))
        del params
        for checkpoint in driven:
            del checkpoint
        seconds = (time.perf_counter() - started) / ROUNDS
    return (peak_bytes() - before) / model_bytes, float(model_bytes), seconds


def _rows(rng: np.random.Generator) -> Arrays:
    return {
        "fingerprint": np.zeros(32, np.uint8),
        "train_features": rng.standard_normal((8, INPUTS), np.float32),
        "train_targets": np.arange(8) % 2,
        "test_features": rng.standard_normal((4, INPUTS), np.float32),
        "test_targets": np.arange(4) % 2,
    }


def main() -> int:
    """Run from the command line."""
    chosen = options(__doc__).parse_args()
    load = load_now()
    width, many = sized(chosen, full=(5000, 20), quick=(1600, 5), smoke=(200, 4))
    found = {}
    for silos in (3, many):
        if chosen.size == "smoke":  # here: a process of its own would import everything again
            found[silos] = peak_models(width, silos)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found[silos] = pool.submit(peak_models, width, silos).result()
        say(f"{silos} silos: {found[silos][0]:.2f} models, {found[silos][2]:.1f} s")
    figures = {
        "model_mib": found[many][1] / 2**20,
        "silos": float(many),
        "peak_models": found[many][0],
        "peak_models_few": found[3][0],
        "s_per_round": found[many][2],
    }
    ratios = {"growth_with_silos": found[many][0] / found[3][0]}
    Report("memory", chosen.size, load, figures, ratios).show(as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
