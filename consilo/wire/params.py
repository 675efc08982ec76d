"""A model's parameters as named arrays, and the few operations that algorithms need on them.

The keys keep the order of the model's ``state_dict``. A delta is ``server - silo``, everywhere:
``delta = subtract(server, silo)``, and a server step subtracts it again.

>>> import numpy as np
>>> server = {"weight": np.array([1.0, 2.0], np.float32)}
>>> silo = {"weight": np.array([0.5, 2.5], np.float32)}
>>> subtract(server, silo)
{'weight': array([ 0.5, -0.5], dtype=float32)}
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.errors import IncompatibleJob, ModelDiverged

Params: TypeAlias = dict[str, npt.NDArray[Any]]


def subtract(left: Params, right: Params) -> Params:
    """Return ``left - right``, entry by entry, in the dtypes of ``left``."""
    check_alike(left, right)
    return {name: _as(left[name] - right[name], left[name]) for name in left}


def add(left: Params, right: Params) -> Params:
    """Return ``left + right``, entry by entry, in the dtypes of ``left``."""
    check_alike(left, right)
    return {name: _as(left[name] + right[name], left[name]) for name in left}


def scale(params: Params, factor: float) -> Params:
    """Return ``factor * params`` in the same dtypes; every entry must be of a float dtype."""
    whole = [name for name, value in params.items() if value.dtype.kind != "f"]
    if whole:
        raise IncompatibleJob(f"cannot scale the integer entries {', '.join(whole)}")
    return {name: _as(value * factor, value) for name, value in params.items()}


def _as(value: npt.NDArray[Any], like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of another's dtype; also of numpy's result of two without dimensions."""
    return np.asarray(value).astype(like.dtype, copy=False)


def select(params: Params, names: tuple[str, ...]) -> Params:
    """Return the entries ``names`` of ``params``, in the order of ``params``."""
    wanted = set(names)
    return {name: value for name, value in params.items() if name in wanted}


def num_bytes(params: Params) -> int:
    """Return the size of all entries together, in bytes, without any framing."""
    return sum(value.nbytes for value in params.values())


def digest(params: Params) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, as hexadecimal digits."""
    state = hashlib.sha256()
    for name, value in params.items():
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        state.update(json.dumps([name, little.dtype.str, list(value.shape)]).encode())
        state.update(little.data)
    return state.hexdigest()


def check_alike(left: Params, right: Params) -> None:
    """Check that both have the same names and shapes; the order of names does not matter.

    Raises:
        IncompatibleJob: naming the first difference.
    """
    if left.keys() != right.keys():
        odd = sorted(left.keys() ^ right.keys())
        raise IncompatibleJob(f"two sets of parameters differ in the entries {', '.join(odd)}")
    for name, value in left.items():
        if value.shape != right[name].shape:
            raise IncompatibleJob(
                f"entry {name!r} has shape {value.shape} on one side, {right[name].shape} on the"
                " other"
            )


def check_finite(params: Params, *, where: str) -> None:
    """Check that no entry holds NaN or infinity.

    Args:
        params: the arrays to look at.
        where: who holds them, for the message, such as ``silo cleveland, round 3``.

    Raises:
        ModelDiverged: naming every entry that is not finite.
    """
    odd = [
        name
        for name, value in params.items()
        if value.dtype.kind == "f" and not bool(np.isfinite(value).all())
    ]
    if odd:
        raise ModelDiverged(
            f"{where}: NaN or infinity in {', '.join(odd)}; lower the learning rate, or check the"
            " model's loss"
        )
