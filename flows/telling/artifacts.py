"""What a run leaves in Prefect for people: progress, verdicts, participation, metrics, links.

Names, verdicts, counts and figures about models; no value of any row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from consilo.contracts.report import CheckReport
from consilo.horizontal.statistics import Summary
from consilo.record.participation import counted
from consilo.reports.asked import Report
from consilo.runs.outcome import RunResult, SiloOutcome
from consilo.runs.patience import Waiting
from flows.registry import names
from flows.registry.drift import column_table
from flows.registry.tracking import verdict_rows

_MOST_ROWS = 1000
"""Of a table for people; Prefect keeps an artifact whole."""


def progress_begins(rounds: int) -> UUID:
    """Show a bar at round 0 and return its id."""
    # Prefect answers a coroutine only to one that runs in a loop.
    return cast(
        "UUID",
        create_progress_artifact(0.0, key="rounds", description=f"round 0 of {rounds}"),
    )


def progress(bar: UUID, done: int, rounds: int) -> None:
    """Move the bar to round ``done``."""
    update_progress_artifact(bar, 100.0 * done / rounds, description=f"round {done} of {rounds}")


def contract_verdicts(
    outcomes: Mapping[str, SiloOutcome], reports: Mapping[str, CheckReport]
) -> None:
    """Show each silo's verdict, with the rules it broke."""
    create_table_artifact(
        verdict_rows(outcomes, reports),
        key=names.CONTRACTS_ARTIFACT,
        description="Does each silo's table keep the contract?",
    )


def match(told: Mapping[str, Any]) -> None:
    """Show which match is trained on, and how it came about."""
    row = {
        "handle": told["handle"],
        "rows": told["rows"],
        "made": "before; used again" if told["reused"] else "in this run",
        "recipe": str(told.get("recipe", ""))[:12],
    }
    create_table_artifact(
        [row], key=names.MATCH_ARTIFACT, description="Rows that all silos of the job share"
    )


def waits(waiting: Waiting) -> None:
    """Show for whom the run waits, or that it goes on."""
    told = [_quoted(waiting.told), *(f"- {n}: {why}" for n, why in waiting.missing.items())]
    create_markdown_artifact("\n\n".join(told), key=names.WAITING_ARTIFACT)


def participation(result: RunResult) -> None:
    """Show each silo's part in the run."""
    rows = [
        {
            "silo": name,
            "status": each.status,
            "reason": each.reason,
            "rounds": len(each.rounds),
            "examples": each.num_examples,
            "epsilon": _figure(each.epsilon),
            "epsilon (RDP bound)": _figure(each.epsilon_bound),
        }
        for name, each in result.silos.items()
    ]
    create_table_artifact(
        rows, key=names.PARTICIPATION_ARTIFACT, description="Who took part, and at which cost"
    )
    if not result.participation:
        return
    told = counted(result.participation)
    shown = list(result.participation)
    if len(shown) > _MOST_ROWS:
        shown = [each for each in shown if each.outcome != "trained"][:_MOST_ROWS]
        told += "; only those that did not train are listed, all of them are in MLflow's table"
    create_table_artifact(
        [{**each.to_json(), "epsilon": _figure(each.epsilon)} for each in shown],
        key=names.ROUNDS_ARTIFACT,
        description=f"Round by round: {told}",
    )


def metrics(result: RunResult) -> None:
    """Show the final model's figures over all silos and in each, beside the untrained model's."""
    rows: list[dict[str, Any]] = [
        {"silo": "all", **{key: _figure(value) for key, value in sorted(result.metrics.items())}}
    ]
    for name, each in result.silos.items():
        if each.metrics:
            row = {key: _figure(value) for key, value in sorted(each.metrics.items())}
            before = {
                f"{key} before": _figure(value)
                for key, value in sorted(each.metrics_before.items())
                if key in each.metrics
            }
            rows.append({"silo": name, **row, **before})
    create_table_artifact(
        rows, key=names.METRICS_ARTIFACT, description="The final model on held-out rows"
    )


def summary(result: RunResult, *, mlflow_url: str, model: Mapping[str, str] | None) -> None:
    """Show how the run ended and where the rest lies."""
    lines = [f"# {result.status}", "", _quoted(result.sentence), ""]
    lines += [line for note in result.notes for line in (_quoted(note), "")]
    registered = f"`{model['name']}` version {model['version']}" if model else "none registered"
    lines += [
        f"- run `{result.run_id}`",
        f"- model: {registered}",
        f"- [MLflow run]({mlflow_url})",
        f"- record: `{result.record.rpartition('/')[2]}` among the MLflow run's files",
    ]
    create_markdown_artifact("\n".join(lines), key=names.SUMMARY_ARTIFACT)
    create_link_artifact(mlflow_url, link_text="MLflow run", key="mlflow-run")


def column_statistics(statistics: Summary) -> None:
    """Show count, mean and deviation of each column, and how far each silo's mean is off."""
    create_table_artifact(
        column_table(statistics),
        key=names.STATISTICS_ARTIFACT,
        description="Over all silos; a drift is a silo's mean minus the global one, in deviations",
    )


def answers(report: Report) -> None:
    """Show the answers to people's questions, a table each."""
    for number, each in enumerate(report.answers, start=1):
        told = each.to_json()
        noisy = "; the numbers are noisy" if each.is_noisy else ""
        create_table_artifact(
            told["rows"],
            key=f"{names.ANSWER_ARTIFACT}-{number}",
            description=f"{each.title}, of {len(each.silos)} silos{noisy}",
        )


def _figure(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())
