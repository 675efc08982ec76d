"""Who may be asked: what a protocol's coordinator half sees of the silos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.wire.parcel import Fault, not_connected


@dataclass
class Federation:
    """What a protocol's coordinator half sees of the silos.

    Args:
        silos: everybody who may take part, sorted; the kernel's caller narrows it.
        job: what is being run.
        contract: what the silos' data obey.
        num_examples: silo → training rows, as far as known; quorum by data share uses it.
        online: who can be asked now.
        left: silo → why it is not asked any more; for the message of a run that fails.
        standing: silo → why it may not take part at this moment, such as ``suspended``; empty for
            one that may.
        met: who was there when that was last looked at.
    """

    silos: tuple[str, ...]
    job: Job
    contract: Contract
    online: Callable[[], Sequence[str]]
    num_examples: dict[str, int] = field(default_factory=dict)
    left: dict[str, Fault] = field(default_factory=dict)
    standing: Callable[[str], str] = lambda silo: ""
    met: tuple[str, ...] = ()

    def why_away(self, silo: str) -> Fault:
        """Return why a silo cannot be asked now."""
        if why := self.standing(silo):
            return not_connected(why)
        return self.left.get(silo) or not_connected()

    def cohort(self) -> tuple[str, ...]:
        """Return who may take part and is connected now, in a fixed order."""
        connected = set(self.online())
        self.met = tuple(name for name in self.silos if name in connected)
        return self.met
