"""A coordinator's directory with runs that made versions of a model, reviewers, and a registry.

The registry is a file, so that it outlives a process that is killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.decisions.candidates import look_up
from consilo.decisions.deciding import Deciding
from consilo.decisions.envelopes import Statement, sealed
from consilo.decisions.promotions import Promotions, Proposal, rollback_asked
from consilo.decisions.reviewers import Enrolment
from consilo.decisions.vote import Ballot, Verdict, Vote
from consilo.membership.keys import load_or_create_signing_key
from consilo.record.chain import in_utc
from consilo.record.run_record import RunRecord
from consilo.wire.signing import public_hex

MODEL = "heart"
BEGAN = 1_790_000_000.0
SILOS = ("east", "north", "south")


class Clock:
    """Seconds since 1970, a second later each time that they are asked."""

    def __init__(self, at: float = BEGAN) -> None:
        self.at = at

    def __call__(self) -> float:
        self.at += 1
        return self.at


class FileRegistry:
    """A registry's aliases in a file; ``away`` lets it answer nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.away = False

    def _read(self) -> dict[str, Any]:
        if self.away:
            raise ConnectionRefusedError("the registry is away")
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def pointing(self, model: str) -> dict[str, int]:
        return {k: v for k, v in self._read().items() if isinstance(v, int)}

    def everywhere(self) -> dict[str, tuple[dict[str, int], str]]:
        return {MODEL: (self.pointing(MODEL), self._read().get("mark", ""))}

    def point(self, model: str, alias: str, version: int | None) -> None:
        there = {**self._read(), alias: version}
        self._write({k: v for k, v in there.items() if v is not None})

    def mark(self, model: str, head: str) -> None:
        self._write({**self._read(), "mark": head})

    def _write(self, there: Mapping[str, Any]) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(there))
        beside.rename(self.path)


def coordinators_key(home: Path) -> Ed25519PrivateKey:
    return load_or_create_signing_key(home / "keys" / "record.key")


def trained(
    home: Path,
    version: int,
    *,
    status: str = "complete",
    ended: float = BEGAN,
    model: str = MODEL,
    author: str = "alice",
    kind: str = "horizontal",
    **promotion: Any,
) -> None:
    """Write the record of a run that made a version."""
    run = f"{model}-{version}"
    clock = lambda: in_utc(ended)  # noqa: E731
    path = home / "runs" / run / "record.jsonl"
    record = RunRecord(path, coordinators_key(home), now=clock)
    job = {"name": model, "kind": kind, "promotion": promotion or None}
    record.add("opened", run_id=run, job=job, silos=list(SILOS), started_by=author)
    made = {"name": model, "version": str(version)}
    record.add("model", params=digest_of(version, model), model=made)
    record.close(status=status, reason="" if status == "complete" else "south was away")


def digest_of(version: int, model: str = MODEL) -> str:
    return f"{model.encode().hex()}{version:x}".ljust(64, "0")[:64]


def deciding(
    home: Path, *, aliases: bool = True, model: str = MODEL, at: float = BEGAN
) -> Deciding:
    registry = FileRegistry(home / "registry.json") if aliases else None
    return Deciding(home, model, coordinators_key(home), aliases=registry, now=Clock(at))


def pointing(home: Path) -> dict[str, int]:
    return FileRegistry(home / "registry.json").pointing(MODEL)


def ballot(
    version: int,
    *,
    champion: int | None = None,
    gains: Mapping[str, float] | None = None,
    **verdicts: Verdict,
) -> Ballot:
    """Return votes: yes of all silos, unless said otherwise."""
    said = {name: verdicts.get(name, "yes") for name in SILOS}
    votes = [
        Vote(
            name,
            f"{MODEL}-{version}",
            digest_of(version),
            None if champion is None else digest_of(champion),
            verdict,
            ("worse_than_champion" if verdict == "no" else "not_worse",),
            {} if gains is None else {"gain/champion": gains[name], "rows": 30.0},
        )
        for name, verdict in said.items()
    ]
    return Ballot(f"{MODEL}-vote-{version}", tuple(votes), {})


def proposed(home: Path, version: int, **votes: Any) -> Proposal:
    """Propose a version and let the silos vote."""
    work = deciding(home)
    made = work.propose(look_up(home, MODEL, version))
    return work.vote(made, ballot(version, champion=made.champion, **votes))


def promoted(home: Path, version: int) -> Proposal:
    """Make a version the champion, where no reviewers are enrolled."""
    proposed(home, version)
    return deciding(home).decide(version, approves=True, reason="good", by="root", how="shell")


def enrolled(home: Path, *names: str) -> dict[str, Ed25519PrivateKey]:
    """Enrol reviewers; their logins are their names."""
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    for name, key in keys.items():
        Enrolment(home, coordinators_key(home)).add(name, public_hex(key))
    return keys


def word(proposal: Proposal, key: Ed25519PrivateKey, said: str = "approve", **other: Any) -> Any:
    """Return a reviewer's envelope about a proposal."""
    settings = {**proposal.asked(), "word": said, "reason": "looked at it", **other}
    return sealed(Statement(**settings), key)


def way_back(home: Path, key: Ed25519PrivateKey, version: int | None = None) -> Any:
    """Return a reviewer's envelope about a rollback."""
    target = deciding(home).former(version)
    asked = rollback_asked(Promotions.open(home, MODEL).champions, target)
    return sealed(Statement(**asked, word="rollback", reason="worse in use"), key)
