"""Silos for transport tests: they echo, fail, hang, die or swell, as their name says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from consilo.wire.parcel import Answer, Parcel


def open_silos(argument: str) -> Callable[[str], Answer]:
    seen: list[str] = []

    def answer_of(name: str) -> Answer:
        def answer(parcel: Parcel) -> Parcel:
            seen.append(name)
            if name.startswith("dies"):
                os.kill(os.getpid(), signal.SIGKILL)
            if name.startswith("hangs"):
                time.sleep(60)
            if name.startswith("slow"):
                time.sleep(0.3)
            said = f"{argument}|{name}|{os.getpid()}|{len(seen)}".encode()
            return Parcel(said + b"|" + parcel.header, parcel.body)

        return answer

    return answer_of


def broken(argument: str) -> Callable[[str], Answer]:
    raise RuntimeError("no silos here")
