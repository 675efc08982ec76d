"""Where a rehearsal works: a directory that goes away, unless it is to be kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consilo.runs.outcome import fresh


@contextmanager
def rehearsal_place(keep: Path | None) -> Iterator[Path]:
    """Yield a fresh directory to work in.

    Args:
        keep: where, and it stays; None makes one that goes away.

    Raises:
        ConfigInvalid: where ``keep`` holds something.
    """
    if keep is not None:
        place = fresh(keep)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield place
        return
    made = Path(tempfile.mkdtemp(prefix="consilo-rehearsal-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
