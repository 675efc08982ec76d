"""How a flow run ends: its state in Prefect, with the run's summary; and what its log says then."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from prefect import State, get_run_logger
from prefect.states import Cancelled, Failed

from consilo.errors import ConsiloError
from flows.beginning import flow_run_name
from flows.telling.shown import flow_run, prefect_place, rename

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


class NoResult(ConsiloError):
    """A flow run ended without a result; the message is the reason.

    Prefect raises what a state holds that is no success, in the process that a worker has started:
    of anything but an error it would say there that it "cannot be resolved into an exception".

    Args:
        reason: why.
        summary: of the run, as one that has a result returns it.
    """

    def __init__(self, reason: str, summary: Mapping[str, Any]) -> None:
        self.summary = dict(summary)
        super().__init__(reason)


def failed(reason: str, summary: Mapping[str, Any]) -> State[Any]:
    """Return the state of a flow run that failed."""
    return Failed(message=reason, data=NoResult(reason, summary))


def cancelled(reason: str, summary: Mapping[str, Any]) -> State[Any]:
    """Return the state of a flow run that somebody stopped."""
    return Cancelled(message=reason, data=NoResult(reason, summary))


def refused(error: ConsiloError) -> State[Any]:
    """Return the state of a flow run whose job could not even begin."""
    quiet_errors()
    reason = f"{type(error).__name__}: {error}"
    get_run_logger().error(reason)
    job = flow_run_name()
    rename(flow_run(), f"{job} · refused", tags=(f"job:{job}", "refused"))
    summary = {
        "status": "failed",
        "reason": reason,
        "silos": {},
        "metrics": {},
        "model": None,
        "mlflow": None,
        "prefect": prefect_place(flow_run()),
        "record": None,
        "seconds": {},
    }
    return failed(reason, summary)


def summary_of(state: State[Any]) -> dict[str, Any]:
    """Return the summary of a flow run that has ended, however it did.

    Raises:
        BaseException: what ended it, where that was none of Consilo's own errors.
    """
    # Prefect takes a state's result for one that is awaited.
    told: Any = cast("Any", state.result(raise_on_failure=False))
    if isinstance(told, NoResult):
        return told.summary
    if isinstance(told, BaseException):
        raise told
    return cast("dict[str, Any]", told)


class _InOneSentence(logging.Filter):
    """Errors that Consilo raises on purpose say all in one sentence; their stack is noise."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, ConsiloError):
            record.exc_info, record.exc_text = None, None
            if str(error) not in record.getMessage():
                record.msg, record.args = f"{record.getMessage()}: {error}", ()
        return True


_in_one_sentence = _InOneSentence()


def quiet_errors() -> None:
    """Keep tracebacks of Consilo's own errors out of Prefect's logs; safe to call again."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_in_one_sentence)
