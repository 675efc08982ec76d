"""The rows of one silo as a learner wants them: encoded once, split for ever, read from a map."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from consilo.errors import Refused, SchemaDrift
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.holdout import PURPOSE, held_out
from consilo.jobs.table_job import TableJob
from consilo.kernel.roles import Built
from consilo.kernel.view import SiloView
from consilo.learners.torch_learner import Arrays
from consilo.wire.payload import digest
from consilo.wire.piecewise import Parts

if TYPE_CHECKING:
    import pandas as pd


BLOCK_ROWS = 65_536


def training_blocks(silo: SiloView, encoding: Encoding) -> Iterator[pd.DataFrame]:
    """Yield the canonical rows that this silo trains on, in order, a block at a time.

    The held-out rows are not among them. Memory is that of a block, whatever the table's size.
    """
    split = _split(silo, encoding)
    return split.blocks(split.train)


def local_scale(silo: SiloView, encoding: Encoding) -> Scale:
    """Return the z-score's scale of this silo's own training rows (deviation with ddof 1)."""
    split = _split(silo, encoding)
    size = len(encoding.numeric)
    count, total, squares = np.zeros(size), np.zeros(size), np.zeros(size)
    with np.errstate(all="ignore"):
        for block in split.blocks(split.train):
            raw = encoding.raw_numeric(block)
            count += np.sum(~np.isnan(raw), axis=0)
            total += np.nansum(raw, axis=0)
        mean = total / np.maximum(count, 1)
        for block in split.blocks(split.train):
            squares += np.nansum((encoding.raw_numeric(block) - mean) ** 2, axis=0)
        variance = squares / (np.maximum(count, 2) - 1)
    return Scale.of_moments(mean, variance)


@dataclass(frozen=True)
class Rows:
    """A silo's encoded rows; memory-mapped.

    Args:
        train: what is learnt from.
        test: what is held out.
        fingerprint: SHA-256 of the training rows, in hexadecimal; it stays in the silo.
    """

    train: Arrays
    test: Arrays
    fingerprint: str


def rows_of(silo: SiloView, encoding: Encoding, scale: Scale | None) -> Rows:
    """Return the silo's rows, encoded once and kept for later rounds.

    Args:
        silo: whose rows.
        encoding: as the job asks for it; planned once a message.
        scale: the global one; None takes the silo's own, exactly.

    Raises:
        Refused: where a private job asks for the silo's own exact scale.
    """
    job = TableJob.of(silo.job)
    if scale is None and job.privacy is not None:
        raise Refused("a private job uses no exact moments of a silo", code="privacy")
    said = None if scale is None else [scale.mean.tolist(), scale.deviation.tolist()]
    key = digest(
        [
            silo.contract.digest,
            job.features.model_dump(mode="json"),
            job.evaluation.model_dump(mode="json"),
            hashlib.sha256(silo.secrets.lasting(PURPOSE)).hexdigest(),
            job.task,
            silo.name,
            said,
        ]
    )

    def build() -> Built:
        split = _split(silo, encoding)
        used = local_scale(silo, encoding) if scale is None else scale
        return _encoded(split, encoding, used)

    found = silo.rows.encoded(silo.contract, key, build, purpose=silo.job.purpose)
    # A host that keeps nothing hands back what was built.
    kept = {name: np.asarray(value) for name, value in found.items()}
    return Rows(
        Arrays(kept["train_features"], kept["train_targets"]),
        Arrays(kept["test_features"], kept["test_targets"]),
        kept["fingerprint"].tobytes().hex(),
    )


@dataclass(frozen=True)
class _Split:
    """Which of a silo's rows are learnt from, and which are held out.

    Args:
        frame: the canonical rows, mapped from a file.
        encoding: says which of them can be learnt from.
        train: places among the rows that can be learnt from, sorted.
        test: the same, of those held out.
    """

    frame: pd.DataFrame
    encoding: Encoding
    train: np.ndarray
    test: np.ndarray

    def blocks(self, rows: np.ndarray) -> Iterator[pd.DataFrame]:
        """Yield some of the rows that can be learnt from, in order, a block at a time."""
        start = 0
        for block in _usable_blocks(self.frame, self.encoding):
            first, last = np.searchsorted(rows, [start, start + len(block)])
            yield block.iloc[rows[first:last] - start]
            start += len(block)


def _usable_blocks(frame: pd.DataFrame, encoding: Encoding) -> Iterator[pd.DataFrame]:
    for start in range(0, len(frame), BLOCK_ROWS):
        yield encoding.usable(frame.iloc[start : start + BLOCK_ROWS])


def _split(silo: SiloView, encoding: Encoding) -> _Split:
    frame = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
    job, key = TableJob.of(silo.job), silo.secrets.lasting(PURPOSE)
    held = np.concatenate(
        [
            np.zeros(0, bool),
            *(
                held_out(block, silo.contract, job.evaluation, key)
                for block in _usable_blocks(frame, encoding)
            ),
        ]
    )
    if not len(held):
        raise SchemaDrift(
            "no row is left to learn from: every row lacks its target or a feature; for features "
            "set the job's features.missing to 'mean' or 'indicator'"
        )
    return _Split(frame, encoding, np.flatnonzero(~held), np.flatnonzero(held))


def _encoded(split: _Split, encoding: Encoding, scale: Scale) -> Built:
    """Return a learner's arrays, each to be made piece by piece."""
    marks: dict[str, bytes] = {}

    def features(rows: np.ndarray) -> Iterator[np.ndarray]:
        mark = hashlib.sha256()
        for block in split.blocks(rows):
            piece = encoding.features(block, scale)
            mark.update(piece.tobytes())
            yield piece
        if rows is split.train:
            for piece in targets(rows):
                mark.update(piece.tobytes())
            marks["train"] = mark.digest()

    def targets(rows: np.ndarray) -> Iterator[np.ndarray]:
        for block in split.blocks(rows):
            yield encoding.target(block)

    def fingerprint() -> Iterator[np.ndarray]:
        if "train" not in marks:  # whoever keeps the features has had them hashed on the way
            deque(features(split.train), maxlen=0)
        yield np.frombuffer(marks["train"], dtype=np.uint8)

    like = encoding.target(split.frame.iloc[:0])
    width = len(encoding.inputs)
    made: dict[str, Parts] = {}
    for name, rows in (("train", split.train), ("test", split.test)):
        made[f"{name}_features"] = Parts(
            (len(rows), width), np.dtype(np.float32), partial(features, rows)
        )
        made[f"{name}_targets"] = Parts(
            (len(rows), *like.shape[1:]), like.dtype, partial(targets, rows)
        )
    mark = Parts((hashlib.sha256().digest_size,), np.dtype(np.uint8), fingerprint)
    return {**made, "fingerprint": mark}
