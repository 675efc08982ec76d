"""Which files of a job's folder travel in its bundle: modules it names, and what they import."""

from __future__ import annotations

import ast
from pathlib import Path

from consilo.jobs.job import Job


def local_modules(job: Job, folder: Path) -> list[Path]:
    """Return the modules and packages beside the job file that the job needs, sorted.

    Args:
        job: names them by dotted paths.
        folder: the job file's directory.
    """
    waiting = [path.partition(":")[0] for path in job.code]
    modules: set[Path] = set()
    while waiting:
        top = waiting.pop().partition(".")[0]
        place = next((p for p in (folder / f"{top}.py", folder / top) if p.exists()), None)
        if place is None or place in modules or (place.is_dir() and not any(place.glob("*.py"))):
            continue
        modules.add(place)
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            waiting += _imports(file)
    return sorted(modules)


def _imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_bytes(), filename=file.name)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names
