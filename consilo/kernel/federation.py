"""Who may be asked: what a protocol's coordinator half sees of the silos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from consilo.contracts.contract import Contract
from consilo.jobs.causes import not_asked, not_drawn
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
        drawn: who was drawn for the round; None where everybody is asked.
        said_no: silo → the fault by which it said so; asked again in this run, it would again.
    """

    silos: tuple[str, ...]
    job: Job
    contract: Contract
    online: Callable[[], Sequence[str]]
    num_examples: dict[str, int] = field(default_factory=dict)
    left: dict[str, Fault] = field(default_factory=dict)
    standing: Callable[[str], str] = lambda silo: ""
    met: tuple[str, ...] = ()
    drawn: frozenset[str] | None = None
    said_no: dict[str, Fault] = field(default_factory=dict)

    def why_away(self, silo: str) -> Fault:
        """Return why a silo cannot be asked now."""
        if why := self.standing(silo):
            return not_connected(why)
        return self.left.get(silo) or not_connected()

    def cohort(self) -> tuple[str, ...]:
        """Return who may take part and is connected now, in a fixed order."""
        connected = set(self.online())
        self.met = tuple(
            name
            for name in self.silos
            if name in connected and (self.drawn is None or name in self.drawn)
        )
        return self.met

    @property
    def rows(self) -> Mapping[str, int]:
        """Silo → training rows, as far as known: what a quorum by data share is a share of."""
        if self.drawn is None:
            return self.num_examples
        return {name: count for name, count in self.num_examples.items() if name in self.drawn}

    def others(self, answered: Collection[str], faults: Mapping[str, Fault]) -> dict[str, Fault]:
        """Return why each silo that has not answered a step has not.

        Args:
            answered: who has.
            faults: of those that were asked.
        """
        found = {**self.left, **faults}
        connected = set(self.online())
        for name in self.silos:
            if name not in answered and name not in found:
                found[name] = not_asked() if name in connected else self.why_away(name)
        if self.drawn is not None:
            found |= {name: not_drawn() for name in found if name not in self.drawn}
            found |= {n: self.why_away(n) for n in self.drawn if n not in {*answered, *found}}
        return found
