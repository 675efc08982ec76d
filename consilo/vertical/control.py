"""Does the join carry the gain? A shuffled join must be worth no more than the label silo alone.

If a model gains as much from other silos' rows in a wrong order, its gain does not come from whose
rows they are: something else leaks, such as an order of the rows that goes with the labels.
"""

from __future__ import annotations

from collections.abc import Mapping

LEAST_ROWS = 1000
_HIGHER_IS_BETTER = ("roc_auc", "r2", "accuracy")


def control(metrics: Mapping[str, float], *, rows: int) -> str:
    """Return what is wrong with a comparison; empty where nothing is, or nothing was compared.

    Args:
        metrics: ``joined/…``, ``label_only/…``, ``shuffled/…``.
        rows: on which they were judged. By chance a figure of n rows moves by about 0.5 / √n
            (standard deviation of a share), the difference of two by √2 of that; three of those are
            borne, and of fewer than `LEAST_ROWS` nothing is said: there one class may be a handful.

    >>> figures = {"joined/roc_auc": 0.8, "label_only/roc_auc": 0.7, "shuffled/roc_auc": 0.69}
    >>> control(figures, rows=1000)
    ''
    """
    if rows < LEAST_ROWS:
        return ""
    by_chance = 3 * 0.5 * (2 / rows) ** 0.5
    for name in _HIGHER_IS_BETTER:
        figures = [metrics.get(f"{way}/{name}") for way in ("joined", "label_only", "shuffled")]
        joined, alone, shuffled = figures
        if joined is None or alone is None or shuffled is None:
            continue
        if shuffled > alone + max(by_chance, (joined - alone) / 2):
            return (
                f"the shuffled join gains too ({name}: joined {joined:.4f}, label silo alone "
                f"{alone:.4f}, shuffled {shuffled:.4f}): the gain does not come from whose rows "
                "are joined; look for an order of the rows that goes with the labels"
            )
        return ""
    return ""
