"""Refuse what cannot work before any message is sent, with every reason at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, IncompatibleJob, ModelDiverged
from consilo.horizontal.features import Encoding, unbounded
from consilo.horizontal.learning import learner_of
from consilo.horizontal.training import Training
from consilo.jobs.job import Job
from consilo.learners.torch_learner import TorchLearner
from consilo.privacy.dpsgd import check_private
from consilo.protocols.names import find_protocol
from consilo.reduce import Gives


@dataclass(frozen=True)
class Plan:
    """A job whose parts fit together.

    Args:
        encoding: how rows become inputs and targets.
        learner: the untrained model, deterministic by the job's seed.
        protocol: the coordinator half.
    """

    encoding: Encoding
    learner: TorchLearner
    protocol: Training


def plan(
    job: Job, contract: Contract, silos: Sequence[str], search_path: Sequence[Path] = ()
) -> Plan:
    """Return the plan of a run.

    Args:
        job: what shall be run.
        contract: what the data obey.
        silos: who is registered.
        search_path: where the job's own modules lie.

    Raises:
        IncompatibleJob: with every reason why the parts cannot work together.
    """
    faults: list[str] = []
    encoding = _collect(faults, lambda: Encoding.plan(contract, job))
    protocol = _collect(faults, lambda: _protocol(job, search_path))
    learner = None
    if encoding is not None:
        usable: Encoding = encoding
        learner = _collect(faults, lambda: learner_of(job, usable, search_path))
    if learner is not None:
        built: TorchLearner = learner
        _collect(faults, lambda: _rehearse(built, num_inputs=len(usable.inputs)))
    if learner is not None and job.privacy is not None:
        private: TorchLearner = learner
        _collect(faults, lambda: check_private(private.model))
    if encoding is not None and job.privacy is not None:
        faults += _statistics_faults(job, contract, encoding)
    if job.reduce.secure:
        faults.append("reduce.secure: this version has no secure sum; set secure: false")
    if protocol is not None:
        faults += refuse_reduction(
            job.protocol.name, needs_vectors=protocol.needs_vectors, gives=protocol.reduce.gives
        )
    faults += _quorum_faults(job, silos)
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise IncompatibleJob(f"job {job.name} cannot run:{listed}")
    return Plan(*(part for part in (encoding, learner, protocol) if part is not None))


def refuse_reduction(name: str, *, needs_vectors: bool, gives: Gives) -> list[str]:
    """Return why a protocol cannot use a reduction: one that sees only a sum feeds no ranking."""
    if needs_vectors and gives == "sum":
        return [
            f"protocol.name: {name} compares single silos' updates, the reduction reveals only "
            "their sum; choose a plain reduction or a protocol that needs a sum"
        ]
    return []


def _protocol(job: Job, search_path: Sequence[Path]) -> Training:
    kind = find_protocol(job.protocol.name, search_path)
    if not issubclass(kind, Training):
        raise IncompatibleJob(f"protocol.name: '{job.protocol.name}' does not train a model")
    protocol = kind.from_job(job)
    protocol.prepare()
    return protocol


def _rehearse(learner: TorchLearner, *, num_inputs: int) -> None:
    """Find the loss and run the model once, so that a wrong shape costs no round.

    NaN is left to the silos: the model may be sound on real rows.
    """
    learner.task.loss_of(learner.model)
    with suppress(ModelDiverged):
        learner.predict(np.zeros((2, num_inputs), np.float32))


def _statistics_faults(job: Job, contract: Contract, encoding: Encoding) -> list[str]:
    """Return why statistics cannot be differentially private."""
    asked = job.privacy is not None and job.privacy.statistics_epsilon is not None
    if asked and job.features.standardize == "global" and encoding.open_ended:
        return [f"privacy.statistics_epsilon: {unbounded(contract, encoding)}"]
    return []


def _quorum_faults(job: Job, silos: Sequence[str]) -> list[str]:
    faults = []
    if silos and job.quorum.min_silos > len(silos):
        faults.append(
            f"quorum.min_silos: {job.quorum.min_silos} silos are needed, {len(silos)} are "
            f"registered ({', '.join(silos)})"
        )
    unknown = [name for name in job.quorum.mandatory if silos and name not in silos]
    if unknown:
        faults.append(
            f"quorum.mandatory: not registered: {', '.join(unknown)}; registered: "
            f"{', '.join(silos)}"
        )
    return faults


def _collect(faults: list[str], make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ConsiloError as cause:
        faults.append(str(cause))
        return None
