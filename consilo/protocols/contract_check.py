"""Ask a silo whether its data keep the contract; rows stay, verdicts leave."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from consilo.contracts.contract import Contract
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


MARK_SIZE = 32
"""Hexadecimal digits of a mark: 128 bits."""


def _check_mark(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    digits = set("0123456789abcdef")
    if not isinstance(value, str) or len(value) != MARK_SIZE or not set(value) <= digits:
        raise ReplyInvalid(f"{name}: expected {MARK_SIZE} hexadecimal digits")


MARK = Field(Disclosure.STATISTIC, _check_mark, optional=True, rows=FromRows.CHECKED)
"""A mark of the rows that keep the contract. It is a keyed hash: whoever has not the silo's secret
learns of the rows only whether two runs had the same. A silo whose policy wants privacy, or whose
job hides subjects, sends none, since that depends on rows too."""
_BLOCK_ROWS = 65_536


def mark_of(silo: SiloView, part: Contract) -> str:
    """Return the mark of the canonical rows: the same for the same ones in the same order."""
    import pandas as pd

    def build() -> dict[str, np.ndarray[Any, Any]]:
        frame = silo.rows.frame(part, purpose=silo.job.purpose)
        content = hashlib.sha256(",".join(frame.columns).encode())
        for start in range(0, len(frame), _BLOCK_ROWS):
            block = frame.iloc[start : start + _BLOCK_ROWS]
            content.update(pd.util.hash_pandas_object(block, index=False).to_numpy().tobytes())
        return {"content": np.frombuffer(content.digest(), np.uint8)}

    key = f"contract_check/mark/{part.digest}"
    held = silo.rows.encoded(part, key, build, purpose=silo.job.purpose)["content"]
    secret = silo.secrets.lasting("contract_check/mark")
    keyed = hmac.digest(secret, part.digest.encode() + np.asarray(held).tobytes(), "sha256")
    return keyed.hex()[:MARK_SIZE]


def report_of(fields: Mapping[str, Any]) -> CheckReport:
    """Return what a silo said of its rows, as much of it as it said."""
    return CheckReport.from_json(json.dumps(fields["report"]))


class ContractCheck(Protocol[None]):
    """One question to one silo.

    Args:
        silo: who is asked; empty in the silo half.
        marked: ask for a mark of the rows, too.

    Attributes:
        mark: what was told; empty where none was.
    """

    runs_job_code = False
    rows = "part"

    def __init__(self, silo: str = "", *, marked: bool = False) -> None:
        self.silo = silo
        self.marked = marked
        self.mark = ""

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return True: every run begins with it."""
        return True

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, CheckReport | Fault]:
        """Return the silo's report, or why there is none."""
        answers = yield Ask((self.silo,), "check", {"mark": True} if self.marked else {})
        if self.silo in answers.missing:
            fault: Fault = answers.missing[self.silo]
            return fault
        report = report_of(answers.replies[self.silo].fields)
        if report.contract_digest != fed.job.part(fed.contract, self.silo).digest:
            return Fault("invalid_reply", "the report is about another contract")
        if report.findings and report.verdict != verdict_of(report.findings):
            return Fault("invalid_reply", "the report's verdict does not follow from its findings")
        self.mark = answers.replies[self.silo].fields.get("mark", "")
        return report

    @verb("check", replies={**REPORT, "mark": MARK})
    def check(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return whether this silo takes part, and why not, as far as its policy says so."""
        fields = told(silo)
        bare = silo.permitted.is_private or silo.job.hides_subjects
        if not message.payload.get("mark") or bare or not silo.admits("mark"):
            return fields
        if not report_of(fields).passed:
            return fields
        part = silo.job.part(silo.contract, silo.name)
        frame = silo.rows.frame(part, purpose=silo.job.purpose)
        if not silo.has_floor(Disclosure.STATISTIC, len(frame)):
            return fields
        return {**fields, "mark": mark_of(silo, part)}
