"""A finished run as the beginning of another: which job goes on with it, and from what state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from consilo.errors import IncompatibleJob, RecordTampered, RunNotResumable
from consilo.horizontal.training import TrainState
from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job
from consilo.kernel.protocol import Protocol
from consilo.protocols.names import NAMES
from consilo.record.run_record import read, verify
from consilo.runs.checkpoint import CHECKPOINT, read_checkpoint
from consilo.wire import params as tree

_MAY_DIFFER = ("continues", "quorum", "exclude", "description", "promotion")


@dataclass(frozen=True)
class Stood:
    """Where a run stood when it ended.

    Args:
        state: of the training.
        num_examples: silo → rows.
    """

    state: TrainState
    num_examples: Mapping[str, int]


def extended(runs: Path, run_id: str, *, rounds: int, epsilon: float | None = None) -> Horizontal:
    """Return the job that goes on with a finished run.

    Args:
        runs: the folder of the coordinator's runs.
        run_id: the run.
        rounds: how many more.
        epsilon: of a private job: what all of its runs together may cost.

    Raises:
        RunNotResumable: where there is no such run, or it has not ended.
        IncompatibleJob: where nobody could go on with it.
    """
    closing, opened = _ended(runs / run_id)
    stated = {"card": opened["card"]} if opened.get("card") else {}
    job = Job.from_json({**opened["job"], **stated})
    if not isinstance(job, Horizontal):
        raise IncompatibleJob(
            f"{run_id}: only a horizontal job's run can be extended, this one is of the kind "
            f"{job.kind}"
            + ("; its silos erased what they held of the model's training when it ended"
               if job.kind == "vertical" else "; it trains nothing")
        )  # fmt: skip
    changes: dict[str, Any] = {}
    if job.privacy is None and epsilon is not None:
        raise IncompatibleJob(f"{run_id}: epsilon is for a private job, and this one has no ε")
    if job.privacy is not None:
        cost = max((each["epsilon"] or 0.0 for each in closing["silos"].values()), default=0.0)
        if epsilon is None or epsilon <= job.privacy.epsilon:
            raise IncompatibleJob(
                f"{run_id}: more rounds of a private job cost more: say by epsilon what all runs "
                f"together may cost, above the {job.privacy.epsilon:g} that its job allowed (at "
                f"most {cost:.4g} was spent)"
            )
        changes["privacy"] = {"epsilon": epsilon}
    last = read(runs / run_id / "record.jsonl")[-1]["hash"]
    done = _checkpoint(runs / run_id)[0].round
    return job.changed(
        **changes,
        protocol={"rounds": done + rounds},
        continues={"runs": [*job.earlier_runs, run_id], "rounds": done, "record": last},
    )


def stood(job: Horizontal, contract_digest: str, runs: Path, public_key: bytes) -> Stood:
    """Return where the run stood that a job goes on with.

    Args:
        job: names it.
        contract_digest: of the contract that the job is run under.
        runs: the folder of the coordinator's runs.
        public_key: the coordinator's raw Ed25519 key, which has signed its record.

    Raises:
        RunNotResumable: where it is not here, or has not ended.
        RecordTampered: where its record, or its last state, is not what the coordinator left.
        IncompatibleJob: where the job is another one, or its silos would lack what they kept.
    """
    assert job.continues is not None
    run_id, *_ = reversed(job.continues.runs)
    place = runs / run_id
    _, opened = _ended(place, public_key)
    entries = read(place / "record.jsonl")
    if entries[-1]["hash"] != job.continues.record:
        raise RecordTampered(f"{run_id}: its record ends with another line than the job names")
    before = Job.from_json(opened["job"])
    changed = _changed(before, job)
    changed += ["contract"] if opened["contract_digest"] != contract_digest else []
    if changed:
        raise IncompatibleJob(
            f"{run_id} was run by another job: {', '.join(changed)} differ; go on with it as it "
            "was ('consilo job extend'), or start a new run"
        )
    state, num_examples = _checkpoint(place)
    rounds = [each["body"] for each in entries if each["kind"] == "round"]
    told = {each["round"]: each["params"] for each in rounds}
    if told.get(state.round) != tree.digest({**state.params, **state.buffers}):
        raise RecordTampered(f"{run_id}: its last state is not the one that its record names")
    if state.round != job.continues.rounds:
        raise IncompatibleJob(
            f"continues.rounds: {run_id} has done {state.round}, the job says "
            f"{job.continues.rounds}"
        )
    return Stood(replace(state, rounds=job.protocol.rounds), num_examples)


def require_continuable(name: str, protocol: Protocol[Any]) -> None:
    """Raise `IncompatibleJob` where silos would lack what they kept in the run before."""
    if name not in NAMES and not protocol.may_continue:
        raise IncompatibleJob(
            f"protocol.name: what silos keep from round to round of '{name}' was erased at the end "
            "of the run that shall be extended; if they keep nothing that a new run would lack, "
            "say may_continue = True in the class"
        )


def _ended(place: Path, public_key: bytes | None = None) -> tuple[Any, Any]:
    """Return the bodies of the last and the first line of a run that has ended."""
    path = place / "record.jsonl"
    if not path.is_file():
        raise RunNotResumable(f"{place.name}: no run of this name is kept here")
    entries = read(path)
    if not entries or entries[-1]["kind"] != "closed":
        raise RunNotResumable(
            f"{place.name}: the run has not ended; go on with it: consilo job run … --resume "
            f"{place.name}"
        )
    closing = verify(path, public_key)
    if not (place / CHECKPOINT).is_file():
        raise RunNotResumable(f"{place.name}: it has done no round that one could go on from")
    return closing, entries[0]["body"]


def _checkpoint(place: Path) -> tuple[TrainState, dict[str, int]]:
    """Return where a run stood, and how many rows each silo had.

    Raises:
        RecordTampered: where its checkpoint is not as it was written.
    """
    kept = read_checkpoint(place) or {}
    return TrainState.from_payload(kept["state"]), dict(kept["num_examples"])


def _changed(before: Job, job: Job) -> list[str]:
    """Return the sections in which two jobs differ that one run may not go on with."""
    old, new = ({k: v for k, v in each.to_json().items() if k not in _MAY_DIFFER}
                for each in (before, job))  # fmt: skip
    for each, keys in (("protocol", ("rounds",)), ("privacy", ("epsilon",))):
        for value in (old, new):
            if isinstance(value.get(each), dict):
                value[each] = {k: v for k, v in value[each].items() if k not in keys}
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
