"""What a run of each kind does, task by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from consilo.horizontal.between.drift import Drift
from flows import vertical
from flows.session import Session
from flows.tasks import (
    admit,
    ask,
    check,
    describe,
    evaluate,
    register,
    remember,
    report,
    show_answers,
    show_statistics,
    standardize,
    train,
    wait_for_silos,
    write_card,
)


def spread(session: Session, wait_s: float, bins: int = 20) -> None:
    """Do every stage of a run that trains nothing, but tells how columns are spread."""
    wait_for_silos(session, wait_s)
    check(session)
    admit(session)
    if session.analytics.questions:
        ask(session)
        show_answers(session)
        return
    describe(session, bins)
    show_statistics(session)


def _horizontal(session: Session, wait_s: float) -> None:
    wait_for_silos(session, wait_s)
    check(session)
    admit(session)
    if session.horizontal.state is None:  # a run that is resumed stands further already
        standardize(session)
    train(session)
    evaluate(session)
    if session.registers:
        if Drift.serves(session.horizontal.job):
            remember(session)
        register(session)
        write_card(session)
    report(session)


STAGES: Mapping[str, Callable[[Session, float], None]] = {
    "horizontal": _horizontal,
    "vertical": vertical.stages,
    "scoring": vertical.scoring_stages,
    "analytics": spread,
}
"""What a run of each kind does, task by task."""
