"""A scope in which every global generator starts from one seed, and is as before afterwards."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GLOBAL_GENERATORS = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy's legacy generator and `random`, and restore them on the way out.

    Not for secrets: torch takes 32 bits of the seed on a CPU. Threads take turns, because the
    generators are the process's.
    """
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices=[]):
        python_state, numpy_state = random.getstate(), np.random.get_state()
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
