"""Run what a job's own code takes part in, and make a finding of whatever goes wrong.

For what a person runs on rows that are made up: what an error says is told whole, as no silo would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from consilo.errors import ConsiloError, InvalidInput
from consilo.learners.modules import describe

T = TypeVar("T")


def attempt(faults: list[str], what: str, do: Callable[[], T]) -> T | None:
    """Return what ``do`` returns; None where it fails, and what is wrong is added to ``faults``.

    Args:
        faults: gets one sentence a fault.
        what: of the job, for an error that the job's own code raises.
        do: what may fail.
    """
    try:
        return do()
    except InvalidInput as cause:
        said = [f"{cause.where}: {each}" for each in cause.findings]
        inner = cause.__cause__
        if inner is not None and not isinstance(inner, ConsiloError) and str(inner) not in said[-1]:
            said[-1] += f": {inner}"
        faults += said
    except ConsiloError as cause:
        faults.append(str(cause))
    except (Exception, SystemExit) as cause:
        faults.append(f"{what}: the job's own code raised {describe(cause)}: {cause}")
    return None
