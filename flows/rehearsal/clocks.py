"""Another time for one process and its children: libfaketime, laid under it where only it sees it.

A silo's node starts its processes with a clean environment, so that no variable can say what time
they see. In a mount namespace of the node's own, ``/etc`` has two files more: one has the linker
load the library, one tells the library how far ahead the clock is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

_LIBRARY = "libfaketimeMT.so.1"
_PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime")
_UNDER = 'mount --make-rprivate / && mount -t overlay rehearsal -o "lowerdir=$0:/etc" /etc && '


def why_not() -> str:
    """Return why no process can be given another time here; empty where it can."""
    if os.geteuid() != 0:
        return "it takes root to give a process and its children another time"
    if shutil.which("unshare") is None:
        return "there is no unshare (of the package util-linux)"
    return "" if _library() else f"there is no {_LIBRARY}; install the package faketime"


def ahead(argv: Sequence[str], folder: Path, by: str = "+1h") -> list[str]:
    """Return the command that runs another one at another time.

    Args:
        argv: the other one.
        folder: where the two files are made.
        by: how far ahead, in libfaketime's words.
    """
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / "ld.so.preload").write_text(f"{_library()}\n")
    (folder / "faketimerc").write_text(f"{by}\n")
    return ["unshare", "--mount", "sh", "-c", f'{_UNDER}exec "$@"', str(folder), *argv]


def _library() -> str:
    for place in _PLACES:
        first, _, rest = place.lstrip("/").partition("/")
        found = sorted(Path("/", first).glob(f"{rest}/{_LIBRARY}"))
        if found:
            return str(found[0])
    return ""
