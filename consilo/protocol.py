"""All that an algorithm of one's own is written with; docs/algorithms.md says how.

A border file: it hands out what lies elsewhere, and no file of ours imports it (docs/api.md).
"""

from __future__ import annotations

from consilo.horizontal.training import (
    TRAIN_REPLIES,
    Training,
    TrainState,
    mean_buffers,
    report,
    request,
    train_locally,
)
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.step_state import StepState
from consilo.kernel.steps import (
    Answers,
    Ask,
    Checkpoint,
    Publish,
    Receive,
    Received,
    Reply,
    Send,
    Step,
    Stream,
)
from consilo.kernel.verbs import (
    Disclosure,
    Field,
    arrays,
    count,
    envelopes,
    number,
    numbers,
    tensors,
    verb,
)
from consilo.kernel.view import Message, SiloView
from consilo.learners.torch_learner import FitHook, FitSession
from consilo.reduce import Reduce, Reduced
from consilo.reduce.mean import WeightedMean
from consilo.wire.params import Params, add, num_bytes, scale, select, subtract

__all__ = [
    "TRAIN_REPLIES",
    "Answers",
    "Ask",
    "Checkpoint",
    "Disclosure",
    "Federation",
    "Field",
    "FitHook",
    "FitSession",
    "Job",
    "Message",
    "ModelJob",
    "Params",
    "Protocol",
    "Publish",
    "Receive",
    "Received",
    "Reduce",
    "Reduced",
    "Reply",
    "Send",
    "SiloView",
    "Step",
    "StepState",
    "Stream",
    "TrainState",
    "Training",
    "WeightedMean",
    "add",
    "arrays",
    "count",
    "envelopes",
    "mean_buffers",
    "num_bytes",
    "number",
    "numbers",
    "report",
    "request",
    "scale",
    "select",
    "subtract",
    "tensors",
    "train_locally",
    "verb",
]
