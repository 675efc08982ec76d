"""What standardises a silo's inputs: sent with the question, or of the silo's own training rows.

Under differential privacy a scale shapes every gradient, so that it is public (the contract's
ranges, what the coordinator sends) or noisy and paid for: a silo's own costs the job's
``privacy.statistics_epsilon`` once a run, and is kept for all its rounds. It does not leave.
"""

from __future__ import annotations

import hashlib

import numpy as np

from consilo.errors import Refused
from consilo.horizontal.dataset import Rows, rows_of, training_rows
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.statistics import private_statistics, ranges_of, reserve_noise
from consilo.kernel.view import SiloView
from consilo.privacy.sums import Sums
from consilo.wire.payload import pack, unpack

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
        Refused: where the job is private, and pays for no statistics or has no ranges for them.
        BudgetExhausted: where they cannot be paid.
    """
    if sent is not None or silo.job.privacy is None:
        return rows_of(silo, encoding, sent)
    if not private_statistics(silo):
        raise Refused(
            "a silo's own scale is computed from its rows, which a private job pays for: give "
            "privacy.statistics_epsilon, or features.standardize 'contract' or 'global'",
            code="privacy",
        )
    return rows_of(silo, encoding, _private_scale(silo, encoding))


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
