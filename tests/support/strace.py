"""Work in a real process that strace strikes: it is killed at its n-th system call of a kind, or
told that the disk is full or broken there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_ATTACH_S = 30.0


def struck(work: Callable[[], None], call: str, how: str) -> tuple[bool, bool]:
    """Let a child do ``work`` while strace is at it; return whether it was killed, and went well.

    Args:
        work: done in a fork of this process.
        call: system calls, such as ``rename`` or ``rename,renameat2``; those of one name are
            counted by themselves.
        how: ``signal=KILL:when=3``, ``error=ENOSPC:when=3``.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(write)
            os.read(read, 1)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(read)
    command = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}"]
    tracer = subprocess.Popen(
        [*command, "-e", f"inject={call}:{how}", "-p", str(child)], stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + _ATTACH_S
        while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
            assert time.monotonic() < end, "strace could not attach"
            time.sleep(0.005)
        os.write(write, b"x")
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(write)
        status = os.waitpid(child, 0)[1]
        tracer.wait()
    return os.WIFSIGNALED(status), status == 0
