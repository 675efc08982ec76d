"""The first page: one word for how the silo stands, and what waits for its people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from silos.gate.audit_lines import in_words, mood
from silos.page.reading import Reading, tried

_RECENT = 6


@dataclass(frozen=True)
class Matter:
    """Something that people should know or decide.

    Args:
        kind: good, warn, bad or wait.
        word: in one word.
        said: a sentence.
        href: the page that has more; empty where there is none.
        command: what is typed in a shell; empty where nothing is.
    """

    kind: str
    word: str
    said: str
    href: str = ""
    command: str = ""


@dataclass(frozen=True)
class Overview:
    """What the first page shows.

    Args:
        matters: what is to be known or decided, the gravest first.
        budgets: data set, limit, ε spent, ε left, budget.
        is_counting: whether the budgets are being worked out anew.
        checks: contract, verdict, sentence, time.
        recent: time, words, mood of the newest lines.
    """

    matters: tuple[Matter, ...]
    budgets: tuple[tuple[str, str, float, float, float], ...]
    is_counting: bool
    checks: tuple[dict[str, Any], ...]
    recent: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, reading: Reading) -> Overview:
        """Return what there is, whatever of it cannot be read."""
        order = {"bad": 0, "warn": 1, "wait": 2}
        matters = sorted(_matters(reading), key=lambda each: order.get(each.kind, 3))
        ledger = reading.ledger()
        budgets = [
            (name, each["limit"], each["spent"], each["left"], each["budget"])
            for name, account in ledger.accounts.items()
            for each in account["limits"]
        ]
        checks, _ = tried(reading.checks)
        log, _ = tried(lambda: reading.log(words="", kind="", before=None))
        lines = log.entries[:_RECENT] if log else ()
        return cls(
            tuple(matters),
            tuple(budgets),
            ledger.is_old,
            tuple((checks or {}).values()),
            tuple((each["time"], in_words(each), mood(each)) for each in lines),
        )

    @property
    def health(self) -> tuple[str, str]:
        """One word, and how it is marked: the gravest of what is to be known."""
        kinds = {each.kind for each in self.matters}
        if "bad" in kinds:
            return "needs you now", "bad"
        if "warn" in kinds:
            return "needs a look", "warn"
        if "wait" in kinds:
            return "waits for a decision", "wait"
        return "all well", "good"


def _matters(reading: Reading) -> Iterator[Matter]:
    if reading.forgotten():
        yield Matter(
            "bad",
            "forgotten",
            "The log or the privacy ledger is older than what this silo has signed; it answers "
            "nothing until people decide.",
            "/log?kind=accepted",
            "consilo silo ledger accept",
        )
    yield from _code(reading)
    yield from _policy(reading)
    yield from _budgets(reading)
    yield from _checks(reading)
    yield from _endings(reading)


def _code(reading: Reading) -> Iterator[Matter]:
    found, fault = tried(reading.bundles)
    if found is None:
        yield Matter("bad", "unreadable", fault, "/bundles")
        return
    number = sum(each.state == "pending" and not each.fault for each in found)
    if number:
        what = "bundle waits" if number == 1 else "bundles wait"
        yield Matter("wait", "code", f"{number} {what} for your decision.", "/bundles")


def _policy(reading: Reading) -> Iterator[Matter]:
    found, fault = tried(reading.policy)
    if found is None:
        yield Matter("bad", "policy", fault, "/policy")
    elif not found[0].allow:
        yield Matter(
            "warn", "policy", "The policy allows nothing: every job is refused.", "/policy"
        )


def _budgets(reading: Reading) -> Iterator[Matter]:
    ledger = reading.ledger()
    if ledger.fault:
        yield Matter("bad", "ledger", ledger.fault, "/ledger")
    for name, account in ledger.accounts.items():
        for each in account["limits"]:
            if each["left"] <= 0:
                said = f"The privacy budget of '{name}' is used up ({each['limit']})."
                yield Matter("bad", "budget", said, "/ledger")
            elif each["left"] < 0.1 * each["budget"]:
                said = f"Of the privacy budget of '{name}' less than a tenth is left."
                yield Matter("warn", "budget", said, "/ledger")


def _checks(reading: Reading) -> Iterator[Matter]:
    found, fault = tried(reading.checks)
    if found is None:
        yield Matter("warn", "checks", fault, "/checks")
        return
    for each in found.values():
        if each["verdict"] != "passed":
            yield Matter("warn", "contract", f"The data {each['reason']}.", "/checks")


def _endings(reading: Reading) -> Iterator[Matter]:
    found, fault = tried(reading.endings)
    if found is None:
        yield Matter("warn", "keys", fault, "/keys")
        return
    for each in found:
        if each.state in ("ended", "missing"):
            kind = "bad" if each.state == "ended" else "warn"
            when = f"ended on {each.ends[:10]}" if each.ends else each.said
            yield Matter(kind, each.name, f"{each.name.capitalize()}: {when}.", "/keys", each.to_do)
        elif each.state == "soon":
            when = f"ends on {each.ends[:10]}" if each.ends else "is old"
            yield Matter("warn", each.name, f"The {each.name} {when}.", "/keys", each.to_do)
    partners, _ = tried(reading.partners)
    for name, partner in (partners or {}).items():
        if partner.offered:
            said = f"Another signing key is offered for the partner '{name}'; ask its operator."
            yield Matter("warn", "partner", said, "/keys")
