"""The environment of every process that Consilo starts: quiet, offline, our interpreter first."""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

QUIET: dict[str, str] = {
    # MLflow compares with "true"; "1" does not silence it.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Without it a SuperLink may install packages for a run and shadow those that are installed.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Switches that keep every library we use from calling home, and from talking between our lines."""


ISOLATED = ("-I", "-u")
"""Options of an interpreter that takes code from where packages are installed and nowhere else.

No current directory, no user's home, and no variable ``PYTHON...`` says what it imports or runs;
what it prints is not held back, which a variable could not say either.
"""


_PLAIN = re.compile(
    "PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|FLWR_HOME|"
    "(LC|CONSILO|OMP|OPENBLAS|MKL|NUMEXPR|MALLOC|JE_ARROW|TORCH|CUDA)_?[A-Z0-9_]*"
)


def is_plain(name: str) -> bool:
    """Return whether a variable says nothing that has to be kept from code of a job."""
    return name in QUIET or _PLAIN.fullmatch(name) is not None


def replace_by_isolated(module: str, arguments: Sequence[str]) -> NoReturn:
    """Become ``python -I -u -m module`` with the arguments; the process's id stays."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *ISOLATED, "-m", module, *arguments])


def child_environment(*, home: Path | None = None, **extra: str) -> dict[str, str]:
    """Return the environment for a child: ours, quiet, this interpreter's folder first on PATH.

    Args:
        home: ``FLWR_HOME`` of the child; one per silo and one for the coordinator.
        extra: further variables; they win.
    """
    environment = {**os.environ, **QUIET}
    binaries = str(Path(sys.executable).parent)
    rest = [part for part in environment.get("PATH", "").split(os.pathsep) if part != binaries]
    environment["PATH"] = os.pathsep.join([binaries, *rest])
    environment["PYTHONUNBUFFERED"] = "1"
    if home is not None:
        environment["FLWR_HOME"] = str(home)
    environment.update(extra)
    return environment


def login() -> str:
    """Return by which login this process runs; its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without /etc/passwd
        return f"uid-{os.getuid()}"


def quieten() -> None:
    """Set the switches of `QUIET` in this process; call it before importing the libraries."""
    os.environ.update(QUIET)
