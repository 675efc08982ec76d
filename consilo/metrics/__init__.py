"""Figures of merit, and the sums from which a federation computes them for all silos together.

A *tally* holds sums over rows only: numbers that may leave a silo and that add up, so
``metrics_of(merge(tallies))`` is the metric of the pooled rows, not a mean of local metrics. What
ranks rows (ROC AUC, precision by recall, calibration) comes from histograms of the scores per label
(256 bins, uniform in the logit over [-8, 8], the outer bins open): it is that of scores rounded to
the bins, and within 2e-3 of the exact one unless the scores crowd into a few bins.

Outputs are a model's raw outputs: logits for the classification tasks. All arrays are numpy.

>>> import numpy as np
>>> north = tally("binary", np.array([2.0, -1.0]), np.array([1, 0]))
>>> south = tally("binary", np.array([0.5, 0.1]), np.array([0, 1]))
>>> whole = metrics_of(merge([north, south]))
>>> whole["accuracy"], whole["roc_auc"], whole["recall"]
(0.75, 0.75, 1.0)
"""

from consilo.metrics.figures import (
    NUM_SILOS,
    SILO_MEAN,
    all_of,
    constant_of,
    intervals_of,
    metrics_of,
)
from consilo.metrics.noise import MOST_NOISE, NOISE, is_noisy, noise_of
from consilo.metrics.rows import accuracy, log_loss, mae, r2, rmse, roc_auc, row_log_losses
from consilo.metrics.tallies import (
    MAX_LOGIT,
    MOST_CLASSES,
    NUM_BINS,
    Own,
    Tally,
    TaskKind,
    merge,
    own_tally,
    tally,
)

__all__ = [
    "MAX_LOGIT",
    "MOST_CLASSES",
    "MOST_NOISE",
    "NOISE",
    "NUM_BINS",
    "NUM_SILOS",
    "SILO_MEAN",
    "Own",
    "Tally",
    "TaskKind",
    "accuracy",
    "all_of",
    "constant_of",
    "intervals_of",
    "is_noisy",
    "log_loss",
    "mae",
    "merge",
    "metrics_of",
    "noise_of",
    "own_tally",
    "r2",
    "rmse",
    "roc_auc",
    "row_log_losses",
    "tally",
]
