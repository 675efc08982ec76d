"""Which of the processes that owned a run asks: a number that grows each time one goes on with it.

The first says none. Each later one has a larger number than all before it, by the record
(`consilo.record.run_record`). A silo keeps the largest that it was asked under, and refuses what
an earlier owner of the run has signed: a process that was stopped and wakes beside its successor,
or a message of it that was under way. On the wire the number is a string among a request's
attestations, as `consilo.kernel.standing` has its own there; a release that does not know it takes
no notice.
"""

from __future__ import annotations

from collections.abc import Mapping

SUPERSEDED = "superseded"
"""The code with which a silo refuses an earlier owner."""
_OWNER = "^"
_MOST_DIGITS = 15


def owner_told(number: int) -> dict[str, str]:
    """Return what a request says of its owner beside the attestations; nothing of the first."""
    return {_OWNER: str(number)} if number else {}


def owner_in(attestations: Mapping[str, str]) -> int:
    """Return the number of a request's owner; 0 where it says none."""
    text = attestations.get(_OWNER, "")
    known = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if known else 0
