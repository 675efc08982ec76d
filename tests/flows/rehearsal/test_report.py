"""The survival matrix as a page."""

from __future__ import annotations

import re
from pathlib import Path

from consilo.contracts.contract import SHIPPED
from consilo.jobs.job import Job
from flows.rehearsal.report import write_report
from flows.rehearsal.survival import Survival


def survival(**changes: object) -> Survival:
    given = {
        "fault": "flow-killed",
        "kind": "horizontal",
        "part": "pipeline",
        "promise": "survives",
        "status": "complete",
        "rounds_lost": 0,
        "seconds": 10.5,
        "equal": True,
        "orphans": 0,
        "kept": True,
        "happened": "nothing was lost",
    }
    return Survival(**{**given, **changes})  # type: ignore[arg-type]


def test_the_page_says_all_and_asks_nobody(tmp_path: Path) -> None:
    found = [
        survival(),
        survival(fault="<b>mine</b>", kept=False, equal=False),
        survival(fault="silo-clock", kept=None, equal=None, seconds=None, status="not possible"),
    ]
    write_report(tmp_path / "page.html", Job.load(SHIPPED / "jobs" / "heart.yaml"), found)
    page = (tmp_path / "page.html").read_text()
    assert "1 of 2 faults ended as the job promises;\n1 could not" in page
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 4
    assert not re.search(r"(src|href)=|url\(|https?://|@import", page)
