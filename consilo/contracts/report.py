"""What a contract check may say outside its silo: rules, columns, verdicts and coarse counts."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from consilo.contracts.contract import Severity

Verdict = Literal["pass", "fail", "not_checked"]
RuleName = Literal[
    "present",
    "type",
    "nulls",
    "range",
    "typical",
    "allowed",
    "not_future",
    "min_rows",
    "not_empty",
    "unique",
    "class_balance",
    "classes",
    "freshness",
    "cross_column",
]

COUNT_GRAIN = 5
"""Counts leave a silo rounded up to a multiple of this."""


def coarse(count: int) -> int:
    """Return a count as it may leave a silo: zero stays zero, else up to the next multiple of 5.

    So "one patient has an impossible value" and "four patients have" read the same outside.

    >>> [coarse(count) for count in (0, 1, 5, 6, 303)]
    [0, 5, 5, 10, 305]
    """
    return -(-count // COUNT_GRAIN) * COUNT_GRAIN


class _Travels(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Counts(_Travels):
    """Coarse numbers of rows; see `coarse`.

    Args:
        rows: rows of the table.
        failed: rows that break the rule.
        nulls: rows in which the rule's column holds nothing.
    """

    rows: int = Field(ge=0)
    failed: int = Field(ge=0)
    nulls: int = Field(ge=0)


class Finding(_Travels):
    """One rule of the contract and how the table stands to it.

    Args:
        rule: the rule's name; ``docs/contracts.md`` lists them.
        column: the canonical column, several joined by ``+``, or None for a rule of the table.
        verdict: ``not_checked`` where there is nothing to check: no column, no row, only nulls.
        severity: a failed ``error`` leaves the silo out, a failed ``warning`` is only told.
        counts: coarse numbers of rows.
    """

    rule: RuleName
    column: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_+]*$")] | None
    verdict: Verdict
    severity: Severity
    counts: Counts


class CheckReport(_Travels):
    """The verdict of one contract check, fit to leave the silo.

    Args:
        contract: the contract's ``ref``, such as ``heart@1``.
        contract_digest: SHA-256 of the contract that was checked.
        verdict: ``failed`` where a rule of severity ``error`` failed.
        findings: one per rule, in the contract's order.
    """

    contract: str
    contract_digest: str
    verdict: Literal["passed", "failed"]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether the silo's table keeps the contract."""
        return self.verdict == "passed"

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The rules of severity ``error`` that failed."""
        return tuple(each for each in self.findings if _failed(each, "error"))

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The rules of severity ``warning`` that failed."""
        return tuple(each for each in self.findings if _failed(each, "warning"))

    def reason(self) -> str:
        """Return one sentence that names the failed rules and their columns, and no value."""
        if self.passed:
            told = _sentence(self.warnings)
            return f"keeps {self.contract}" + (f"; warnings: {told}" if told else "")
        why = _sentence(self.failures)
        return f"breaks {self.contract}" + (f": {why}" if why else "; its own report says how")

    def bare(self) -> Self:
        """Return the report with its verdict alone."""
        return self.model_copy(update={"findings": ()})

    def to_json(self) -> str:
        """Return the report as JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the report that `to_json` wrote; anything else in it is refused."""
        return cls.model_validate_json(text)


def verdict_of(findings: tuple[Finding, ...]) -> Literal["passed", "failed"]:
    """Return ``failed`` where any rule of severity ``error`` failed."""
    return "failed" if any(_failed(each, "error") for each in findings) else "passed"


def _failed(finding: Finding, severity: Severity) -> bool:
    return finding.verdict == "fail" and finding.severity == severity


def _sentence(findings: tuple[Finding, ...]) -> str:
    columns: dict[str, list[str]] = {}
    for each in findings:
        columns.setdefault(each.rule, []).extend([each.column] if each.column else [])
    return ", ".join(
        f"{rule} ({_some(names)})" if names else rule for rule, names in columns.items()
    )


def _some(names: list[str], limit: int = 6) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
