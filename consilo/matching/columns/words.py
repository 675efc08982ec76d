"""The words of column names: what is shortened, what is noise, which words are related."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import JaroWinkler

Floats = np.ndarray[Any, np.dtype[np.float64]]

MEANINGS = {
    "adm": "admission",
    "alc": "alcohol",
    "avg": "mean",
    "average": "mean",
    "birthdate": "birth date",
    "bp": "blood pressure",
    "bps": "blood pressure",
    "cat": "category",
    "cd": "code",
    "clin": "clinical",
    "diag": "diagnosis",
    "dist": "distant",
    "dob": "birth date",
    "dt": "date",
    "dx": "diagnosis",
    "ecg": "electrocardiogram",
    "ekg": "electrocardiogram",
    "followup": "follow up",
    "gender": "sex",
    "hgb": "hemoglobin",
    "hgt": "height",
    "hr": "heart rate",
    "icu": "intensive care unit",
    "ihc": "immunohistochemistry",
    "max": "highest",
    "mets": "metastasis",
    "min": "lowest",
    "no": "number",
    "nr": "number",
    "num": "number",
    "pat": "patient",
    "path": "pathologic",
    "patho": "pathologic",
    "pathological": "pathologic",
    "pct": "percent",
    "pt": "patient",
    "rbp": "resting blood pressure",
    "reg": "regional",
    "sbp": "systolic blood pressure",
    "dbp": "diastolic blood pressure",
    "se": "standard error",
    "secondhand": "second hand",
    "stderr": "standard error",
    "temp": "temperature",
    "wgt": "weight",
    "wt": "weight",
    "yr": "year",
    "yrs": "years",
}
"""What people shorten in column names."""

_RELATED = (
    "address street location",
    "admission hospitalisation hospitalization",
    "age year years",
    "alcohol drinker drinking drinks",
    "alive living survival vital",
    "amount sum value total balance",
    "birth born",
    "blood serum plasma",
    "centimetre cm mm dimension diameter length width thickness height",
    "cholesterol lipid",
    "consumption intake use intensity frequency",
    "count number quantity total",
    "country nation nationality residence citizenship",
    "date day days time datetime timestamp",
    "death dead deceased died mortality fatal",
    "diagnosis disease condition disorder histologic histology morphology",
    "education school degree",
    "examined tested investigated",
    "finding findings result results",
    "glucose sugar",
    "grade grading differentiation",
    "income salary wage earnings",
    "inflammation inflam inflammatory",
    "invasion infiltration involvement extension",
    "job occupation profession employment",
    "largest greatest highest maximum biggest",
    "marital married spouse",
    "metastasis metastases metastatic",
    "mobile phone telephone",
    "necrosis necrotic",
    "node nodes nodal",
    "origin birth birthplace",
    "passive second environmental",
    "patient subject participant person case client customer",
    "percent fraction proportion share ratio percentage",
    "postcode postal zip",
    "presence present identified positive indicator flag",
    "price cost fee charge",
    "prior previous history former",
    "race ethnicity ethnic ancestry",
    "recurrence relapse progression",
    "site location organ region anatomic",
    "size dimension diameter length extent measurement",
    "smallest lowest minimum",
    "smoking smoker smoked smoke tobacco cigarette cigarettes",
    "stage staging",
    "start onset begin beginning first",
    "status state",
    "stop quit end ended cessation last",
    "surgery operation resection procedure",
    "tissue organ specimen sample",
    "treatment therapy therapeutic regimen drug medication",
    "tumor tumour cancer neoplasm lesion malignancy carcinoma",
    "type kind category class subtype",
    "weight mass",
)
"""Words that may stand for each other; they were written down by hand, with the words of clinics
and of banks in mind."""

_NOISE = frozenset({"the", "of", "a", "an", "in", "and", "by", "is", "where", "for", "at", "to"})
_GENERATED = re.compile(
    r"^(?:f|x|v|c|col|column|field|var|unnamed)?[ _:.-]*\d+$|^unnamed[ _:.-]*\d+.*$", re.IGNORECASE
)
_RELATED_IS = 0.85
_BEGINS_IS = 0.8
_STEM_IS = 0.95
_NEAR = 0.9
"""Below this, two words share letters and nothing else."""
_ENDINGS = ("ations", "ation", "ical", "ing", "ies", "ed", "al", "ic", "es", "er", "s")


def is_generated(name: str) -> bool:
    """Return whether a name only counts: ``f3``, ``Unnamed: 2``, ``17``; it tells nothing."""
    return bool(_GENERATED.match(name.strip()))


@cache
def words(name: str) -> tuple[str, ...]:
    """Return the words of a name in small letters: ``meanRadius_SE`` → mean, radius, standard, …"""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    parts = re.findall(r"[^\W_]+", split.lower())
    meant = [word for part in parts for word in MEANINGS.get(part, part).split()]
    return tuple(word for word in meant if word not in _NOISE) or tuple(parts)


@cache
def stem(word: str) -> str:
    """Return a word without its ending, of four letters or more."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def word_likeness(vocabulary: Sequence[str]) -> Floats:
    """Return how alike any two words are, from 0 to 1; (words, words), symmetric.

    One for the same word, less for related ones, one that the other begins with, or a typing
    mistake.
    """
    near = process.cdist(
        vocabulary, vocabulary, scorer=JaroWinkler.similarity, score_cutoff=_NEAR, dtype=np.float64
    )
    likeness = np.asarray(near)
    long_enough = np.array([len(each) > 3 and not each.isdigit() for each in vocabulary], bool)
    likeness = np.where(np.outer(long_enough, long_enough), likeness, 0.0)
    place = {word: index for index, word in enumerate(vocabulary)}

    def alike(group: Sequence[str], score: float) -> None:
        there = [place[word] for word in group if word in place]
        for one in there:
            likeness[one, there] = np.maximum(likeness[one, there], score)

    for related in _RELATED:
        alike(related.split(), _RELATED_IS)
    stems: dict[str, list[str]] = {}
    for word in vocabulary:
        stems.setdefault(stem(word), []).append(word)
    for group in stems.values():
        alike(group, _STEM_IS)
    ordered = sorted(vocabulary)
    for at, word in enumerate(ordered):
        if len(word) < 3 or word.isdigit():
            continue
        for longer in ordered[at + 1 :]:
            if not longer.startswith(word):
                break
            alike((word, longer), _BEGINS_IS)
    np.fill_diagonal(likeness, 1.0)
    return np.asarray(np.maximum(likeness, likeness.T))
