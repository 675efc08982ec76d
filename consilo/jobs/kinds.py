"""The kinds of jobs there are: a new one is a file with its class, and its name here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, RootModel

from consilo.config import parse
from consilo.errors import JobInvalid
from consilo.jobs.analytics import Analytics
from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job
from consilo.jobs.match_job import MatchJob, as_match
from consilo.jobs.scoring import Scoring
from consilo.jobs.vertical import Vertical

DEFAULT = "horizontal"
"""The kind of a job that does not say which it is."""


class AnyJob(
    RootModel[
        Annotated[
            Horizontal | Vertical | Scoring | MatchJob | Analytics, Field(discriminator="kind")
        ]
    ]
):
    """A job as a person describes it; ``kind`` says by which class."""


def read(value: Any, where: str) -> Job:
    """Return the job that parsed YAML or JSON describes.

    Raises:
        JobInvalid: with every fault.
    """
    if isinstance(value, dict):
        value = {"kind": DEFAULT, **value}
        value = as_match(value) if value["kind"] == DEFAULT else value
    return parse(AnyJob, value, where=where, error=JobInvalid).root


Job.reader = read
