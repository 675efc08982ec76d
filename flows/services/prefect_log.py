"""What a Prefect server's log says is wrong with its own services: scheduler, late runs, events.

Prefect goes on after such an error, and nobody sees it: deployments look well, and no run comes.
The log is that of `flows.services.prefect_server`, whose lines begin with date and time.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

LOGGING = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": (
        "%(asctime)s | %(levelname)-7s | %(name)s - %(message)s"
    ),
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%Y-%m-%dT%H:%M:%S%z",
}
"""Variables of the server's process: its own log has the time of day only."""

NOW = timedelta(minutes=10)
"""An error this fresh has not gone away: the scheduler's comes again each minute."""

_TAIL_BYTES = 4 << 20
_START = "consilo - the Prefect server starts"
_RECORD = re.compile(r"^(\d{4}-\d\d-\d\dT\S+) \| (\w+) *\| (\S+) - (.*)$")
# The function of a background task: "↩ [   109ms] schedule_deployments(){schedule_deployments}".
_TASK = re.compile(r"\] (\w+)\(")
_CAUSE = re.compile(r"^[A-Za-z_][\w.]*: .+")


@dataclass(frozen=True)
class Fault:
    """An error of one of Prefect's services, however often it came since the server's start.

    Args:
        service: the background task, or else the logger.
        what: the exception, or else the message.
        count: how often.
        last: when it came last.
    """

    service: str
    what: str
    count: int
    last: datetime

    def lasts(self, now: datetime) -> bool:
        """Return whether it came within the last `NOW`."""
        return now - self.last <= NOW

    def __str__(self) -> str:
        often = "once" if self.count == 1 else f"{self.count} times"
        return f"{self.service}: {self.what} ({often}, last {self.last:%Y-%m-%d %H:%M:%S} UTC)"


def started() -> str:
    """Return the line that begins the log of a server that starts now."""
    now = datetime.now(UTC).strftime(LOGGING["PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT"])
    return f"{now} | INFO    | {_START}"


def faults(log: Path, *, tail_bytes: int = _TAIL_BYTES) -> tuple[Fault, ...]:
    """Return the errors since the server's last start, the one that came last first.

    Args:
        log: of the server; none where it is not there.
        tail_bytes: how much of its end to read.
    """
    errors: dict[tuple[str, str], Fault] = {}
    for time, level, service, what in _records(log, tail_bytes):
        if level in ("ERROR", "CRITICAL"):
            known = errors.get((service, what))
            count = 1 if known is None else known.count + 1
            errors[service, what] = Fault(service, what, count, time)
    return tuple(sorted(errors.values(), key=lambda each: each.last, reverse=True))


def _records(log: Path, tail_bytes: int) -> list[tuple[datetime, str, str, str]]:
    """Return time, level, service and cause of each record since the last start."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - tail_bytes))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    records: list[tuple[datetime, str, str, str]] = []
    for line in lines:
        if head := _RECORD.match(line):
            when, level, logger, message = head.groups()
            if f"{logger} - {message}" == _START:
                records.clear()
                continue
            task = _TASK.search(message) if logger.startswith("docket.") else None
            time = datetime.fromisoformat(when).astimezone(UTC)
            records.append((time, level, task[1] if task else logger, message))
        elif records and _CAUSE.match(line):  # of a traceback the last one counts
            records[-1] = (*records[-1][:3], line)
    return records
