"""A silo that lies: its node signs updates that are not finite, or far too large.

The node is started with it as ``--answerer``, in place of the honest one. What it changes is what
leaves, after all that an honest silo would check, as whoever has taken over an organisation's
machine can.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from consilo.kernel.letters import Envelope
from consilo.protocols import dispatch
from consilo.protocols.dispatch import Elsewhere
from consilo.vertical.turns import Post
from consilo.wire.parcel import Answer
from consilo.wire.payload import pack
from silos.silo import answerer

UPDATES = ("delta", "update", "updates", "gradient", "params")
"""Names of reply fields that hold what the model is changed by."""
SEALED = ("scores", "values", "gains")
"""Names of what the silos of a vertical job seal for each other, and learn from."""
LIED = "lied"
"""A file in the silo's directory once something that left was changed."""


def not_finite(
    silo_dir: Path, bundle_dir: Path | None = None, elsewhere: Elsewhere | None = None
) -> Answer:
    """Return what answers for a silo whose updates hold no number."""
    return _lying(float("nan"), silo_dir, bundle_dir, elsewhere)


def exploding(
    silo_dir: Path, bundle_dir: Path | None = None, elsewhere: Elsewhere | None = None
) -> Answer:
    """Return what answers for a silo whose updates are 1e30 times too large."""
    return _lying(1e30, silo_dir, bundle_dir, elsewhere)


def _lying(
    factor: float, silo_dir: Path, bundle_dir: Path | None, elsewhere: Elsewhere | None
) -> Answer:
    seal = Post.seal

    def lie(value: Any, names: Collection[str], *, is_named: bool = False) -> Any:
        if isinstance(value, Mapping):
            return {
                name: lie(each, names, is_named=is_named or name in names)
                for name, each in value.items()
            }
        if is_named and isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.any():
            with suppress(OSError):  # its disk may be full
                (silo_dir / LIED).touch()
            with np.errstate(over="ignore", invalid="ignore"):
                return (value * value.dtype.type(factor)).astype(value.dtype)
        return value

    @functools.wraps(pack)
    def poisoned(fields: Any) -> Any:
        return pack(lie(fields, UPDATES))

    def sealed(self: Post, receiver: str, topic: str, content: Mapping[str, Any]) -> Envelope:
        return seal(self, receiver, topic, lie(content, SEALED))

    # Of this process, which answers one message and ends.
    vars(dispatch)["pack"] = poisoned
    Post.seal = sealed  # type: ignore[method-assign]
    return answerer(silo_dir, bundle_dir, elsewhere)
