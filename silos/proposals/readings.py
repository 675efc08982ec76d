"""How one local column could be read as one column of a contract: unit, codes, missing, dates.

A reading is proposed to a person, never applied unseen: what it guesses it says as a doubt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from consilo.contracts.codes import code_key
from consilo.contracts.contract import Column
from silos.proposals.likeness import words
from silos.proposals.profile import SENTINELS, Profile, Reading, as_written, number
from silos.proposals.quantities import quantity
from silos.rows.canonical import allowed_values

_YES = frozenset(
    ("yes", "y", "true", "t", "on", "ja", "j", "oui", "o", "si", "s", "tak", "pos", "positive")
) | {"present", "+"}
_NO = frozenset(
    ("no", "n", "false", "f", "off", "nein", "non", "nie", "neg", "negative", "absent", "-")
)
_ALSO = {
    "male": ("m", "man", "mann", "männlich", "maennlich", "boy"),
    "female": ("f", "w", "woman", "frau", "weiblich", "girl"),
    "malignant": ("m", "mal", "cancer"),
    "benign": ("b", "ben"),
}
_MOSTLY = 0.9
_MANY_CODES = 30


def best_reading(local: Profile, column: Column) -> Reading:
    """Return the reading of ``local`` as ``column`` that fits the contract best."""
    if not local.present:
        reason = "holds nothing in the rows looked at"
        return Reading(0.5, {}, (reason,), (f"the local column {reason}",))
    if column.classes is not None:
        return coded(local, column)
    if column.type in ("float", "integer"):
        return quantity(local, column)
    if column.type == "date":
        return _date(local, column)
    unlike = min(1.0, local.distinct / local.present)
    if column.role == "id":
        # A measure differs in every row as well; a surname is shared, and part of a key.
        if local.numeric_share > _MOSTLY and not np.all(local.numbers == np.round(local.numbers)):
            return Reading(0.1, {})
        return Reading(0.6 + 0.4 * unlike, {}, ("every value once",) if unlike == 1 else ())
    return Reading(0.6 if local.numeric_share > _MOSTLY else 0.8, {})


def coded(local: Profile, column: Column) -> Reading:
    """Return the best reading of a column of codes, for one whose values the contract lists."""
    return max(_code_readings(local, column), key=lambda each: each.fit)


def _code_readings(local: Profile, column: Column) -> Iterator[Reading]:
    allowed = {code_key(value): value for value in allowed_values(column)}
    yield _as_they_are(local, column, allowed)
    if local.distinct > _MANY_CODES:
        return
    labels = labels_of(column)
    yield _by_label(local, allowed, labels)
    if _binary(column):
        yield _yes_and_no(local, column)
        yield _above_zero(local, column)
    if local.distinct == len(allowed) and local.numeric_share == 1:
        ordered = sorted(local.codes, key=float)
        recode = {
            as_written(code): value for code, value in zip(ordered, allowed.values(), strict=True)
        }
        doubt = "the codes are matched by their order alone"
        yield Reading(0.3, {"recode": recode}, ("as many codes as the contract",), (doubt,))


def _as_they_are(local: Profile, column: Column, allowed: Mapping[str, Any]) -> Reading:
    codes = local.codes
    if column.type == "boolean":
        codes = {_truth(code) or code: n for code, n in codes.items()}
        allowed = {"true": True, "false": False}
    others = [code for code in codes if code not in allowed]
    known = [code for code in codes if code in allowed]
    coverage = len(known) / len(allowed)
    if not others:
        return Reading(0.75 + 0.25 * coverage, {}, ("all codes are the contract's",))
    share = sum(codes[code] for code in known) / local.present
    gone = [code for code in others if number(code) in SENTINELS]
    if share >= 0.5 and gone == others:
        listed = " and ".join(gone)
        doubt = f"{listed} is no code of the contract; does it mean 'not recorded'?"
        return Reading(
            0.7 * coverage + 0.1, {"missing": [as_written(c) for c in gone]}, (), (doubt,)
        )
    shown = ", ".join(others[:5])
    doubt = f"the contract has no such code: {shown}; recode them, or say that they are missing"
    return Reading(0.7 * share * coverage, {}, (), (doubt,))


def _by_label(
    local: Profile, allowed: Mapping[str, Any], labels: Mapping[str, tuple[str, ...]]
) -> Reading:
    """Match the local codes with what the contract says of its own, each with one."""
    from scipy.optimize import linear_sum_assignment

    if not labels or local.numeric_share > 0.5:
        return Reading(0.0, {})
    codes, targets = list(local.codes), list(labels)
    gain = np.array([[_label_fit(code, labels[each]) for each in targets] for code in codes])
    rows, columns = linear_sum_assignment(-gain)
    matched = {codes[r]: (targets[c], gain[r, c]) for r, c in zip(rows, columns, strict=True)}
    sure = {code: target for code, (target, fit) in matched.items() if fit >= 0.5}
    share = sum(local.codes[code] for code in sure) / local.present
    if all(code == target for code, target in sure.items()):
        return Reading(0.0, {})  # nothing is translated: `_as_they_are` says it
    quality = float(np.mean([matched[code][1] for code in sure]))
    recode = {as_written(code): allowed.get(target, target) for code, target in sure.items()}
    doubts = [
        f"is '{code}' the contract's {target}?" for code, target in sure.items() if code != target
    ]
    left = [code for code in codes if code not in sure]
    if left:
        doubts.append(f"no meaning was found for {', '.join(left[:5])}: add them to recode")
    return Reading(
        share * (0.5 + 0.5 * quality), {"recode": recode},
        ("the codes fit what the contract says of its own",), tuple(doubts),
    )  # fmt: skip


def _yes_and_no(local: Profile, column: Column) -> Reading:
    if column.type == "boolean" or not all(_truth(code) for code in local.codes):
        return Reading(0.0, {})
    yes, no = (1, 0) if column.type != "category" else ("1", "0")
    recode = {as_written(code): yes if _truth(code) == "true" else no for code in local.codes}
    if set(recode) == {yes, no}:
        return Reading(0.0, {})  # they are the contract's codes already
    return Reading(0.5 + 0.2 * min(local.distinct, 2), {"recode": recode}, ("yes and no",))


def _above_zero(local: Profile, column: Column) -> Reading:
    numbers = np.unique(local.numbers)
    graded = (
        local.numeric_share == 1
        and column.type in ("integer", "boolean")
        and 2 < len(numbers) <= 10
        and numbers[0] == 0
        and bool(np.all(numbers == np.round(numbers)))
    )
    if not graded:
        return Reading(0.0, {})
    doubt = "the local codes are grades; is every grade above 0 a yes?"
    return Reading(0.6, {"greater_than": 0}, ("grades from 0, the contract has yes and no",),
                   (doubt,))  # fmt: skip


def labels_of(column: Column) -> dict[str, tuple[str, ...]]:
    """Return contract code → the words its description gives it: ``1 = male, 0 = female``."""
    values = [code_key(value) for value in allowed_values(column)]
    labels: dict[str, tuple[str, ...]] = {}
    places = []
    for value in values:
        place = re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", column.description)
        if place is not None:
            places.append((place.start(), place.end(), value))
    ends = [*sorted(places), (len(column.description), 0, "")]
    for (_, end, value), (following, _, _) in pairwise(ends):
        text = re.split(r"[;,.(]", column.description[end:following])[0]
        labels[value] = words(text.strip(" =:"))
    for value in values:
        if not re.fullmatch(r"-?\d+(\.\d+)?", value):
            labels[value] = (*words(value), *labels.get(value, ()))
    return {value: each for value, each in labels.items() if each}


def _label_fit(code: str, label: tuple[str, ...]) -> float:
    plain = code.lower()
    if plain in label or words(code) == label:
        return 1.0
    if any(plain in _ALSO.get(word, ()) for word in label):
        return 0.9
    if len(plain) >= 2 and any(word.startswith(plain) for word in label):
        return 0.85
    shared = set(words(code)) & set(label)
    if shared:
        return 0.6 + 0.3 * len(shared) / max(len(words(code)), 1)
    initial = len(plain) == 1 and any(word.startswith(plain) for word in label)
    return 0.5 if initial else 0.0


def _binary(column: Column) -> bool:
    return {code_key(value) for value in allowed_values(column)} in ({"0", "1"}, {"true", "false"})


def _truth(code: str) -> str | None:
    plain = code.lower()
    if plain in _YES or plain == "1":
        return "true"
    return "false" if plain in _NO or plain == "0" else None


def _date(local: Profile, column: Column) -> Reading:
    if not local.dates:
        return Reading(0.0, {})
    # The first of equals: ISO 8601, and the day before the month.
    best = max(local.dates, key=lambda each: local.dates[each])
    share = local.dates[best]
    how = {} if best is None else {"date_format": best}
    others = [each for each, part in local.dates.items() if part == share and each != best]
    doubts = () if share == 1 else (f"{1 - share:.0%} of the values are no such dates",)
    if best is not None and others:
        doubts = (*doubts, f"they can be read as {others[0]} too")
    return Reading(share, how, ("the values read as dates",), doubts)
