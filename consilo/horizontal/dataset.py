"""The rows of one silo as a learner wants them: encoded once, split for ever, read from a map."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from consilo.errors import IncompatibleJob, Refused, SchemaDrift
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.holdout import (
    NEITHER,
    PURPOSE,
    TEST,
    TRAIN,
    Words,
    numbers,
    sides,
    subjects_of,
)
from consilo.horizontal.subjects import Floats, Ints, Subjects, at_most
from consilo.jobs.table_job import TableJob
from consilo.kernel.roles import Built
from consilo.kernel.view import SiloView
from consilo.learners.torch_learner import Arrays
from consilo.wire.payload import digest
from consilo.wire.piecewise import Parts

if TYPE_CHECKING:
    import pandas as pd


BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class TrainingRows:
    """The canonical rows that a silo trains on; the held-out ones are not among them.

    Args:
        count: how many of the job's units of privacy they are: rows, or subjects. It is public,
            and never more than there are rows.
    """

    count: int
    _split: _Split

    @property
    def left_out(self) -> int:
        """How many rows with a target are on neither side of the job's split.

        Those count that are held out by name, and whose subject is learnt from.
        """
        return self._split.left_out

    def blocks(self) -> Iterator[tuple[pd.DataFrame, Floats | None]]:
        """Yield the rows in order, a block at a time, and what each weighs; None is 1.

        Memory is that of a block, whatever the table's size.
        """
        return self._split.weighted(self._split.train)


def training_rows(silo: SiloView, encoding: Encoding) -> TrainingRows:
    """Return the canonical rows that this silo trains on.

    Raises:
        Refused: where the job hides subjects, and the contract names none; or is over matched rows.
    """
    _require_own_rows(silo)
    split = _split(silo, encoding)
    return TrainingRows(split.train.count, split)


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


def held_out_columns(silo: SiloView, encoding: Encoding, names: Sequence[str]) -> pd.DataFrame:
    """Return some columns of the rows that are held out, in the order of `Rows.test`."""
    import pandas as pd

    split = _split(silo, encoding)
    return pd.concat([block[list(names)] for block in split.blocks(split.test)], ignore_index=True)


@dataclass(frozen=True)
class Rows:
    """A silo's encoded rows; memory-mapped.

    Args:
        train: what is learnt from.
        test: what is held out.
        fingerprint: SHA-256 of the training rows, in hexadecimal; it stays in the silo.
        train_subjects: whose the training rows are, where the job hides subjects; else None.
        test_subjects: the same of the rows held out.
    """

    train: Arrays
    test: Arrays
    fingerprint: str
    train_subjects: Subjects | None = None
    test_subjects: Subjects | None = None

    @property
    def num_train(self) -> int:
        """Training rows, or their subjects where the job hides subjects; public."""
        return len(self.train) if self.train_subjects is None else self.train_subjects.count

    @property
    def num_test(self) -> int:
        """Rows held out, or their subjects where the job hides subjects; public."""
        return len(self.test) if self.test_subjects is None else self.test_subjects.count


def rows_of(silo: SiloView, encoding: Encoding, scale: Scale | None) -> Rows:
    """Return the silo's rows, encoded once and kept for later rounds.

    Args:
        silo: whose rows.
        encoding: as the job asks for it; planned once a message.
        scale: the global one; None takes the silo's own, exactly.

    Raises:
        Refused: where a private job asks for the silo's own exact scale, or is over matched rows.
    """
    _require_own_rows(silo)
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
            *_of_subjects(silo),
        ]
    )

    def build() -> Built:
        split = _split(silo, encoding)
        used = local_scale(silo, encoding) if scale is None else scale
        return _encoded(split, encoding, used)

    found = silo.rows.encoded(silo.contract, key, build, purpose=silo.job.purpose)
    # A host that keeps nothing hands back what was built.
    kept = {name: np.asarray(value) for name, value in found.items()}
    whose: list[Subjects | None] = [None, None]
    if job.hides_subjects:
        if not {"train_subjects", "test_subjects"} <= set(kept):
            raise Refused("it is not known here whose the prepared rows are", code="privacy")
        whose = [Subjects(kept["train_subjects"]), Subjects(kept["test_subjects"])]
    return Rows(
        Arrays(kept["train_features"], kept["train_targets"]),
        Arrays(kept["test_features"], kept["test_targets"]),
        kept["fingerprint"].tobytes().hex(),
        *whose,
    )


def _require_own_rows(silo: SiloView) -> None:
    """Raise `Refused` in a job over matched rows: the gate has judged those, and these are all."""
    if silo.job.rows != "part":
        raise Refused(
            f"'{silo.header.protocol}' is of a silo's own rows; a {silo.job.kind} job is about "
            "those that are matched",
            code="verb",
        )


def _of_subjects(silo: SiloView) -> list[object]:
    """Return what the encoded rows depend on besides, where subjects count."""
    job = TableJob.of(silo.job)
    if silo.contract.subject is None or not (job.hides_subjects or job.evaluation.split):
        return []
    return ["subjects", job.privacy.max_rows_per_subject if job.privacy is not None else None]


@dataclass(frozen=True)
class _Side:
    """Some of the rows that can be learnt from.

    Args:
        places: among them, sorted.
        subjects: whose they are; None where each row counts as one.
    """

    places: Ints
    subjects: Subjects | None = None

    @property
    def count(self) -> int:
        """How many rows, or subjects, they are."""
        return len(self.places) if self.subjects is None else self.subjects.count

    @property
    def weights(self) -> Floats | None:
        """What each weighs; None is 1."""
        return None if self.subjects is None else self.subjects.weights


@dataclass(frozen=True)
class _Split:
    """Which of a silo's rows are learnt from, and which are held out.

    Args:
        frame: the canonical rows, mapped from a file.
        encoding: says which of them can be learnt from.
        train: what is learnt from.
        test: what is held out.
        left_out: how many rows are on neither side, or judge nothing since their subject is learnt
            from.
    """

    frame: pd.DataFrame
    encoding: Encoding
    train: _Side
    test: _Side
    left_out: int = 0

    def blocks(self, side: _Side) -> Iterator[pd.DataFrame]:
        """Yield some of the rows that can be learnt from, in order, a block at a time."""
        return (block for block, _ in self.weighted(side))

    def weighted(self, side: _Side) -> Iterator[tuple[pd.DataFrame, Floats | None]]:
        """Yield the same, and what each row weighs."""
        start, rows, weights = 0, side.places, side.weights
        for block in _usable_blocks(self.frame, self.encoding):
            first, last = np.searchsorted(rows, [start, start + len(block)])
            part = None if weights is None else weights[first:last]
            yield block.iloc[rows[first:last] - start], part
            start += len(block)


def _usable_blocks(frame: pd.DataFrame, encoding: Encoding) -> Iterator[pd.DataFrame]:
    for start in range(0, len(frame), BLOCK_ROWS):
        yield encoding.usable(frame.iloc[start : start + BLOCK_ROWS])


def _split(silo: SiloView, encoding: Encoding) -> _Split:
    job, key = TableJob.of(silo.job), silo.secrets.lasting(PURPOSE)
    try:
        job.require_subject(silo.contract)
    except IncompatibleJob as cause:
        raise Refused(str(cause), code="privacy") from cause
    frame = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
    side = np.concatenate(
        [
            np.zeros(0, np.int8),
            *(
                sides(block, silo.contract, job.evaluation, key)
                for block in _usable_blocks(frame, encoding)
            ),
        ]
    )
    if not len(side):
        raise SchemaDrift(
            "no row is left to learn from: every row lacks its target or a feature; for features "
            "set the job's features.missing to 'mean' or 'indicator'"
        )
    train, test = np.flatnonzero(side == TRAIN), np.flatnonzero(side == TEST)
    left_out = int(np.sum(side == NEITHER))
    if silo.contract.subject is None or not (job.hides_subjects or job.evaluation.split):
        return _Split(frame, encoding, _Side(train), _Side(test), left_out)
    subjects, rows = _whose(silo, frame, encoding)
    # A column may say of one subject both; then it is learnt from, and not judged by.
    judges = ~np.isin(subjects[test], subjects[train])
    left_out += int(np.sum(~judges))
    test = test[judges]
    if job.privacy is None or job.privacy.max_rows_per_subject is None:
        return _Split(frame, encoding, _Side(train), _Side(test), left_out)
    most = job.privacy.max_rows_per_subject
    train, test = (at_most(each, subjects, rows, most) for each in (train, test))
    return _Split(
        frame,
        encoding,
        _Side(train, Subjects.of(subjects[train])),
        _Side(test, Subjects.of(subjects[test])),
        left_out,
    )


def _whose(silo: SiloView, frame: pd.DataFrame, encoding: Encoding) -> tuple[Words, Words]:
    """Return of each row that can be learnt from its subject's number, and its own."""
    contract = silo.contract
    key = hmac.digest(silo.secrets.lasting(PURPOSE), b"subjects", "sha256")
    subjects, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for block in _usable_blocks(frame, encoding):
        subjects.append(subjects_of(block, contract, key))
        rows.append(numbers(block, contract.table, key))
    return np.concatenate(subjects), np.concatenate(rows)


