"""What crosses the cut between bottom and top models: as it is, or in a few bits per number.

Each column of a batch gets its own range; a number becomes one of ``2**bits`` levels by stochastic
rounding, so that what arrives is right on average (QSGD, Alistarh et al. 2017, with uniform levels
between the ends).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from consilo.errors import ModelDiverged, ReplyInvalid

Array = npt.NDArray[Any]


def quantized(values: Array, bits: int | None, rng: np.random.Generator) -> dict[str, Any]:
    """Return a batch as it crosses the cut.

    Args:
        values: float32, [rows, width].
        bits: 1 to 8 per number; None sends float32.
        rng: of the rounding; it may be public.

    Raises:
        ModelDiverged: where a value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise ModelDiverged(
            "the training diverged: what would cross the cut layer is NaN or infinite; lower "
            "local.lr, and scale columns and target"
        )
    if bits is None:
        return {"values": np.asarray(values, np.float32)}
    wide = np.asarray(values, np.float64)
    low = wide.min(axis=0, initial=np.inf) if len(wide) else np.zeros(wide.shape[1])
    high = wide.max(axis=0, initial=-np.inf) if len(wide) else low
    step = np.where(high > low, (high - low) / (2**bits - 1), 1.0)
    level = np.floor((wide - low) / step + rng.random(wide.shape)).clip(0, 2**bits - 1)
    flags = np.unpackbits(level.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]
    return {
        "packed": np.packbits(flags),
        "low": low.astype(np.float32),
        "step": step.astype(np.float32),
        "bits": bits,
    }


def restored(sent: Mapping[str, Any], rows: int, width: int) -> Array:
    """Return the batch that `quantized` sent, float32, [rows, width].

    Raises:
        ReplyInvalid: where it is no such batch.
    """
    try:
        if "values" in sent:
            batch = np.asarray(sent["values"], np.float32).reshape(rows, width)
        else:
            bits = int(sent["bits"])
            if not 1 <= bits <= 8:
                raise ValueError("not 1 to 8 bits")
            if sent["packed"].size != -(-rows * width * bits // 8):
                raise ValueError("too short or too long")
            if sent["low"].shape != (width,) or sent["step"].shape != (width,):
                raise ValueError("not a range for each column")
            flags = np.unpackbits(sent["packed"], count=rows * width * bits).reshape(-1, bits)
            weights = 2.0 ** np.arange(bits - 1, -1, -1)
            levels = (flags @ weights).reshape(rows, width)
            batch = (sent["low"] + levels * sent["step"]).astype(np.float32)
    except (KeyError, ValueError, TypeError, AttributeError) as cause:
        raise ReplyInvalid("what crossed the cut layer is no batch of the agreed size") from cause
    if batch.shape != (rows, width) or not np.isfinite(batch).all():
        raise ReplyInvalid("what crossed the cut layer is no batch of the agreed size")
    return batch
