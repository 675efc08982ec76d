"""Noisy histograms of columns that people here have released and paid for, kept to be sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from consilo.machine.files import write_atomic
from consilo.matching.columns.cards import Card, width_of
from silos.kept.metadata import shared_cards

HISTOGRAMS_FILE = "histograms.json"

Floats = np.ndarray[Any, np.dtype[np.float64]]


def kept_histograms(directory: Path) -> dict[str, Floats]:
    """Return the kept histograms of columns that are released, with the bins that they have now."""
    stored = _stored(directory)
    found = {}
    for card in shared_cards(directory):
        entry = stored.get(card.data, {}).get(card.name)
        if entry is not None and entry["bins"] == bins_digest(card):
            found[card.key] = np.asarray(entry["counts"], np.float64)
    return found


def keep_histograms(
    directory: Path,
    data: str,
    columns: Sequence[Card],
    noisy: Mapping[str, Floats],
    *,
    epsilon: float,
) -> None:
    """Keep the noisy counts of a data set's columns, by the column's name."""
    stored = _stored(directory)
    kept = stored.setdefault(data, {})
    for card in columns:
        kept[card.name] = {
            "bins": bins_digest(card),
            "counts": noisy[card.name].tolist(),
            "epsilon": epsilon,
        }
    write_atomic(directory / HISTOGRAMS_FILE, json.dumps(stored).encode(), mode=0o600)


def bins_digest(card: Card) -> str:
    """Return what names a histogram's bins."""
    span = None if card.range is None else [card.range.min, card.range.max]
    codes = list(card.codes) if card.range is None else []
    return hashlib.sha256(json.dumps([width_of(card), span, codes]).encode()).hexdigest()


def _stored(directory: Path) -> dict[str, Any]:
    path = directory / HISTOGRAMS_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
