"""Which columns correspond: five tumour studies against the 736 columns of the GDC standard.

Each study's columns are described as a silo would (`silos.metadata.draft`: type, unit, codes that 5
rows hold; all of them released) and matched with the standard's, of which the data give names and,
for 356, the values; neither side has a description. A column is right at top 1 where the best
candidate is one of its true ones; recall at 10 counts true pairs. Without ``--data`` a smoke run
makes up columns.

    top1, recall_at_10           the weights as they are
    STUDY_top1, STUDY_recall_at_10
                                 of one study
    held_out_top1, held_out_recall_at_10
                                 weights found on four studies, tried on the fifth; all five so
    name_only_top1, name_only_recall_at_10
                                 the names alone, with abbreviations and related words
    codes_only_top1, text_only_top1
                                 the codes alone, and the names' letters as we compare them
    spelling_top1                the names' letters alone (rapidfuzz, ratio)
    top1_vs_spelling             the weights over that
    no_thesaurus_held_out_top1, no_thesaurus_held_out_recall_at_10
                                 as held out, without abbreviations and related words
    seconds                      to compare all five studies with the standard
    values_raw_NUMBER_rows, values_eps_1_NUMBER_rows
                                 23 numeric columns of one table, its rows cut in two, told apart by
                                 their histograms alone: as counted, and at ε 1 for each half
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from made_up import STUDIES, fate, gdc
from rapidfuzz import fuzz
from report import Report, load_now, options, say, sized
from scipy.optimize import linear_sum_assignment

from consilo.correspondence import words
from consilo.correspondence.cards import BINS, Card, Span, edges
from consilo.correspondence.score import WEIGHTS, combined, signs
from consilo.correspondence.signals import by_values
from consilo.correspondence.words import Floats
from consilo.privacy.accounting import noise_multiplier
from consilo.privacy.noise import SecretStream
from consilo.privacy.sums import noisy_histogram
from silos.metadata import Described, draft

GRID = [
    {"name": 1.0, "codes": codes, "text": text, "kind": kind}
    for codes, text, kind in product((0.4, 0.6, 0.8, 1.0, 1.25), (0.15, 0.25, 0.4), (0.2, 0.3, 0.5))
]


@dataclass(frozen=True)
class Study:
    """One study.

    Args:
        cards: what its owner says of its columns.
        truth: column → the standard's columns that mean the same.
    """

    cards: tuple[Card, ...]
    truth: Mapping[str, frozenset[str]]

    @property
    def rows(self) -> list[int]:
        """The places of the columns whose truth is known."""
        return [place for place, card in enumerate(self.cards) if card.name in self.truth]


def standard(folder: Path) -> tuple[Card, ...]:
    """Return the standard's columns."""
    table = pd.read_csv(folder / "gdc_target.csv.gz", dtype=str, keep_default_na=False)
    found = []
    for name in table.columns:
        codes = sorted({each[:160] for each in table[name] if each and each.isprintable()})
        found.append(Card(name=name, type="category" if codes else None, codes=tuple(codes)))
    return tuple(found)


def study(folder: Path) -> Study:
    """Return the study in a folder."""
    rows = pd.read_csv(next(folder.glob("source.csv*")), dtype=str)
    said = draft(rows).items()
    truth: dict[str, set[str]] = {}
    pairs = pd.read_csv(folder / "groundtruth.csv", dtype=str)
    for source, target in pairs.itertuples(index=False):
        truth.setdefault(source.strip(), set()).add(target.strip())
    return Study(
        tuple(Described.model_validate(each).card("", name) for name, each in said),
        {name: frozenset(each) for name, each in truth.items()},
    )


@dataclass(frozen=True)
class Score:
    """How many were right.

    Args:
        columns: with a known truth.
        best: of them, whose best candidate is right.
        pairs: true ones.
        found: of them, among the best ten.
    """

    columns: int = 0
    best: int = 0
    pairs: int = 0
    found: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.columns + other.columns,
            self.best + other.best,
            self.pairs + other.pairs,
            self.found + other.found,
        )

    def figures(self, prefix: str = "") -> dict[str, float]:
        """Return the shares that were right, by name."""
        return {
            f"{prefix}top1": round(self.best / self.columns, 4),
            f"{prefix}recall_at_10": round(self.found / self.pairs, 4),
        }


def judge(matrix: Floats, of: Study, names: Sequence[str]) -> Score:
    """Return how well a matrix (the study's columns, the standard's) finds the truth."""
    rank = np.argsort(np.argsort(names))
    total = Score()
    for row in of.rows:
        true = of.truth[of.cards[row].name]
        best = [names[i] for i in np.lexsort((rank, -np.round(matrix[row], 9)))[:10]]
        total += Score(1, best[0] in true, len(true), len(true & set(best)))
    return total


def held_out(scores: Mapping[str, Sequence[Score]]) -> Score:
    """Return the sum over studies of what the weights do that are best for the other four."""
    total = Score()
    for name in scores:
        others = [
            sum((scores[n][g] for n in scores if n != name), Score()) for g in range(len(GRID))
        ]
        value = [sum(each.figures().values()) for each in others]
        total += scores[name][int(np.argmax(value))]
    return total


