"""Who holds which columns, and one silo's columns of the matched rows in the joint order.

A vertical job has one contract for the whole table. Each feature column is held by one silo, the
target by the label silo; a silo's part of the contract is what it must keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob, Refused
from consilo.horizontal.features import Encoding, Scale
from consilo.jobs.holders import Holders
from consilo.jobs.match import Match
from consilo.jobs.model_job import ModelJob
from consilo.kernel.view import SiloView
from consilo.matching.roles import match_of
from consilo.wire.payload import digest

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]


def matched_with_all(silo: SiloView, holders: Holders) -> Match:
    """Return the silo's half of the job's match.

    Raises:
        Refused: where there is none that can be used, or it was made without one of the job's
            silos: what is told of its rows is for those alone who matched them.
    """
    match = match_of(silo, holders.match)
    strangers = sorted(set(holders.members) - {silo.name, *match.partners})
    if strangers:
        raise Refused(
            f"the match '{match.handle}' was not made with {', '.join(strangers)}", code="match"
        )
    return match


def match_for(silo: SiloView, holders: Holders, part: Contract) -> Match:
    """Return the silo's half of the job's match; its row numbers are those of ``part``'s rows.

    Raises:
        Refused: where there is none that can be used, it was made without one of the job's silos,
            or it counts the rows of another data set.
    """
    match = matched_with_all(silo, holders)
    if match.dataset != silo.rows.dataset(part):
        raise Refused(
            f"the match '{match.handle}' counts the rows of another data set than the one that "
            f"{part.ref} is mapped to; map both contracts to one data set, and match again",
            code="match",
        )
    return match


@dataclass(frozen=True)
class Block:
    """One silo's columns of the matched rows, in the joint order; memory-mapped.

    Args:
        features: float32, [matched rows, inputs]; numbers standardised over the matched rows.
        targets: the label silo's: int64 classes or float64 values, [matched rows]; else empty. A
            row without a label has the class -1, or NaN.
        inputs: names of the inputs.
        mark: of the match; equal marks are halves of one match.
        scale: what standardises the numeric columns.
        classes: the target's classes in the label silo; empty elsewhere and for values.
    """

    features: Array
    targets: Array
    inputs: tuple[str, ...]
    mark: str
    scale: Scale
    classes: tuple[Any, ...] = ()

    def __len__(self) -> int:
        """Return the number of matched rows."""
        return len(self.features)

    @property
    def labelled(self) -> Array:
        """Which rows have a label, bool, [matched rows]; in the label silo."""
        if self.classes:
            return np.asarray(self.targets >= 0)
        there = ~np.isnan(self.targets)
        return np.asarray(there if there.ndim == 1 else there.all(axis=1))


def block_of(silo: SiloView, holders: Holders) -> Block:
    """Return the silo's block to train on, encoded once and kept for the run's later messages.

    Raises:
        Refused: where the match cannot be used, or fewer rows have a label than the silo's policy
            wants what leaves to be made of.
        IncompatibleJob: where columns and contract do not fit.
    """
    holders.require_fit(silo.contract)
    asked = ModelJob.of(silo.job)
    require_all_rows(asked)
    part = holders.part(silo.contract, silo.name)
    match = match_for(silo, holders, part)
    has_labels = silo.name == holders.label_silo
    job = asked if has_labels else without_labels(asked)
    encoding = Encoding.plan(part, job)

    def build() -> Mapping[str, Array]:
        frame = silo.rows.frame(part, purpose=silo.job.purpose).iloc[match.rows]
        match_of(silo, holders.match)  # a consent that changed meanwhile moves the rows
        scale = _scale(encoding, frame, asked.features.standardize)
        features = encoding.features(frame, scale)
        targets = _targets(encoding, frame) if has_labels else np.empty(0, np.float32)
        return {"features": features, "targets": targets, **scale.to_payload()}

    rows = match.rows.astype("<i8").tobytes()
    settings = asked.features.model_dump(mode="json")
    key = digest(["vertical", part.digest, settings, asked.task, digest(rows), silo.name])
    encoded = silo.rows.encoded(part, key, build, purpose=silo.job.purpose)
    features, targets = np.asarray(encoded["features"]), np.asarray(encoded["targets"])
    scale = Scale.from_payload(encoded)
    block = Block(features, targets, encoding.inputs, match.mark, scale, encoding.classes)
    if has_labels:
        for each in silo.permitted.floors:
            silo.require_floor(each, int(block.labelled.sum()))
    return block


def without_labels(job: ModelJob, features: Mapping[str, Any] | None = None) -> ModelJob:
    """Return a job as it is about columns without a target.

    Args:
        job: any.
        features: another section of that name.
    """
    kept = {**(features or {}), "standardize_target": None}
    return job.changed(task="custom", outputs=1, features=kept)


def num_inputs(silo: SiloView, holders: Holders, name: str) -> int:
    """Return how many inputs the columns of a silo of the job make; the contract tells it."""
    job = without_labels(ModelJob.of(silo.job))
    return len(Encoding.plan(holders.part(silo.contract, name), job).inputs)


@dataclass(frozen=True)
class Batch:
    """One silo's matched rows that are to be scored, in the joint order.

    Args:
        features: float32, [matched rows, inputs], as the part was trained on them.
        names: in the label silo: numbers and ids of the rows; elsewhere their numbers.
        mark: of the match.
    """

    features: Array
    names: pd.DataFrame
    mark: str


def batch_of(
    silo: SiloView, holders: Holders, *, inputs: Sequence[str], features: Any, scale: Scale
) -> Batch:
    """Return the silo's rows of a match, encoded as a part of a model wants them.

    Args:
        silo: where.
        holders: of the scoring job.
        inputs: names of the part's inputs.
        features: the section ``features`` of the job that trained it.
        scale: the part's.

    Raises:
        Refused: where the match cannot be used, or the contract's columns are not the part's
            inputs.
    """
    contract = silo.job.part(silo.contract, silo.name)
    match = match_for(silo, holders, contract)
    job = without_labels(ModelJob.of(silo.job), features)
    encoding = Encoding.plan(contract, job)
    if tuple(inputs) != encoding.inputs:
        missing = sorted(set(inputs) ^ set(encoding.inputs))
        raise Refused(
            f"the model's part here was trained on other inputs than {silo.contract.ref} gives; "
            f"they differ in {', '.join(missing[:5]) or 'their order'}",
            code="model",
        )
    frame = silo.rows.frame(contract, purpose=silo.job.purpose).iloc[match.rows]
    match_of(silo, holders.match)  # a consent that changed meanwhile moves the rows
    ids = [name for name, each in contract.columns.items() if each.role == "id"]
    names = frame[ids].reset_index(drop=True)
    names.insert(0, "row", match.rows)
    return Batch(encoding.features(frame, scale), names, match.mark)


def require_all_rows(job: ModelJob) -> None:
    """Raise `IncompatibleJob` where a silo would leave out rows by itself."""
    if job.features.missing == "drop":
        raise IncompatibleJob(
            "features.missing: rows that one silo drops the others cannot know; use 'mean' or "
            "'indicator' in a vertical job"
        )


def _targets(encoding: Encoding, frame: pd.DataFrame) -> Array:
    """Return the targets as `Block` has them: a row without a label keeps its place."""
    known = ~frame[list(encoding.targets)].isna().any(axis=1).to_numpy(dtype=bool)
    told = encoding.target(frame[known])
    blank = -1 if encoding.classes else np.nan
    targets = np.full((len(frame), *told.shape[1:]), blank, told.dtype)
    targets[known] = told
    return targets


def _scale(encoding: Encoding, frame: Any, mode: str) -> Scale:
    """Return what standardises the silo's own columns; nothing leaves for it."""
    if mode == "none":
        return Scale.unit(len(encoding.numeric))
    if mode == "contract":
        return Scale.of_ranges(encoding)
    raw = encoding.raw_numeric(frame)
    there = ~np.isnan(raw)
    count = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, raw, 0.0).sum(axis=0) / count
    variance = np.where(there, (raw - mean) ** 2, 0.0).sum(axis=0) / count
    return Scale.of_moments(cast(Any, mean), cast(Any, variance))


def folds_of(num_rows: int, folds: int) -> Array:
    """Return each place's fold, int64: the joint order is a random one, so places take turns."""
    return np.arange(num_rows, dtype=np.int64) % folds
