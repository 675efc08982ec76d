"""People's questions over silos in this process: for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.contracts.contract import Contract
from consilo.horizontal.asked.axes import Axes
from consilo.jobs.analytics import Analytics
from consilo.jobs.job import UNSTATED, Job
from consilo.jobs.sections.questions import every_question
from consilo.reports.asked import Report
from consilo.runs.stages import Say, silent
from silos.simulation.simulation import simulate

if TYPE_CHECKING:
    import pandas as pd


def analytics_job(
    contract: Contract,
    *,
    named: str = "",
    questions: Sequence[Any] | None = None,
    purpose: str = UNSTATED,
    privacy: Mapping[str, Any] | None = None,
    min_silos: int = 2,
) -> Analytics:
    """Return the job that asks of a contract's rows.

    Args:
        contract: declares what can be asked.
        named: how the job finds the contract: ``name@version`` or a path; its reference by default.
        questions: as in a job; None asks all that the contract declares, each by every group.
        purpose: what the answers are for.
        privacy: a job's section; None asks for exact answers.
        min_silos: that must answer.

    Raises:
        IncompatibleJob: where the contract declares nothing.
        JobInvalid: with every fault.
    """
    Axes.of(contract)
    asked = [
        each if isinstance(each, str | Mapping) else each.model_dump(mode="json")
        for each in (every_question(contract) if questions is None else questions)
    ]
    value: dict[str, Any] = {
        "name": f"{contract.name}_analytics",
        "kind": "analytics",
        "contract": named or contract.ref,
        "purpose": purpose,
        "quorum": {"min_silos": min_silos},
        "questions": asked,
    }
    if privacy is not None:
        value["privacy"] = dict(privacy)
    return Analytics.of(Job.from_json(value))


def analytics(
    contract: Contract | str | Path,
    silos: Mapping[str, pd.DataFrame | str | Path],
    *,
    questions: Sequence[Any] | None = None,
    purpose: str = UNSTATED,
    privacy: Mapping[str, Any] | None = None,
    min_silos: int = 2,
    directory: Path | None = None,
    search_path: Sequence[Path] = (),
    say: Say = silent,
) -> Report:
    """Ask questions of the rows of silos in this process, as `simulate` runs a job over them.

    Args:
        contract: with a section ``analytics``; or its reference or path.
        silos: name → rows, or name → the directory of a silo.
        questions: such as ``["counts", {"ask": "survival", "by": ["arm"]}]``; None asks all.
        purpose: what the answers are for.
        privacy: such as ``{"epsilon": 1.1, "delta": 1e-5, "statistics_epsilon": 1.0}``: noisy
            answers; None asks for exact ones.
        min_silos: that must answer.
        directory: where the run keeps its record; None takes a temporary one that goes away.
        search_path: where contracts lie, besides those that come with Consilo.
        say: is told each step that was done.

    Returns:
        The answers: ``.frame`` is one table of all, ``.answers.of("survival", by="arm").frame``
        that of one; ``.html()`` a page, ``.save(folder)`` all of it as files.

    Raises:
        InvalidInput: where contract, questions or a silo's files are not valid.
        IncompatibleJob: where something is asked that the contract does not declare.
        RunFailed: where too few silos answer.
    """
    folders = [Path(each) for each in search_path]
    if not isinstance(contract, Contract):
        contract = Contract.load(contract, search=folders)
    job = analytics_job(
        contract, questions=questions, purpose=purpose, privacy=privacy, min_silos=min_silos
    )
    return Report.of(
        simulate(
            job,
            silos,
            contract=contract,
            directory=directory,
            search_path=folders,
            say=say,
        )
    )
