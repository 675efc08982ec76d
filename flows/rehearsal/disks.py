"""Disks that can be full: memory that is mounted where only the rehearsal's processes see it.

The mounts are in a mount namespace of the rehearsal's own; with its last process they are gone,
however that ends. It takes root, as does every way to make a real disk full without filling one
that others use.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
_SOURCE = "rehearsal"
_ROOMY = "4g"  # memory is taken for what is written only


def why_not() -> str:
    """Return why no disk of a rehearsal can be made here; empty where it can."""
    if os.geteuid() != 0:
        return "it takes root to mount a small file system"
    missing = [name for name in ("mount", "umount") if shutil.which(name) is None]
    return f"there is no {' and no '.join(missing)}" if missing else ""


def of_our_own() -> None:
    """Let what this process mounts from now on be seen by it and its children alone.

    Raises:
        OSError: where the system does not let us.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("--make-rprivate", "/")


def mount(folder: Path) -> None:
    """Put a disk in a folder's place; what is in it moves there."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    _mount("-t", "tmpfs", "-o", f"size={_ROOMY},mode=700", _SOURCE, str(folder))
    shutil.copytree(aside, folder, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(aside)


def fill(folder: Path) -> None:
    """Let a disk be as large as what is on it: from now on it is full."""
    _mount("-o", f"remount,size={used_bytes(folder)}", str(folder))


def empty(folder: Path) -> None:
    """Let there be room again."""
    _mount("-o", f"remount,size={_ROOMY}", str(folder))


def let_go(folder: Path) -> None:
    """Take the disks away that lie below a folder; what still uses one keeps it until it ends."""
    mounts = Path("/proc/self/mounts")
    if not mounts.is_file():
        return
    for line in reversed(mounts.read_text().splitlines()):
        source, place, *_ = line.split(" ")
        if source == _SOURCE and folder in Path(_plain(place)).parents:
            subprocess.run(["umount", "--lazy", _plain(place)], check=True, capture_output=True)


def _plain(place: str) -> str:
    """Return a path of the list of mounts, in which a space is ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)


def used_bytes(folder: Path) -> int:
    """Return how much is on a disk."""
    of = os.statvfs(folder)
    return (of.f_blocks - of.f_bfree) * of.f_frsize


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
