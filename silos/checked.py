"""A contract check as people in the silo see it: the verdict, and which rows break it.

What was found is kept in the silo, below ``gx/``, where it goes with the pages when consents
change. It names rows by their number, never by what stands in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.errors import ConsiloError
from consilo.jobs.job import UNSTATED, Job
from consilo.machine.files import write_atomic
from silos.rows.explain import Explanation
from silos.rows.likeness import Likeness
from silos.silo import Silo

_FOLDER = "checked"


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Args:
        silo: whose rows.
        report: the verdict.
        explanations: of each rule that failed.
        likeness: how many rows are alike or have no label.
        consents: how many rows may be used for the purpose, and why not; None where all may.
        purpose: whose rows were checked.
        page: the full report of Great Expectations.
    """

    silo: str
    report: CheckReport
    explanations: Sequence[Explanation]
    likeness: Likeness
    consents: Mapping[str, int] | None
    purpose: str
    page: Path

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, without what stands in a row."""
        fields: dict[str, Any] = json.loads(self.report.to_json())
        explained = [each.to_json() for each in self.explanations]
        return {**fields, "explanations": explained, "rows": self.likeness.to_json()}


def check(
    directory: Path, contract: Contract, *, job: Job | None = None, purpose: str = "", key: str = ""
) -> Checked:
    """Check a silo's rows against a contract; keep what was found for people here.

    Args:
        directory: the silo's.
        contract: the contract.
        job: a vertical job: only the columns that this silo holds in it.
        purpose: whose rows: those with consent for it.
        key: name rows by this local column.

    Raises:
        SourceUnreadable: where the rows cannot be read.
        MappingInvalid: where the mapping does not fit.
        Refused: where the silo has no mapping for this contract, or cannot read its consents.
    """
    silo = Silo.open(directory.resolve())
    asked = contract if job is None else job.part(contract, silo.name)
    meant = purpose or UNSTATED
    report = silo.rows.check(asked, purpose=meant)
    explanations = (
        [] if report.passed else silo.rows.explain(asked, report, purpose=meant, key=key or None)
    )
    found = Checked(
        silo.name,
        report,
        explanations,
        silo.rows.likeness(asked, purpose=meant),
        silo.rows.consent_counts(asked, meant),
        meant,
        silo.rows.page(asked, purpose=meant),
    )
    told = {
        **found.to_json(),
        # By number, also where a person asked for keys: those may be names.
        "explanations": [
            {**each.to_json(), "places": [{"row": e.row, "file": e.file} for e in each.places]}
            for each in explanations
        ],
        "reason": report.reason(),
        "consents": None if found.consents is None else dict(found.consents),
        "purpose": meant,
        "time": silo.rows.now().isoformat(timespec="seconds"),
        "page": str(found.page),
    }
    place = silo.directory / "gx" / _FOLDER / f"{asked.ref}.json"
    write_atomic(place, json.dumps(told).encode(), mode=0o600)
    return found


def last_checks(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what the last check of each contract found: reference → what `check` kept.

    Raises:
        ConsiloError: where such a file was edited.
    """
    found = {}
    for path in sorted((directory / "gx" / _FOLDER).glob("*.json")):
        try:
            told = json.loads(path.read_bytes())
            found[str(told["contract"])] = dict(told)
        except FileNotFoundError:  # consents changed meanwhile
            continue
        except (ValueError, KeyError, TypeError):
            raise ConsiloError(
                f"{path}: this is no kept check; delete it, and check again"
            ) from None
    return found
