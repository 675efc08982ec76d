"""Great Expectations, imported when a check needs it, with its reports off and its voice low."""

from __future__ import annotations

import gc
import importlib.util
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
_DRAWING = "altair"
"""What it draws histograms with, 40 modules of its own for an expectation that no rule uses."""


@contextmanager
def quiet_gx() -> Iterator[Any]:
    """Import Great Expectations with its usage reports off and its own warnings kept quiet."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        # It warns of what its own dependencies will drop; nothing here can mend that.
        warnings.simplefilter("ignore")
        if "great_expectations.expectations" not in sys.modules:
            with _collecting_nothing(), _drawing_later():
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
def _drawing_later() -> Iterator[None]:
    """Have `_DRAWING` imported when something of it is used first."""
    finder = _Later()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Later:
    """Finds `_DRAWING`, for the import system, as a module that loads when it is used."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _DRAWING:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = importlib.util.LazyLoader(spec.loader)
                return spec
        return None
