"""Great Expectations, imported when a check needs it, with its reports off and its voice low."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ONE_AT_A_TIME = threading.RLock()
"""Great Expectations keeps its current context in a global, and so do Python's warnings."""
_LATER = ("altair", "scipy.stats")
"""Two thirds of a second of imports for an expectation on histograms that no rule uses."""


@contextmanager
def quiet_gx() -> Iterator[Any]:
    """Import Great Expectations with its usage reports off and its own warnings kept quiet."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        # It warns of what its own dependencies will drop; nothing here can mend that.
        warnings.simplefilter("ignore")
        if "great_expectations.expectations" not in sys.modules:
            with _collecting_nothing(), _imported_later():
                _import_gx()
        import great_expectations as gx

        yield gx


def _import_gx() -> None:
    logger = logging.getLogger("great_expectations")
    if logger.level == logging.NOTSET:
        # It tells of every step and directory.
        logger.setLevel(logging.WARNING)
    were_captured = warnings.showwarning.__module__ == "logging"
    import great_expectations.expectations
    import great_expectations.validator.validator  # noqa: F401

    if not were_captured:
        # Several of its modules send all warnings of the process to logging.
        logging.captureWarnings(False)


@contextmanager
def _collecting_nothing() -> Iterator[None]:
    """Look for no garbage: 2,400 modules leave none, and looking takes a quarter of the import."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _imported_later() -> Iterator[None]:
    """Have `_LATER` imported by who uses it; whoever imports it afterwards gets the module itself.

    `importlib.util.LazyLoader` would do, but for two threads that use a module first.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in _LATER:
            _forget(name)


class _Later(ModuleType):
    """Stands where a module will be, and has what the module has."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # what the import system asks of any module
            raise AttributeError(attribute)
        _forget(self.__name__)
        return getattr(importlib.import_module(self.__name__), attribute)


def _forget(name: str) -> None:
    if isinstance(sys.modules.get(name), _Later):
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).pop(child, None)


class _Finder:
    """Finds each module of `_LATER` for the import system, the first time that it is asked for."""

    def __init__(self) -> None:
        self._left = set(_LATER)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._left:
            return None
        self._left.remove(name)
        return ModuleSpec(name, self)  # type: ignore[arg-type]  # a loader by its two methods

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""
