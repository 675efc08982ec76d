"""How often a program of ours looks for garbage; importing what it needs makes none."""

from __future__ import annotations

import gc

_OBJECTS = 20_000
"""New objects after which one looks; Python's own 700 took 0.5 of the 3.0 CPU-s of a
``job validate``, most of it while torch was imported."""


def collect_seldom() -> None:
    """Look for garbage seldom: first thing in a program, never in somebody else's."""
    gc.set_threshold(_OBJECTS)
