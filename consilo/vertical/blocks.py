"""Who holds which columns, and one silo's columns of the matched rows in the joint order.

A vertical job has one contract for the whole table. Each feature column is held by one silo, the
target by the label silo; a silo's part of the contract is what it must keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from consilo.config import Config, parse
from consilo.contracts.contract import Contract
from consilo.contracts.rules import twice
from consilo.errors import IncompatibleJob, JobInvalid, Refused
from consilo.horizontal.features import Encoding, Scale
from consilo.jobs.job import Job
from consilo.jobs.match import HANDLE, Match
from consilo.kernel.view import SiloView
from consilo.matching.roles import match_of
from consilo.wire.payload import digest

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]


class Holders(Config):
    """Who holds what: the part of ``protocol.args`` that every vertical protocol has."""

    match: str = Field(pattern=HANDLE, description="handle of the match, the same in all silos")
    label_silo: str = Field(description="who holds the target; it learns the result")
    columns: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        min_length=2, description="silo → the feature columns that it holds"
    )
    missing_blocks: Literal["refuse", "leave_out"] = Field(
        "refuse",
        description="what a feature silo that is missing when a run begins does to it; leave_out: "
        "the model is trained without its columns",
    )

    release_top: bool = Field(
        False,
        description="let the label silo's part go to the model registry, where its policy lets "
        "updates leave; otherwise the registry holds references only",
    )

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        held = [name for names in self.columns.values() for name in names]
        if twice(held):
            raise ValueError(f"columns: held twice: {', '.join(sorted(twice(held)))}")
        if self.label_silo not in self.columns:
            raise ValueError(
                f"label_silo: '{self.label_silo}' holds no columns; expected one of "
                f"{', '.join(self.columns)}"
            )
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """Every silo of the job, sorted."""
        return tuple(sorted(self.columns))

    @property
    def feature_silos(self) -> tuple[str, ...]:
        """The silos without the target, sorted."""
        return tuple(name for name in self.members if name != self.label_silo)

    @property
    def parties(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The label silo, the feature silos, and everybody."""
        return self.label_silo, self.feature_silos, self.members

    def require_fit(self, contract: Contract) -> None:
        """Raise `IncompatibleJob` unless every feature of the contract is held by a silo."""
        held = {name for names in self.columns.values() for name in names}
        faults = [f"'{name}' is no feature" for name in sorted(held - set(contract.features))]
        if self.missing_blocks == "refuse":
            faults += [f"nobody holds '{name}'" for name in contract.features if name not in held]
        if faults:
            raise IncompatibleJob(
                f"protocol.args.columns do not fit {contract.ref}: {'; '.join(faults[:5])}"
            )

    def part(self, contract: Contract, silo: str) -> Contract:
        """Return the part of a contract that one silo must keep.

        Columns of other silos are ignored, not left out: a mapping to the whole contract fits.
        Targets and ids are the label silo's: an id names the rows of its scores. Rules about
        columns of other silos are left out; a rule about several is too, unless the silo holds all
        of them.
        """
        if silo not in self.columns:
            raise IncompatibleJob(f"protocol.args.columns: silo '{silo}' holds nothing")
        names = set(self.columns[silo])
        if silo == self.label_silo:
            names |= set(contract.targets)
            names |= {n for n, each in contract.columns.items() if each.role == "id"}
        rules = contract.rules
        fresh = rules.freshness
        kept = rules.model_copy(
            update={
                "unique": tuple(each for each in rules.unique if set(each.columns) <= names),
                "class_balance": rules.class_balance if silo == self.label_silo else None,
                "freshness": fresh if fresh and fresh.column in names else None,
                "cross_column": tuple(
                    each
                    for each in rules.cross_column
                    if {each.left, each.right if isinstance(each.right, str) else each.left}
                    <= names
                ),
            }
        )
        others = set(contract.columns) - names
        return _ignoring(contract, others).model_copy(update={"rules": kept})


def part_of(job: Job, contract: Contract, silo: str) -> Contract:
    """Return what one silo must keep of a job's contract: all of it, unless the job is vertical.

    Raises:
        JobInvalid: where a vertical job does not say who holds what.
        IncompatibleJob: where the silo holds nothing.
    """
    if job.kind == "horizontal":
        return contract
    part = holders_of(job).part(contract, silo)
    return part if job.kind == "vertical" else without_target(part)


def holders_of(job: Job) -> Holders:
    """Return who holds what in a vertical or a scoring job.

    Raises:
        JobInvalid: where the job does not say it.
    """
    said = {key: value for key, value in job.protocol.args.items() if key in Holders.model_fields}
    return parse(Holders, said, where=f"{job.name}, protocol.args", error=JobInvalid)


def without_target(contract: Contract) -> Contract:
    """Return a contract without its targets: what rows keep that are to be scored."""
    rules = contract.rules.model_copy(update={"class_balance": None})
    return _ignoring(contract, set(contract.targets)).model_copy(update={"rules": rules})


def _ignoring(contract: Contract, names: Set[str]) -> Contract:
    """Return a contract whose canonical table has no columns of these names."""
    columns = {
        name: each.model_copy(update={"role": "ignore"}) if name in names else each
        for name, each in contract.columns.items()
    }
    return contract.model_copy(update={"columns": columns})


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
        targets: the label silo's: int64 classes or float32 values, [matched rows]; else empty.
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


def block_of(silo: SiloView, holders: Holders) -> Block:
    """Return the silo's block to train on, encoded once and kept for the run's later messages.

    Raises:
        Refused: where the match cannot be used.
        IncompatibleJob: where columns and contract do not fit.
    """
    holders.require_fit(silo.contract)
    require_all_rows(silo.job)
    part = holders.part(silo.contract, silo.name)
    match = match_for(silo, holders, part)
    has_labels = silo.name == holders.label_silo
    job = silo.job if has_labels else silo.job.changed(task="custom", outputs=1)
    encoding = Encoding.plan(part, job)

    def build() -> Mapping[str, Array]:
        frame = silo.rows.frame(part, purpose=silo.job.purpose).iloc[match.rows]
        match_of(silo, holders.match)  # a consent that changed meanwhile moves the rows
        scale = _scale(encoding, frame, silo.job.features.standardize)
        features = encoding.features(frame, scale)
        targets = encoding.target(frame) if has_labels else np.empty(0, np.float32)
        return {"features": features, "targets": targets, **scale.to_payload()}

    rows = match.rows.astype("<i8").tobytes()
    settings = silo.job.features.model_dump(mode="json")
    key = digest(["vertical", part.digest, settings, silo.job.task, digest(rows), silo.name])
    found = silo.rows.encoded(part, key, build, purpose=silo.job.purpose)
    features, targets = np.asarray(found["features"]), np.asarray(found["targets"])
    scale = Scale.from_payload(found)
    return Block(features, targets, encoding.inputs, match.mark, scale, encoding.classes)


def num_inputs(silo: SiloView, holders: Holders, name: str) -> int:
    """Return how many inputs the columns of a silo of the job make; the contract tells it."""
    job = silo.job.changed(task="custom", outputs=1)
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
    contract = part_of(silo.job, silo.contract, silo.name)
    match = match_for(silo, holders, contract)
    job = silo.job.changed(task="custom", outputs=1, features=features)
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


def require_all_rows(job: Job) -> None:
    """Raise `IncompatibleJob` where a silo would leave out rows by itself."""
    if job.features.missing == "drop":
        raise IncompatibleJob(
            "features.missing: rows that one silo drops the others cannot know; use 'mean' or "
            "'indicator' in a vertical job"
        )


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
