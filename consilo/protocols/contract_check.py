"""Ask a silo whether its data keep the contract; rows stay, verdicts leave."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

from consilo.check_report import CheckReport
from consilo.parcel import Fault
from consilo.protocol import Protocol, verb, verdict
from consilo.silo import Message, SiloView
from consilo.steps import Ask, Step


class ContractCheck(Protocol):
    """One question to one silo.

    Args:
        silo: who is asked; empty in the silo half.
    """

    def __init__(self, silo: str = "") -> None:
        self.silo = silo

    def coordinate(self, fed: Any, state: Any) -> Generator[Step, Any, CheckReport | Fault]:
        """Return the silo's report, or why there is none."""
        answers = yield Ask((self.silo,), "check", {})
        if self.silo in answers.missing:
            fault: Fault = answers.missing[self.silo]
            return fault
        return CheckReport.from_json(json.dumps(answers.replies[self.silo].fields["report"]))

    @verb("check", replies={"report": verdict()})
    def check(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's report: rules, columns, verdicts, coarse counts."""
        return {"report": json.loads(silo.host.check(silo.contract).to_json())}
