"""All that an algorithm of one's own is written with; nothing else happens here.

A border file: it hands out what lies elsewhere, and no file of ours imports it (docs/api.md).
"""

from __future__ import annotations

from consilo.horizontal.training import Training, TrainState
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Answers, Ask, Checkpoint, Publish, Reply, Step, Stream
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
from consilo.wire.params import Params, add, scale, subtract

__all__ = [
    "Answers",
    "Ask",
    "Checkpoint",
    "Disclosure",
    "Field",
    "Message",
    "Params",
    "Protocol",
    "Publish",
    "Reply",
    "SiloView",
    "Step",
    "Stream",
    "TrainState",
    "Training",
    "add",
    "arrays",
    "count",
    "envelopes",
    "number",
    "numbers",
    "scale",
    "subtract",
    "tensors",
    "verb",
]
