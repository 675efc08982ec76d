"""Which files of a job's folder travel in its bundle: modules it names, and what they import."""

from __future__ import annotations

import ast
from pathlib import Path

from consilo.jobs.job import Job


def local_modules(job: Job, folder: Path) -> list[Path]:
    """Return the modules and packages beside the job file that the job needs, sorted.

    Args:
        job: names them by dotted paths: model, bottom model, loss, metrics, optimiser, protocol.
        folder: the job file's directory.
    """
    spec = job.protocol
    bottom = spec.args.get("bottom")
    dotted = [job.model.name if job.model else None, job.loss, job.metrics, job.local.optimizer]
    dotted += [spec.name, spec.optimizer, spec.strategy]
    dotted.append(bottom.get("name") if isinstance(bottom, dict) else bottom)
    waiting = [path.partition(":")[0] for path in dotted if path and ":" in path]
    found: set[Path] = set()
    while waiting:
        top = waiting.pop().partition(".")[0]
        place = next((p for p in (folder / f"{top}.py", folder / top) if p.exists()), None)
        if place is None or place in found or (place.is_dir() and not any(place.glob("*.py"))):
            continue
        found.add(place)
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            waiting += _imports(file)
    return sorted(found)


def _imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_bytes(), filename=file.name)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names
