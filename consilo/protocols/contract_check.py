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
from consilo.kernel.verbs import Disclosure, Field, FromRows, verb
from consilo.kernel.view import Message, SiloView
from consilo.wire.parcel import Fault


def _check_verdict(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    try:
        CheckReport.from_json(json.dumps(value))
    except (ValueError, TypeError, RecursionError):
        raise ReplyInvalid(
            f"{name}: expected a contract report; a finding holds rule, column, verdict, severity "
            "and counts, and nothing else"
        ) from None


REPORT = {"report": Field(Disclosure.STATISTIC, _check_verdict, rows=FromRows.CHECKED)}
"""The reply field of a contract check: rule, column, verdict, severity, safe counts. A silo whose
policy wants privacy, or whose job hides subjects, says no more than the verdict."""


def told(silo: SiloView) -> dict[str, Any]:
    """Return the field of `REPORT` about this silo's rows."""
    part = silo.job.part(silo.contract, silo.name)
    found = silo.rows.check(part, purpose=silo.job.purpose)
    if silo.permitted.is_private or silo.job.hides_subjects:
        found = found.bare()
    return {"report": json.loads(found.to_json())}


def report_of(fields: Mapping[str, Any]) -> CheckReport:
    """Return what a silo said of its rows, as much of it as it said."""
    return CheckReport.from_json(json.dumps(fields["report"]))


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
        report = report_of(answers.replies[self.silo].fields)
        if report.contract_digest != fed.job.part(fed.contract, self.silo).digest:
            return Fault("invalid_reply", "the report is about another contract")
        if report.findings and report.verdict != verdict_of(report.findings):
            return Fault("invalid_reply", "the report's verdict does not follow from its findings")
        return report

    @verb("check", replies=REPORT)
    def check(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return whether this silo takes part, and why not, as far as its policy says so."""
        return told(silo)
