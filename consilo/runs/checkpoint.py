"""Where a run stood after its last round, kept so that what was damaged is never gone on from.

A disk may give back other bits than it got. A model that has one wrong is a model, too, and a run
that went on from it would end without a word; so a checkpoint holds the hash of all else in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consilo.errors import RecordTampered, ReplyInvalid
from consilo.machine.files import write_atomic
from consilo.wire.payload import pack_pieces, unpack

CHECKPOINT = "checkpoint.safetensors"
_HASH = "sha256"
_BEFORE = {"state", "reports", "num_examples"}
"""All that a checkpoint of a release holds that wrote no hash."""


def keep_checkpoint(directory: Path, kept: Mapping[str, Any]) -> None:
    """Write a checkpoint; it is durable when this returns.

    Args:
        directory: the run's.
        kept: plain values and arrays.
    """
    whole = _in_order(kept)
    pieces = pack_pieces({**whole, _HASH: _hash(whole)})
    write_atomic(directory / CHECKPOINT, pieces)


def read_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Return what was kept; None where nothing was.

    One of a release that wrote no hash is taken as it is.

    Raises:
        RecordTampered: where it is not as it was written.
    """
    place = directory / CHECKPOINT
    try:
        kept = unpack(place.read_bytes())
    except FileNotFoundError:
        return None
    except ReplyInvalid:
        raise RecordTampered(_told(place)) from None
    written = kept.pop(_HASH, None)
    # Without a hash there is nothing else in it: the damage may be in the hash's own name.
    if written != _hash(_in_order(kept)) and (written is not None or set(kept) != _BEFORE):
        raise RecordTampered(_told(place))
    return kept


def _told(place: Path) -> str:
    return f"{place} is not as it was written: the disk has damaged it, or somebody changed it"


def _hash(whole: Mapping[str, Any]) -> str:
    taken = hashlib.sha256()
    for piece in pack_pieces(whole):
        taken.update(piece)
    return taken.hexdigest()


def _in_order(value: Any) -> Any:
    """Return mappings by their keys, in which they come back too; arrays are counted in it."""
    if isinstance(value, Mapping):
        return {key: _in_order(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_in_order(each) for each in value]
    return value
