"""A server's log tells which of its services fail, how often and when; old starts do not count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flows.prefect_log import faults, started

BROKEN = """\
2026-11-26T02:00:05+0200 | ERROR   | docket.dependencies - ↩ [    58ms] \
schedule_deployments(){schedule_deployments}
Traceback (most recent call last):
  File "site-packages/prefect/server/models/deployments.py", line 700, in _insert
    raise exc.InvalidRequestError(
sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement
"""
LOCKED = """\
2026-11-26T00:02:08+0000 | ERROR   | docket.dependencies - ↩ [     5ms] \
mark_deployments_ready(work_queue_ids=...){mark_deployments_ready:work_pool:178390d3}
Traceback (most recent call last):
sqlite3.OperationalError: database is locked

The above exception was the direct cause of the following exception:

sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database is locked
[SQL: UPDATE deployment SET status=:status]
[parameters: {'status': 'READY'}]
(Background on this error at: https://sqlalche.me/e/20/e3q8)
"""
HARMLESS = """\
2026-11-26T00:03:00+0000 | WARNING | prefect.server - Unable to write
Configure: this is no error
"""
LAST = datetime(2026, 11, 26, 0, 2, 8, tzinfo=UTC)


def test_errors_are_told_by_service_and_cause_with_their_number(tmp_path):
    log = tmp_path / "prefect.log"
    log.write_text(BROKEN + LOCKED.replace("02:08", "01:58") + HARMLESS + LOCKED)
    locked, broken = faults(log)
    assert str(locked) == (
        "mark_deployments_ready: sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) "
        "database is locked (2 times, last 2026-11-26 00:02:08 UTC)"
    )
    assert str(broken) == (
        "schedule_deployments: sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML "
        "statement (once, last 2026-11-26 00:00:05 UTC)"
    )


def test_an_error_of_an_earlier_start_does_not_count(tmp_path):
    log = tmp_path / "prefect.log"
    log.write_text(f"{BROKEN}{started()}\n{LOCKED}")
    assert [each.service for each in faults(log)] == ["mark_deployments_ready"]


def test_an_error_lasts_for_ten_minutes(tmp_path):
    log = tmp_path / "prefect.log"
    log.write_text(LOCKED)
    (fault,) = faults(log)
    assert fault.lasts(LAST + timedelta(minutes=9))
    assert not fault.lasts(LAST + timedelta(minutes=11))


def test_the_end_of_a_long_log_is_enough(tmp_path):
    log = tmp_path / "prefect.log"
    log.write_text(BROKEN + HARMLESS * 1000 + LOCKED)
    assert [each.service for each in faults(log, tail_bytes=4096)] == ["mark_deployments_ready"]


def test_a_log_that_is_not_there_has_no_errors(tmp_path):
    assert faults(tmp_path / "prefect.log") == ()
