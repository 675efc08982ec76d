"""What long processes hold as they get old: memory and descriptors, and by how much they grow."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import psutil


@dataclass(frozen=True)
class Seen:
    """One look at a process.

    Args:
        process: which, among those that had its part one after the other.
        age_s: since its start.
        rss_mib: its resident memory.
        fds: its open descriptors.
    """

    process: int
    age_s: float
    rss_mib: float
    fds: int


def growth_percent(seen: Sequence[Seen], value: Callable[[Seen], float]) -> float:
    """Return by how much a part grows over the second half of its oldest process's life.

    A straight line by least squares over all looks at an age of that half, whichever process had
    the part; each process has a height of its own, so that a part that was started again counts by
    its age. In per cent of the mean over these looks; 0 where they are too few to say.

    Args:
        seen: looks at one part.
        value: what is fitted.
    """
    oldest_s = max((each.age_s for each in seen), default=0.0)
    half = [each for each in seen if each.age_s >= oldest_s / 2]
    processes = sorted({each.process for each in half})
    if len(half) - len(processes) < 2 or oldest_s <= 0:
        return 0.0
    ages = np.array([each.age_s for each in half], float)
    values = np.array([value(each) for each in half], float)
    whose = np.array([processes.index(each.process) for each in half])
    for place in range(len(processes)):
        mine = whose == place
        ages[mine] -= ages[mine].mean()
    spread = float(ages @ ages)
    mean = float(values.mean())
    if spread == 0 or mean == 0:
        return 0.0
    return 100 * float(ages @ values) / spread * (oldest_s / 2) / mean


@dataclass
class Aging:
    """Looks at processes again and again.

    Args:
        parts: part → the id of its process now; a part without one is left out.
        looks: part → what was seen.
    """

    parts: Callable[[], Mapping[str, int]]
    looks: dict[str, list[Seen]] = field(default_factory=dict)

    def look(self) -> None:
        """Look once."""
        for part, pid in self.parts().items():
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                with process.oneshot():
                    age_s = time.time() - process.create_time()
                    rss = process.memory_info().rss / 2**20
                    seen = Seen(pid, age_s, rss, process.num_fds())
                self.looks.setdefault(part, []).append(seen)

    def figures(self) -> dict[str, float]:
        """Return what is to be told of each part."""
        told: dict[str, float] = {}
        for part, seen in sorted(self.looks.items()):
            told |= {
                f"{part}.rss_growth_percent": growth_percent(seen, lambda each: each.rss_mib),
                f"{part}.fds_growth_percent": growth_percent(seen, lambda each: each.fds),
                f"{part}.rss_mib": seen[-1].rss_mib,
                f"{part}.fds": float(seen[-1].fds),
                f"{part}.oldest_s": max(each.age_s for each in seen),
            }
        return told


@contextmanager
def aging(parts: Callable[[], Mapping[str, int]], *, every_s: float) -> Iterator[Aging]:
    """Look at processes while the block runs, in a thread.

    Args:
        parts: part → the id of its process now.
        every_s: how often.
    """
    watched, over = Aging(parts), threading.Event()

    def go_on() -> None:
        while not over.wait(every_s):
            watched.look()

    watched.look()
    thread = threading.Thread(target=go_on, name="aging", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        over.set()
        thread.join()
        watched.look()
