"""The rows of one silo as a learner wants them: encoded once, split for ever, read from a map."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from consilo.errors import SchemaDrift
from consilo.features import Encoding, Scale, split_rows
from consilo.learners.torch_learner import Arrays
from consilo.silo import SiloView
from consilo.wire import digest

if TYPE_CHECKING:
    import pandas as pd


def training_frame(silo: SiloView, encoding: Encoding) -> pd.DataFrame:
    """Return the canonical rows that this silo trains on; the held-out ones are not among them."""
    frame, train, _ = _split(silo, encoding)
    return frame.iloc[train]


def local_scale(silo: SiloView, encoding: Encoding) -> Scale:
    """Return the z-score's scale of this silo's own training rows (deviation with ddof 1)."""
    raw = encoding.raw_numeric(training_frame(silo, encoding))
    with np.errstate(all="ignore"):
        count = np.maximum(np.sum(~np.isnan(raw), axis=0), 2)
        mean = np.nansum(raw, axis=0) / np.maximum(np.sum(~np.isnan(raw), axis=0), 1)
        variance = np.nansum((raw - mean) ** 2, axis=0) / (count - 1)
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


def rows_of(silo: SiloView, scale: Scale | None) -> Rows:
    """Return the silo's rows, encoded once and kept for later rounds.

    Args:
        silo: whose rows.
        scale: the global one; None takes the silo's own.
    """
    encoding = Encoding.plan(silo.contract, silo.job)
    job = silo.job
    said = None if scale is None else [scale.mean.tolist(), scale.deviation.tolist()]
    key = digest(
        [
            silo.contract.digest,
            job.features.model_dump(mode="json"),
            job.evaluation.holdout,
            job.task,
            job.seed,
            silo.name,
            said,
        ]
    )

    def build() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
        frame, train, test = _split(silo, encoding)
        used = local_scale(silo, encoding) if scale is None else scale
        inputs, targets = encoding.features(frame, used), encoding.target(frame)
        learnt, answers = inputs[train], targets[train]
        mark = hashlib.sha256(learnt.tobytes() + answers.tobytes()).digest()
        return {
            "train_features": learnt,
            "train_targets": answers,
            "test_features": inputs[test],
            "test_targets": targets[test],
            "fingerprint": np.frombuffer(mark, dtype=np.uint8),
        }

    kept = silo.host.encoded(silo.contract, key, build, purpose=silo.job.purpose)
    return Rows(
        Arrays(kept["train_features"], kept["train_targets"]),
        Arrays(kept["test_features"], kept["test_targets"]),
        kept["fingerprint"].tobytes().hex(),
    )


def _split(silo: SiloView, encoding: Encoding) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    frame = encoding.usable(silo.host.frame(silo.contract, purpose=silo.job.purpose))
    if not len(frame):
        raise SchemaDrift(
            "no row is left to learn from: every row lacks a feature; "
            "set the job's features.missing to 'mean' or 'indicator'"
        )
    labels = encoding.target(frame)
    train, test = split_rows(
        labels,
        holdout=silo.job.evaluation.holdout,
        seed=silo.job.seed,
        silo=silo.name,
        stratify=bool(encoding.classes),
    )
    return frame, train, test
