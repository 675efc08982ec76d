"""Vertical jobs in the pipeline: match, train, evaluate, register; and scoring with what was kept.

The model's parts stay in the silos. What is registered are references to them.
"""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.registry import names, registry, vertical_registry
from flows.session import Session
from flows.tasks import admit, check, report, train, wait_for_silos, write_card
from flows.telling import artifacts


def stages(session: Session, wait_s: float) -> None:
    """Do every stage of a vertical run."""
    _begin(session, wait_s)
    train(session)
    evaluate(session)
    register(session)
    write_card(session)
    report(session)


def scoring_stages(session: Session, wait_s: float) -> None:
    """Do every stage of a scoring run."""
    _begin(session, wait_s)
    score(session)
    report(session)


def _begin(session: Session, wait_s: float) -> None:
    wait_for_silos(session, wait_s)
    check(session)
    admit(session)
    match_entities(session)


@task(task_run_name="match", persist_result=False, cache_policy=NO_CACHE)
def match_entities(session: Session) -> None:
    """Make sure that all silos hold halves of one match, and track how it came about."""
    told = session.vertical.match()
    session.tracker.log_file(told, names.MATCH_FILE)
    artifacts.match(told)
    how = "used again" if told["reused"] else "made"
    get_run_logger().info("match '%s' %s: %d rows", told["handle"], how, told["rows"])


@task(task_run_name="evaluate", persist_result=False, cache_policy=NO_CACHE)
def evaluate(session: Session) -> None:
    """Judge the model in the label silo, and track what it says."""
    run = session.vertical
    metrics = run.evaluate()
    session.tracker.log_evaluation(metrics, {run.label_silo: metrics}, step=run.state.round)
    session.tracker.log_file(dict(run.state.facts), names.FACTS_FILE)


@task(task_run_name="score", persist_result=False, cache_policy=NO_CACHE)
def score(session: Session) -> None:
    """Score the matched rows; the scores stay in the label silo."""
    run = session.vertical
    run.evaluate()
    where = f"scores/{run.run_id}.csv in the directory of silo '{run.label_silo}'"
    get_run_logger().info("%d rows scored: %s", run.state.rows, where)


@task(task_run_name="register", persist_result=False, cache_policy=NO_CACHE)
def register(session: Session) -> dict[str, str]:
    """Register references to the parts, close the run, and point the alias at the version."""
    run, tracker = session.vertical, session.tracker
    with run.stage("register"):
        session.model = vertical_registry.register(
            tracker.client, tracker.run_id, run, status=run.ending()
        )
    result = session.close()
    tags = registry.model_tags(
        result,
        run.job,
        run.contract,
        bundle=session.connection.bundle,
        kind=session.model.format,
        params_digest=run.model_digest,
        record_head=run.record.head,
    )
    tags |= {names.TAG_LABEL_SILO: run.label_silo}
    registry.label(tracker.client, session.model, tags)
    return session.model.to_json()
