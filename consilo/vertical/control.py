"""Does the join carry the gain? A shuffled join must be worth no more than the label silo alone.

If a model gains as much from other silos' rows in a wrong order, its gain does not come from whose
rows they are: something else leaks, such as an order of the rows that goes with the labels.
"""

from __future__ import annotations

from collections.abc import Mapping

_HIGHER_IS_BETTER = ("roc_auc", "r2", "accuracy")
_BY_CHANCE = 0.02
"""What a figure between 0 and 1 may gain by chance on a few hundred held-out rows."""


def control(metrics: Mapping[str, float]) -> str:
    """Return what is wrong with a comparison; empty where nothing is, or nothing was compared.

    Args:
        metrics: ``joined/…``, ``label_only/…``, ``shuffled/…``.

    >>> control({"joined/roc_auc": 0.8, "label_only/roc_auc": 0.7, "shuffled/roc_auc": 0.69})
    ''
    """
    for name in _HIGHER_IS_BETTER:
        found = [metrics.get(f"{way}/{name}") for way in ("joined", "label_only", "shuffled")]
        joined, alone, shuffled = found
        if joined is None or alone is None or shuffled is None:
            continue
        if shuffled > alone + max(_BY_CHANCE, (joined - alone) / 2):
            return (
                f"the shuffled join gains too ({name}: joined {joined:.4f}, label silo alone "
                f"{alone:.4f}, shuffled {shuffled:.4f}): the gain does not come from whose rows "
                "are joined; look for an order of the rows that goes with the labels"
            )
        return ""
    return ""
