"""Lines that are alike are one a minute, and counted."""

from __future__ import annotations

import logging
import os

from consilo.machine.log_rate import OneAMinute


def test_of_lines_that_are_alike_one_a_minute_is_written_with_a_count() -> None:
    now, written = [1000.0], []
    logger = logging.Logger("strangers")
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.addFilter(OneAMinute(clock=lambda: now[0]))
    for each in range(500):
        logger.warning("Invalid HTTP request received from %s", each)
    logger.warning("something else")
    logger.error("something else")
    assert written == ["Invalid HTTP request received from 0", "something else", "something else"]
    now[0] += 61
    logger.warning("Invalid HTTP request received from %s", "b")
    assert written[3:] == [
        "Invalid HTTP request received from b (and 499 more like it since the last one)"
    ]
    for each in range(1000):  # texts that are all different fill no memory
        logger.warning(f"text {each}")
    assert len(written) == 1004


def test_processes_that_are_forked_count_together() -> None:
    """A silo's node answers each message in a process of its own: a flood is still one line."""
    bound, written = OneAMinute(clock=lambda: 1000.0), 0
    for number in range(20):
        child = os.fork()
        if child == 0:
            line = logging.LogRecord("x", logging.WARNING, "", 0, "fault: %s", (number,), None)
            os._exit(int(bound.filter(line)))
        written += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert written == 1
