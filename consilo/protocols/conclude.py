"""The end of a run: every silo hears of it, and both sides keep each other's head.

The request carries the newest hash of the run record, each signed reply that of the silo's audit
log: from then on neither side can rewrite what it wrote before. A silo answers nothing more for a
run that was concluded, so that a request of it that comes again is refused.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Answers, Ask, Step
from consilo.kernel.verbs import verb
from consilo.kernel.view import Message, SiloView

CONCLUDE_S = 30.0
"""How long the end of a run waits for the silos' answers."""


class Conclude(Protocol[None]):
    """Tells silos that the run has ended.

    Args:
        members: whom.
        status: how it ended.
        deadline_s: how long their answers are waited for.
    """

    runs_job_code = False
    rows = "none"
    after_the_end = True

    def __init__(
        self, members: Sequence[str] = (), status: str = "", *, deadline_s: float = CONCLUDE_S
    ) -> None:
        self._members = tuple(members)
        self._status = status
        self._deadline_s = deadline_s

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Answers]:
        """Ask once; who does not answer has missed it."""
        answers: Answers = yield Ask(
            self._members, "conclude", {"status": self._status}, deadline_s=self._deadline_s
        )
        return answers

    @verb("conclude", replies={})
    def conclude(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Answer nothing more for this run."""
        silo.gate.conclude(silo.header.run_id)
        return {}
