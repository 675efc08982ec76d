"""Ask a silo whether its data keep the contract; rows stay, verdicts leave."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

from consilo.contracts.report import CheckReport, verdict_of
from consilo.errors import ReplyInvalid
from consilo.jobs.job import Job
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Step
from consilo.kernel.verbs import Disclosure, Field, verb
from consilo.kernel.view import Message, SiloView
from consilo.wire.parcel import Fault


def verdict(disclosure: Disclosure = Disclosure.STATISTIC) -> Field:
    """A contract check's findings: rule, column, verdict, severity, safe counts."""
    return Field(disclosure, _check_verdict)


def _check_verdict(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    try:
        CheckReport.from_json(json.dumps(value))
    except (ValueError, TypeError, RecursionError):
        raise ReplyInvalid(
            f"{name}: expected a contract report; a finding holds rule, column, verdict, severity "
            "and counts, and nothing else"
        ) from None


class ContractCheck(Protocol[None]):
    """One question to one silo.

    Args:
        silo: who is asked; empty in the silo half.
    """

    runs_job_code = False
    rows = "part"

    def __init__(self, silo: str = "") -> None:
        self.silo = silo

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return True: every run begins with it."""
        return True

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, CheckReport | Fault]:
        """Return the silo's report, or why there is none."""
        answers = yield Ask((self.silo,), "check", {})
        if self.silo in answers.missing:
            fault: Fault = answers.missing[self.silo]
            return fault
        report = CheckReport.from_json(json.dumps(answers.replies[self.silo].fields["report"]))
        if report.contract_digest != fed.job.part(fed.contract, self.silo).digest:
            return Fault("invalid_reply", "the report is about another contract")
        if report.verdict != verdict_of(report.findings):
            return Fault("invalid_reply", "the report's verdict does not follow from its findings")
        return report

    @verb("check", replies={"report": verdict()})
    def check(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's report: rules, columns, verdicts, coarse counts."""
        part = silo.job.part(silo.contract, silo.name)
        report = silo.rows.check(part, purpose=silo.job.purpose)
        return {"report": json.loads(report.to_json())}