def by_histograms(folder: Path, num_rows: int, epsilon: float | None, seeds: int = 10) -> float:
    """Return the share of nameless columns that an assignment by histograms gets right.

    Args:
        folder: of the table's two parts, standardised columns.
        num_rows: of each of the two halves.
        epsilon: that each half pays for all its histograms, at δ 1e-5; None adds no noise.
        seeds: ways to cut the rows in two.
    """
    parts = (pd.read_csv(folder / f"default_credit_hetero_{p}.csv.gz") for p in ("guest", "host"))
    table = np.hstack([part.drop(columns=["id", "y"], errors="ignore") for part in parts])
    span = Span(min=-3, max=5)
    cards = [Card(name=f"x{i}", type="float", range=span) for i in range(table.shape[1])]
    sigma = epsilon and noise_multiplier(
        target_epsilon=epsilon, delta=1e-5, sample_rate=1.0, steps=1, accountant="prv"
    )
    right = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(table))
        halves = table[order[:num_rows]], table[order[-num_rows:]]
        told = []
        for half, rows in enumerate(halves):
            bins = np.searchsorted(edges(span)[1:-1], rows, side="right")
            counts = {
                card.name: np.bincount(bins[:, i], minlength=BINS).astype(np.float64)
                for i, card in enumerate(cards)
            }
            stream = SecretStream(bytes([seed, half]) + bytes(30), "benchmark")
            told.append(noisy_histogram(counts, sigma, stream) if sigma else counts)
        found, _ = by_values(cards, cards, *told)
        ours, theirs = linear_sum_assignment(-found)
        right.append(float((ours == theirs).mean()))
    return round(float(np.mean(right)), 4)


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, help="a folder that has gdc/ and, if you like, fate/")
    given = parser.parse_args()
    if given.data is not None:
        if not (given.data / "gdc").is_dir():
            parser.error(f"there is no gdc/ in {given.data}; name a folder that has it")
        report = measure(given.data, given)
    elif given.size == "smoke":
        say("columns are made up")
        with tempfile.TemporaryDirectory(prefix="feature-match-") as made:
            report = measure(fate(gdc(Path(made))), given)
    else:
        parser.error("name with --data the folder that has gdc/; a smoke run needs none")
    report.show(as_json=given.json)
    return 0


def measure(data: Path, given: argparse.Namespace) -> Report:
    """Return the report over what lies in ``data``."""
    load, left_out, folder = load_now(), {}, data / "gdc"
    target = standard(folder)
    names = [card.name for card in target]
    studies = {name: study(folder / name) for name in STUDIES}

    def total(score: Callable[[str], Floats]) -> Score:
        return sum((judge(score(name), studies[name], names) for name in STUDIES), Score())

    def tuned(found: Mapping[str, Mapping[str, Floats]]) -> Score:
        return held_out({
            name: [judge(combined(found[name], weights), studies[name], names) for weights in GRID]
            for name in STUDIES
        })  # fmt: skip

    started = time.perf_counter()
    found = {name: signs(each.cards, target) for name, each in studies.items()}
    figures = {"seconds": round(time.perf_counter() - started, 2)}
    say("scored")
    figures |= total(lambda name: combined(found[name], WEIGHTS)).figures()
    figures |= tuned(found).figures("held_out_")
    figures |= total(lambda name: found[name]["name"]).figures("name_only_")
    figures |= total(lambda name: found[name]["codes"]).figures("codes_only_")
    figures |= total(lambda name: found[name]["text"]).figures("text_only_")
    figures |= total(
        lambda name: np.array(
            [[fuzz.ratio(a.name.lower(), b.name.lower()) for b in target]
             for a in studies[name].cards]
        )
    ).figures("spelling_")  # fmt: skip
    if given.size == "quick":
        for figure in ("top1", "recall_at_10"):
            left_out[f"no_thesaurus_held_out_{figure}"] = "quick size"
    else:
        say("without the thesaurus")
        words.words.cache_clear()
        with mock.patch.dict(words.MEANINGS, clear=True), mock.patch.object(words, "_RELATED", ()):
            plain = {name: signs(each.cards, target) for name, each in studies.items()}
        words.words.cache_clear()
        figures |= tuned(plain).figures("no_thesaurus_held_out_")
    if not (data / "fate").is_dir():
        for figure in ("raw", "eps_1"):
            left_out[f"values_{figure}_NUMBER_rows"] = f"there is no fate/ in {data}"
    else:
        say("histograms")
        for num_rows in sized(given, full=(15000, 5000, 2000, 1000), quick=(2000,), smoke=(100,)):
            for label, epsilon in (("raw", None), ("eps_1", 1.0)):
                found_share = by_histograms(data / "fate", num_rows, epsilon)
                figures[f"values_{label}_{num_rows}_rows"] = found_share
    for name in STUDIES:
        one = judge(combined(found[name], WEIGHTS), studies[name], names)
        figures |= one.figures(f"{name}_")
    ratios = {"top1_vs_spelling": round(figures["top1"] / figures["spelling_top1"], 2)}
    return Report("feature_match", given.size, load, figures, ratios, left_out)


if __name__ == "__main__":
    sys.exit(main())
