"""Steps of an optimiser without torch's compiler, where nothing is compiled.

torch's optimisers import the compiler (``torch._dynamo``, with it sympy: half of what a
``job validate`` would compute) for two calls of it, ``disable`` and ``graph_break``, which do
nothing outside of what is compiled. Whoever asks for more of it gets the compiler itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"


@contextmanager
def uncompiled() -> Iterator[None]:
    """Have the compiler imported in the block by who uses it; where it is there, it is used."""
    if _NAME in sys.modules:
        yield
        return
    stand_in = _StandIn(_NAME)
    sys.modules[_NAME] = stand_in
    vars(torch)["_dynamo"] = stand_in
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """Stands where the compiler will be."""

    def graph_break(self, *_args: Any, **_how: Any) -> None:
        """Do nothing: there is no graph."""

    def disable(self, function: Callable[..., Any], *_args: Any, **_how: Any) -> Any:
        """Return the function: nobody compiles it."""
        return function

    def __getattr__(self, attribute: str) -> Any:
        # What the import system and inspection ask of any module is no use of it, but for the path
        # of a submodule that is imported.
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)
        self.leave()
        return getattr(importlib.import_module(_NAME), attribute)

    def leave(self) -> None:
        """Leave the place to the compiler."""
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
        if vars(torch).get("_dynamo") is self:
            del vars(torch)["_dynamo"]
