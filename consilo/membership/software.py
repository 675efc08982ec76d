"""What one side states of itself: its software, so that both know who is behind; its machine."""

from __future__ import annotations

import contextlib
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from consilo.kernel.headers import WIRE_VERSIONS

LIBRARIES = ("consilo", "torch", "opacus", "numpy", "pandas", "flwr", "cryptography")
"""Whose versions are stated, besides Python's."""

_NAME = re.compile(r"[a-z0-9_.-]{1,40}")
_VERSION = re.compile(r"[A-Za-z0-9_.+!-]{1,60}")
_MAX_ENTRIES = 40


@dataclass(frozen=True)
class Software:
    """What runs somewhere.

    Args:
        wire: versions of the wire protocol that are understood.
        versions: package → version.
    """

    wire: tuple[int, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"wire": list(self.wire), "versions": dict(self.versions)}

    @classmethod
    def parse(cls, value: Any) -> Software:
        """Return what `to_json` gave; it may come from anybody.

        Raises:
            ValueError: where it is no such thing.
        """
        if not isinstance(value, Mapping) or set(value) != {"wire", "versions"}:
            raise ValueError("a software manifest has the keys wire and versions")
        wire, versions = value["wire"], value["versions"]
        if not isinstance(wire, list) or not 0 < len(wire) <= _MAX_ENTRIES:
            raise ValueError("a software manifest lists the wire versions")
        if any(type(each) is not int or not 0 < each < 10_000 for each in wire):
            raise ValueError("a wire version is a small whole number")
        if not isinstance(versions, Mapping) or len(versions) > _MAX_ENTRIES:
            raise ValueError("a software manifest maps packages to versions")
        for name, said in versions.items():
            if not (isinstance(name, str) and isinstance(said, str)):
                raise ValueError("a package and its version are words")
            if not (_NAME.fullmatch(name) and _VERSION.fullmatch(said)):
                raise ValueError("a package or version has characters that none has")
        return cls(tuple(sorted(set(wire))), dict(versions))

    def behind(self, other: Software) -> tuple[str, ...]:
        """Return what differs from ``other``, as ``package found (expected)``; wire first."""
        found = []
        if max(self.wire, default=0) < max(other.wire, default=0):
            found.append(f"wire {max(self.wire, default=0)} ({max(other.wire)})")
        for name in ("consilo", "python", *sorted(other.versions)):
            ours, theirs = other.versions.get(name), self.versions.get(name)
            said = f"{name} {theirs} ({ours})"
            if ours and theirs and ours != theirs and said not in found:
                found.append(said)
        return tuple(found)


def installed(libraries: Iterable[str] = LIBRARIES) -> Software:
    """Return what runs here; a package that is not installed is left out."""
    found = {name: _version(name) for name in libraries}
    versions = {"python": platform.python_version()}
    versions |= {name: each for name, each in found.items() if each is not None}
    return Software(tuple(WIRE_VERSIONS), versions)


@cache
def _version(name: str) -> str | None:
    """Return what this process has of a package; to look takes a millisecond or two."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def hardware() -> dict[str, str]:
    """Return what the last bits of a sum depend on besides software and the number of threads.

    ``cpu``, the model's name; ``architecture``; ``capability``, the widest instructions that torch
    takes, such as AVX2 or AVX512.
    """
    import torch

    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what differs, as ``name now (was before)``; what either does not state is let be."""
    return [
        f"{name} {now[name]} (was {was})"
        for name, was in before.items()
        if name in now and now[name] != was
    ]


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def unsupported(wire: Iterable[int]) -> str:
    """Return what to upgrade where no wire version is common; empty where one is."""
    theirs = sorted(set(wire))
    if set(theirs) & set(WIRE_VERSIONS):
        return ""
    older = "silo" if max(theirs, default=0) < min(WIRE_VERSIONS) else "coordinator"
    shown = " and ".join(str(each) for each in WIRE_VERSIONS)
    return (
        f"the silo speaks the wire versions {theirs}, the coordinator {shown}; "
        f"upgrade Consilo at the {older}"
    )
