"""Settings that a job gives and nobody reads: an error, for who writes one expects it to count."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel

from consilo.jobs.job import Evaluation, Job, Local
from consilo.kernel.protocol import Protocol
from consilo.protocols.names import NAMES, find_protocol

_ALWAYS = (
    "name",
    "description",
    "card*",
    "purpose",
    "kind",
    "contract",
    "privacy*",
    "quorum*",
    "retrain*",
    "exclude",
    "seed",
    "protocol.name",
)


_SHARE = Evaluation.model_fields["holdout"].default


def unread(job: Job, kind: type[Protocol[Any]]) -> list[str]:
    """Return a finding for each setting of a job that its protocol does not read.

    Args:
        job: what is asked. A setting at its default is no finding.
        kind: the protocol; one that does not say what it reads may read all.
    """
    is_said = job.algorithm in NAMES or "reads" in vars(kind)
    if kind.reads is None or not is_said:
        return []
    reads = (*_ALWAYS, *kind.reads)
    return [
        f"{key}: {job.algorithm} does not read it, so that it would change nothing; "
        f"{_readers(key)}leave it out"
        for key in _given(job, "")
        if not any(fnmatchcase(key, each) for each in reads)
    ] + _split_and_share(job)


def _split_and_share(job: Job) -> list[str]:
    evaluation = getattr(job, "evaluation", None)
    if evaluation is None or evaluation.split is None or evaluation.holdout == _SHARE:
        return []
    return ["evaluation.holdout: evaluation.split says which rows; give one of both"]


def _given(part: BaseModel, before: str) -> Iterator[str]:
    """Yield the dotted keys of a model that have another value than their default."""
    for name, field in type(part).model_fields.items():
        key, value = f"{before}{name}", getattr(part, name)
        default = field.get_default(call_default_factory=True)
        if isinstance(part, Local) and name in ("steps", "epochs"):
            # One of the two is always there; epochs: 1 says the same as nothing.
            default = 1 if name == "epochs" else None
        if value == default:
            continue
        if isinstance(value, BaseModel) and isinstance(default, BaseModel):
            yield from _given(value, f"{key}.")
        else:
            yield key


def _readers(key: str) -> str:
    """Return which of Consilo's own protocols read a key, as half a sentence."""
    names = [
        name
        for name in NAMES
        if any(fnmatchcase(key, each) for each in find_protocol(name).reads or ())
    ]
    return f"{', '.join(names)} {'read' if len(names) > 1 else 'reads'} it; " if names else ""
