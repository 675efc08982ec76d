"""A line of a run's record as a person reads it: in one line, and in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from consilo.printable import printable

_WIDE = 150
_DIGITS = 12
"""Of a hash: enough to find it again."""

Body = Mapping[str, Any]


def in_words(entry: Mapping[str, Any]) -> str:
    """Return what a line of a record says: number, time, kind, and the rest in short.

    Args:
        entry: of `consilo.record.chain.read`; a kind that is not known here is told as it stands.
    """
    body: Body = entry["body"]
    say = _WORDS.get(entry["kind"], _as_it_stands)
    try:
        words = say(body)
    except (KeyError, TypeError, ValueError, AttributeError):  # of another release
        words = _as_it_stands(body)
    told = printable(words, most=_WIDE)
    return f"{entry['seq']:>3}  {entry['time']}  {printable(entry['kind']):<13} {told}".rstrip()


def _opened(body: Body) -> str:
    silos = ", ".join(body["silos"])
    code = str(body["bundle"])[:_DIGITS]
    return f"job {body['job']['name']}, contract {body['contract']}, code {code}, silos {silos}"


def _contract(body: Body) -> str:
    return f"{body['silo']}: {body['verdict']}" + _because(body)


def _replies(body: Body) -> str:
    answers: dict[str, list[str]] = {}
    for each in body["headers"]:
        answers.setdefault(str(each["code"] or each["status"]), []).append(str(each["silo"]))
    parts = [
        f"{'signed by' if said == 'ok' else said + ':'} {', '.join(dict.fromkeys(silos))}"
        for said, silos in answers.items()
    ]
    return "; ".join(parts)


def _standardized(body: Body) -> str:
    rows = ", ".join(f"{name} {count}" for name, count in body["rows"].items())
    return f"features scaled by: {body['mode']}; rows {rows}"


def _round(body: Body) -> str:
    took = [each for each in body["participation"] if each["outcome"] == "trained"]
    others = [
        f"{each['silo']} {each['outcome']}"
        for each in body["participation"]
        if each["outcome"] not in ("trained", "not_drawn")
    ]
    spent = [each["epsilon"] for each in took if each.get("epsilon") is not None]
    number = f"{len(took)} silo" + ("" if len(took) == 1 else "s")
    parts = [f"round {body['round']}: {number} trained"]
    parts += [f"ε up to {max(spent):.3f}"] if spent else []
    parts += [", ".join(others)] if others else []
    return "; ".join([*parts, f"parameters {str(body['params'])[:_DIGITS]}"])


def _evaluated(body: Body) -> str:
    found = body["metrics"]
    shown = ", ".join(
        f"{name} {value:.4f}" for name, value in found.items() if isinstance(value, int | float)
    )
    return shown or "no figures"


def _model(body: Body) -> str:
    model = body["model"]
    return f"{model['name']} version {model['version']}, {model['uri']}"


def _ending(body: Body) -> str:
    said = body["said"]
    return f"{said.get('status', 'about to end')}" + _because(said)


def _closed(body: Body) -> str:
    return f"{body['status']}, {body['entries']} lines" + _because(body)


def _because(body: Body) -> str:
    return f": {body['reason']}" if body.get("reason") else ""


def _as_it_stands(body: Body) -> str:
    return json.dumps(body, ensure_ascii=False)


_WORDS: Mapping[str, Callable[[Body], str]] = {
    "opened": _opened,
    "contract": _contract,
    "replies": _replies,
    "standardized": _standardized,
    "round": _round,
    "evaluated": _evaluated,
    "model": _model,
    "ending": _ending,
    "closed": _closed,
}
