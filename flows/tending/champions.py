"""Holds the registry's aliases against what was decided: nobody moves a champion by hand unseen.

What was decided and not done is done: a decision whose process died moves its aliases now. An alias
that somebody has moved is written down in the model's chain, once, and told by ``consilo status``
until it is as decided, or people decide anew; it is put back where the job of the champion says
``promotion.aliases: put_back``. It is never taken for a decision.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from consilo.decisions.deciding import Aliases, Deciding
from consilo.decisions.promotions import CHAMPION, Promotions, models
from consilo.errors import RecordTampered
from consilo.membership.keys import load_or_create_signing_key
from flows.tending.findings import Finding


class Registry(Aliases, Protocol):
    """A registry that tells the aliases of all its models: `flows.registry.champions.Champions`."""

    def everywhere(self) -> Mapping[str, tuple[Mapping[str, int], str]]:
        """Return every model → its aliases, and the chain's head that was kept with it last."""


def champions(registry: Registry | None, home: Path, *, act: bool) -> Iterator[Finding]:
    """Yield what is not as was decided, and what became of it.

    Args:
        registry: None where none is up: the chains alone are looked at.
        home: the coordinator's directory.
        act: move, write down and put back; else it is only told.

    Raises:
        OSError: where the server does not answer.
    """
    there: Mapping[str, tuple[Mapping[str, int], str]] = (
        {} if registry is None else registry.everywhere()
    )
    for model in models(home):
        try:
            found = Promotions.open(home, model)
            aliases, mark = there.get(model, ({}, ""))
            _require_whole(found, mark)
        except RecordTampered as cause:
            todo = f"its champion is not to be relied on ({cause})"
            yield Finding("decisions", model, "have no whole chain", todo=todo)
            continue
        if registry is None:
            continue
        key = load_or_create_signing_key(home / "keys" / "record.key")
        work = Deciding(home, model, key, aliases=registry, now=time.time)
        yield from _unfinished(work, found, act=act)
        if not found.unmoved:
            yield from _by_hand(work, found, aliases, act=act)
    for model, (aliases, _) in there.items():
        if CHAMPION in aliases and model not in models(home):
            what = f"points at version {aliases[CHAMPION]}, and nobody has decided anything"
            todo = f"take it away in MLflow, or propose a version ('consilo model propose {model}')"
            yield Finding("alias", f"{model}@{CHAMPION}", what, todo=todo)


def _require_whole(found: Promotions, mark: str) -> None:
    """Raise `RecordTampered` where the registry knows of a line that the chain lacks."""
    number, _, head = mark.partition(":")
    if not number.isdigit() or not head:
        return  # nothing was kept there, or by somebody else
    at = int(number)
    if not 0 < at <= len(found.entries) or found.entries[at - 1]["hash"] != head:
        raise RecordTampered(
            f"promotions/{found.model}.jsonl has {len(found.entries)} lines, and the registry "
            f"keeps line {number} as {head[:16]}…: its end was cut off, or written anew"
        )


def _unfinished(work: Deciding, found: Promotions, *, act: bool) -> Iterator[Finding]:
    if not found.unmoved and not (act and found.waiting):
        return
    what = "was decided and not done: its process died, or MLflow was away"
    if not act:
        yield Finding("decision", found.model, what, done="'consilo up' does the rest")
        return
    try:
        did = work.settle()
    except OSError as cause:
        todo = f"its aliases cannot be moved ({cause}); is the version still in MLflow?"
        yield Finding("decision", found.model, what, todo=todo)
        return
    if did:
        yield Finding("decision", found.model, what, done="; ".join(did))


def _by_hand(
    work: Deciding, found: Promotions, aliases: Mapping[str, int], *, act: bool
) -> Iterator[Finding]:
    """Yield the aliases that are not as decided; ``aliases`` is how they were a moment ago."""
    wanted = found.wanted
    if all(aliases.get(alias) == version for alias, version in wanted.items()) and not found.found:
        return
    champion = found.champion
    puts_back = champion is not None and champion.candidate.promotion.aliases == "put_back"
    if act:
        wrong, _ = work.put_back(act=puts_back)
    else:
        wrong = {a: aliases.get(a) for a, v in wanted.items() if aliases.get(a) != v}
    for alias, version in wrong.items():
        there = "nothing" if version is None else f"version {version}"
        meant = "nothing" if wanted[alias] is None else f"version {wanted[alias]}"
        what = f"was moved by hand: it points at {there}, and {meant} was decided"
        name = f"{found.model}@{alias}"
        if puts_back:
            done = "it was put back" if act else "'consilo up' puts it back"
            yield Finding("alias", name, what, done=done)
        else:
            todo = "let it point there again in MLflow, or propose and approve the version"
            yield Finding("alias", name, what, todo=todo)
