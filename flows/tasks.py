"""The pipeline's tasks: load, call one stage of the run, record. No maths here."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import wait
from prefect.states import Failed
from prefect.tasks import Task

from consilo.errors import TransportError
from consilo.jobs.model_job import ModelJob
from consilo.metrics.words import in_short
from consilo.reduce.draw import in_words
from consilo.reports.asked import Report
from consilo.wire import params as tree
from consilo.wire.parcel import Fault
from flows.ahead import import_ahead
from flows.registry import cards, registry
from flows.session import Session
from flows.telling import artifacts

NOT_ADMITTED = "NotAdmitted"
"""The state of a check whose silo broke the contract or gave no verdict; the run may go on."""


def _travel_failed(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a task may be tried again: the network failed, not the quorum or the job."""
    return isinstance(state.result(raise_on_failure=False), TransportError)


@task(task_run_name="wait-for-silos", persist_result=False, cache_policy=NO_CACHE)
def wait_for_silos(session: Session, seconds: float) -> None:
    """Wait until every registered silo is connected, or ``seconds`` are over."""
    online = session.run.wait_for_silos(seconds=seconds)
    missing = sorted(set(session.run.silos) - set(online))
    if missing:
        get_run_logger().warning("not connected: %s", ", ".join(missing))


@task(task_run_name="check-{silo}", persist_result=False, cache_policy=NO_CACHE)
def check_silo(session: Session, silo: str) -> str | State[str]:
    """Ask one silo for its contract verdict and return it in words; none that failed is green."""
    verdict = session.run.check(silo, marked=True)
    words = f"{verdict.code}: {verdict.reason}" if isinstance(verdict, Fault) else verdict.reason()
    get_run_logger().info("%s: %s", silo, words)
    if isinstance(verdict, Fault) or not verdict.passed:
        return Failed(name=NOT_ADMITTED, message=words, data=words)
    return words


def check(session: Session) -> None:
    """Check every silo, side by side."""
    with session.run.stage("check"):
        asked = [check_silo.submit(session, silo) for silo in session.run.silos]
        wait(asked)
        for each in asked:
            each.result(raise_on_failure=each.state.name != NOT_ADMITTED)


@task(task_run_name="admit", persist_result=False, cache_policy=NO_CACHE)
def admit(session: Session) -> list[str]:
    """Admit the silos that keep the contract, and hold the quorum."""
    run = session.run
    try:
        return list(run.admit())
    finally:
        artifacts.contract_verdicts(run.outcomes, run.reports)
        session.tracker.log_contracts(run.reports, run.contract, run.marks, run.outcomes)


@task(task_run_name="standardize", persist_result=False, cache_policy=NO_CACHE)
def standardize(session: Session) -> None:
    """Learn the columns' moments over all silos."""
    run = session.horizontal
    run.standardize()
    get_run_logger().info("forecast: %s", run.forecast())


@task(
    task_run_name="round-{number}",
    persist_result=False,
    cache_policy=NO_CACHE,
    # A repeat starts from the last checkpoint; silos that answered before answer the same bytes.
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=_travel_failed,
)
def train_round(session: Session, number: int) -> None:
    """Train one round and track it."""
    before = session.run.seconds.get("train", 0.0)
    report = session.run.train_round()
    seconds = session.run.seconds["train"] - before
    session.tracker.log_round(report, session.run.exchanges, seconds=seconds)
    told = in_short(report["metrics"])
    get_run_logger().info(
        "round %d: %d silos%s, %.1f s; before it: %s",
        number,
        len(report["silos"]),
        in_words(report.get("cohort", {})),
        seconds,
        told,
    )


def train(session: Session) -> None:
    """Train round by round, with a progress bar."""
    rounds = ModelJob.of(session.run.job).protocol.rounds
    import_ahead()
    bar = artifacts.progress_begins(rounds)
    while session.run.rounds_left:
        number = rounds - session.run.rounds_left + 1
        train_round(session, number)
        artifacts.progress(bar, number if session.run.rounds_left else rounds, rounds)


@task(task_run_name="evaluate", persist_result=False, cache_policy=NO_CACHE)
def evaluate(session: Session) -> None:
    """Evaluate the final model in every silo and track it."""
    run = session.horizontal
    evaluation = run.evaluate()
    session.tracker.log_evaluation(
        evaluation.metrics, evaluation.silos, step=run.job.protocol.rounds
    )


@task(task_run_name="remember", persist_result=False, cache_policy=NO_CACHE)
def remember(session: Session) -> None:
    """Let each silo keep how its rows are spread, for a job that asks whether they move."""
    lost = session.horizontal.remember()
    if lost:
        get_run_logger().warning("some silos keep an older reference: %s", lost)


@task(task_run_name="register", persist_result=False, cache_policy=NO_CACHE)
def register(session: Session) -> dict[str, str]:
    """Register the model, close the run, and point the alias at the version once it is labelled."""
    run, tracker = session.horizontal, session.tracker
    with run.stage("register"):
        metrics = {} if run.evaluated is None else run.evaluated.metrics
        session.model = registry.register(
            tracker.client, tracker.run_id, run.scored(), metrics=metrics, status=run.ending()
        )
    result = session.close()
    tags = registry.model_tags(
        result,
        run.job,
        run.contract,
        bundle=session.connection.bundle,
        kind=session.model.format,
        params_digest=tree.digest(run.params),
        record_head=run.record.head,
    )
    tags |= registry.continued_from(tracker.client, run.job)
    registry.label(tracker.client, session.model, tags)
    return session.model.to_json()


@task(task_run_name="write-card", persist_result=False, cache_policy=NO_CACHE)
def write_card(session: Session) -> None:
    """Draw the card of the registered version from the run's record, and attach it to it."""
    if session.model is None:
        return
    connection = session.connection
    cards.attach_new(
        session.tracker.client,
        connection.home,
        connection.signing_key,
        session.model,
        session.run.contract.to_json(),
    )


@task(task_run_name="report", persist_result=False, cache_policy=NO_CACHE)
def report(session: Session) -> None:
    """Show participation and metrics."""
    result = session.close()
    artifacts.participation(result)
    artifacts.metrics(result)


@task(task_run_name="standardize", persist_result=False, cache_policy=NO_CACHE)
def describe(session: Session, bins: int) -> None:
    """Learn the columns' moments and histograms over all silos."""
    session.analytics.standardize(bins=bins)


@task(task_run_name="show-statistics", persist_result=False, cache_policy=NO_CACHE)
def show_statistics(session: Session) -> None:
    """Show each column over all silos, and track it."""
    summary = session.analytics.summary
    if summary is not None:
        artifacts.column_statistics(summary)
        session.tracker.log_statistics(summary)


@task(task_run_name="ask", persist_result=False, cache_policy=NO_CACHE)
def ask(session: Session) -> None:
    """Ask the silos for the tables that the job's questions need, and make answers of them."""
    session.analytics.ask()


@task(task_run_name="show-answers", persist_result=False, cache_policy=NO_CACHE)
def show_answers(session: Session) -> None:
    """Show the answers, and keep page and tables with the MLflow run."""
    result = session.close()
    report = Report.of(result)
    artifacts.answers(report)
    session.tracker.log_files(report.files())