def _encoded(split: _Split, encoding: Encoding, scale: Scale) -> Built:
    """Return a learner's arrays, each to be made piece by piece."""
    marks: dict[str, bytes] = {}

    def features(rows: _Side) -> Iterator[np.ndarray]:
        mark = hashlib.sha256()
        for block in split.blocks(rows):
            piece = encoding.features(block, scale)
            mark.update(piece.tobytes())
            yield piece
        if rows is split.train:
            for piece in targets(rows):
                mark.update(piece.tobytes())
            if rows.subjects is not None:
                mark.update(rows.subjects.codes.tobytes())
            marks["train"] = mark.digest()

    def targets(rows: _Side) -> Iterator[np.ndarray]:
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
            (len(rows.places), width), np.dtype(np.float32), partial(features, rows)
        )
        made[f"{name}_targets"] = Parts(
            (len(rows.places), *like.shape[1:]), like.dtype, partial(targets, rows)
        )
        if rows.subjects is not None:
            codes = rows.subjects.codes
            made[f"{name}_subjects"] = Parts(codes.shape, codes.dtype, partial(_once, codes))
    mark = Parts((hashlib.sha256().digest_size,), np.dtype(np.uint8), fingerprint)
    return {**made, "fingerprint": mark}


def _once(values: np.ndarray) -> Iterator[np.ndarray]:
    yield values
