"""What standardises a silo's inputs, and the target of a regression.

Inputs: what is sent with the question, or what the silo's own training rows say.

Under differential privacy a scale shapes every gradient, so that it is public (the contract's
ranges, what the coordinator sends) or noisy and paid for: a silo's own costs the job's
``privacy.statistics_epsilon`` once a run, and is kept for all its rounds. It does not leave.

Target: without a scale one of millions makes the first step diverge, and one far from 0 is learnt
as its offset and nothing else. What is told stays in its own units. A loss of a user's own is about
the values that it was written for, so that they are scaled for it only where the job says so.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob, Refused
from consilo.horizontal.dataset import Rows, rows_of, training_rows
from consilo.horizontal.features import Encoding, Scale, target_range
from consilo.horizontal.statistics import private_statistics, ranges_of, reserve_noise
from consilo.jobs.joint import JointJob
from consilo.jobs.model_job import ModelJob
from consilo.kernel.view import SiloView
from consilo.privacy.sums import Sums
from consilo.wire.payload import pack, unpack

TargetMode = Literal["global", "contract", "none"]
_KEPT = "scale"
_MECHANISM = "gaussian_scale"
_NARROWEST = 1e-3
"""Of half a column's range: noise can make a variance as good as zero."""


def scaled_rows(silo: SiloView, encoding: Encoding, sent: Scale | None) -> Rows:
    """Return the silo's rows, standardised by what was sent, or by the silo's own scale.

    Args:
        silo: whose rows.
        encoding: as the job asks for it.
        sent: with the question; None asks for the silo's own.

    Raises:
        Refused: where the job is private, and pays for no statistics or has no ranges for them; and
            where what was sent is no scale of the columns.
        BudgetExhausted: where they cannot be paid.
    """
    if sent is not None:
        _require_of_columns(sent, encoding)
    if sent is not None or silo.job.privacy is None:
        return rows_of(silo, encoding, sent)
    if not private_statistics(silo):
        raise Refused(
            "a silo's own scale is computed from its rows, which a private job pays for: give "
            "privacy.statistics_epsilon, or features.standardize 'contract' or 'global'",
            code="privacy",
        )
    return rows_of(silo, encoding, _private_scale(silo, encoding))


def _require_of_columns(sent: Scale, encoding: Encoding) -> None:
    """Raise `Refused` unless a scale has two finite numbers a column, the second above 0.

    With one for each row a message could keep single rows, and what a row becomes would depend on
    how many lie before it.
    """
    size = (len(encoding.numeric),)
    for name, each in sent.to_payload().items():
        if each.shape != size or each.dtype.kind not in "fiu" or not np.isfinite(each).all():
            raise Refused(
                f"the scale's {name} must be {size[0]} finite numbers, one a numeric column; its "
                f"shape is {each.shape}",
                code="scale",
            )
    if not (sent.deviation > 0).all():
        raise Refused("the scale's deviations must be above 0", code="scale")


def _private_scale(silo: SiloView, encoding: Encoding) -> Scale:
    """Return this run's noisy scale, made and paid for at the first call."""
    known = silo.kept(_KEPT)
    if known is not None:
        return Scale.from_payload(unpack(known))
    low, high = ranges_of(silo, encoding)
    training, mark = training_rows(silo, encoding), hashlib.sha256()
    sums = Sums.of(np.empty((0, len(low))), low=low, high=high, rows=training.count)
    for block, weights in training.blocks():
        values = encoding.raw_numeric(block)
        mark.update(values.tobytes())
        if weights is not None:
            mark.update(weights.tobytes())
        sums = sums.plus(Sums.of(values, low=low, high=high, weights=weights, rows=0))
    if not sums.vector.size:
        return Scale.unit(0)
    sigma, stream = reserve_noise(silo, _MECHANISM, mark.hexdigest(), sums.rows)
    count, mean, squares = sums.noisy(sigma, stream).moments()
    least = (_NARROWEST * (high - low) / 2.0) ** 2
    scale = Scale.of_moments(mean, np.maximum(squares / np.maximum(count, 1.0), least))
    silo.keep(_KEPT, pack(scale.to_payload()))
    return scale


def target_mode(job: ModelJob, contract: Contract, *, own_loss: bool) -> TargetMode:
    """Return by what a job's target is standardised.

    Args:
        job: what is trained.
        contract: gives the target's range.
        own_loss: whether a user's loss is used.

    Raises:
        IncompatibleJob: where it must be by the target's range, and the contract gives none.
    """
    asked = job.features.standardize_target
    if job.task != "regression" or (asked is None and own_loss):
        return "none"
    # In a vertical job the label silo scales its own target, so that no moment leaves it.
    stays = not isinstance(job, JointJob) and job.features.standardize in ("silo", "contract")
    mode = asked or ("contract" if job.privacy is not None or stays else "global")
    if mode == "contract" and target_range(contract) is None:
        why = "with privacy" if job.privacy is not None else "where no moments leave the silos"
        said = "'contract'" if asked else f"{why}, the target is standardised by its range"
        also = "" if job.privacy is not None else "'global' (its mean and deviation leave), or "
        raise IncompatibleJob(
            f"features.standardize_target: {said}, and {contract.ref} gives no range with min and "
            f"max for {', '.join(contract.targets)}; give one, or say {also}'none'"
        )
    return mode


def scale_of_target(contract: Contract, mode: TargetMode, moments: Scale | None) -> Scale | None:
    """Return what standardises the target; None where it is learnt as it is.

    Args:
        contract: gives its range.
        mode: of `target_mode`.
        moments: its mean and deviation, where ``mode`` is ``global``.
    """
    if mode == "contract":
        return target_range(contract)
    return moments if mode == "global" else None
