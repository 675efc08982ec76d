"""A scope in which torch and numpy compute with a step's number of threads, and no other.

A sum that is cut for two threads is added in another order than one that is cut for four, and its
last bit differs. So the number is a part of what is asked (``local.threads``, 1 unless said) and
never the machine's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_TURNS = threading.RLock()


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Let torch and numpy's BLAS take ``threads`` threads, and put back what was found.

    Scopes in one thread nest. Threads take turns, because both numbers are the process's.
    """
    import torch  # a second; a process that answers nothing does without

    with _TURNS:
        found = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with _blas().limit(limits=threads):
                yield
        finally:
            torch.set_num_threads(found)


@cache
def _blas() -> Any:
    """Return numpy's BLAS; looking for it takes milliseconds, setting it microseconds."""
    import numpy  # noqa: F401  loads what is looked for
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
