"""Load a job's own modules from their text: a bundle's that was approved, or those beside a job.

A *place* is a packed bundle (a file called by its SHA-256, ``HASH.zip``) or a folder. Its modules
live under a name of their own, so that two jobs may each have a ``model.py``; what one of them
imports is looked for beside it first. Only text is compiled: byte code that lies about is never
read, and a packed bundle whose bytes are not those of its name is not read at all.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.abc
import io
import itertools
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from consilo.errors import Refused

_PREFIX = "_consilo_job_"
_OURS = frozenset({"consilo", "silos", "flows", "dashboards", "consilo_bundle"})
_numbers = itertools.count()


@dataclass
class Source:
    """The modules of one place, as this process has loaded them.

    Args:
        prefix: of their names in ``sys.modules``.
        place: what it was made from.
        packed: path → content, of a packed bundle; None for a folder, which is read as needed.
        read: path → SHA-256 of what was compiled.
    """

    prefix: str
    place: Path
    packed: Mapping[str, bytes] | None = None
    read: dict[str, str] = field(default_factory=dict)

    def load(self, module: str) -> ModuleType:
        """Return a module of the place.

        Raises:
            ModuleNotFoundError: where there is none, or it needs one that is not installed.
            Exception: whatever its code raises.
        """
        try:
            return importlib.import_module(f"{self.prefix}.{module}")
        except BaseException:
            self.forget()  # what is half loaded is not found by the next one
            raise

    def defines(self, found: Any) -> bool:
        """Return whether the text of this place defines an object, and did not import it."""
        module = getattr(found, "__module__", None)
        return isinstance(module, str) and module.startswith(self.prefix + ".")

    def find(self, module: str) -> tuple[str, bytes, bool] | None:
        """Return path, text and whether it is a package, of a module that is here."""
        stem = module.replace(".", "/")
        for path, is_package in ((f"{stem}.py", False), (f"{stem}/__init__.py", True)):
            text = self._content(path)
            if text is not None:
                return path, text, is_package
        if self._is_folder(stem):
            return f"{stem}/__init__.py", b"", True  # a namespace: it has modules and no text
        return None

    def has_changed(self) -> bool:
        """Return whether a file that was compiled is another one now."""
        return any(_digest(self._content(path) or b"") != old for path, old in self.read.items())

    def forget(self) -> None:
        """Drop its modules, so that the next one to ask gets new ones."""
        for name in [each for each in sys.modules if f"{each}.".startswith(f"{self.prefix}.")]:
            del sys.modules[name]
        _sources.pop(self.place, None)
        _finder.sources.pop(self.prefix, None)

    def importing(self, name: str, given: Any, here: Any, parts: Sequence[str], level: int) -> Any:
        """What ``import`` does in a module of this place: its neighbours come first."""
        top = name.partition(".")[0]
        if level or self.find(top) is None:
            return builtins.__import__(name, given, here, parts, level)
        refuse_shadow(top)
        found = builtins.__import__(f"{self.prefix}.{name}", given, here, parts or (), 0)
        return found if parts else sys.modules[f"{self.prefix}.{top}"]

    def _content(self, path: str) -> bytes | None:
        if self.packed is not None:
            return self.packed.get(path)
        file = self.place / path
        return file.read_bytes() if file.is_file() else None

    def _is_folder(self, stem: str) -> bool:
        if self.packed is not None:
            return any(path.startswith(f"{stem}/") for path in self.packed)
        return any((self.place / stem).glob("*.py"))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what has a name of ours, and nothing else."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        prefix, _, module = fullname.partition(".")
        source = self.sources.get(prefix)
        if source is None:
            return None
        if not module:
            return ModuleSpec(fullname, _Loader(source, "", b""), is_package=True)
        found = source.find(module)
        if found is None:
            return None
        file, text, is_package = found
        where = source.place / file
        spec = ModuleSpec(
            fullname, _Loader(source, file, text), origin=str(where), is_package=is_package
        )
        spec.has_location = True
        return spec


class _Loader(importlib.abc.InspectLoader):
    """Compiles one text."""

    def __init__(self, source: Source, file: str, text: bytes) -> None:
        self._source, self._file, self._text = source, file, text

    def get_source(self, fullname: str) -> str:
        return self._text.decode("utf-8").removeprefix("\ufeff")

    def exec_module(self, module: ModuleType) -> None:
        if self._file:
            self._source.read[self._file] = _digest(self._text)
        place = str(self._source.place / self._file)
        # As UTF-8 whatever a first line says: people were shown it so.
        code = compile(self.get_source(""), place, "exec", dont_inherit=True)
        own: dict[str, Any] = {**vars(builtins), "__import__": self._source.importing}
        module.__dict__["__builtins__"] = own
        exec(code, module.__dict__)


def source_at(place: Path) -> Source:
    """Return the modules of a place; for a folder of which a file has changed, new ones.

    Raises:
        Refused: where a packed bundle is not the one that its name says.
    """
    place = place.resolve()
    known = _sources.get(place)
    if known is not None:
        if not known.has_changed():
            return known
        known.forget()
    packed = _unpacked(place) if place.is_file() else None
    name = hashlib.sha256(str(place).encode()).hexdigest()[:12]
    made = Source(f"{_PREFIX}{name}_{next(_numbers)}", place, packed)
    _sources[place] = _finder.sources[made.prefix] = made
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    return made


def refuse_shadow(top: str, error: Callable[[str], Exception] = ImportError) -> None:
    """Raise where a job's module has the name of one that everybody takes for another."""
    if is_taken(top):
        raise error(
            f"'{top}' is the name of an installed package: call the job's own module otherwise, "
            "so that whoever reads an import knows what it gets"
        )


def is_taken(top: str) -> bool:
    """Return whether a top module's name is one of Python's, of Consilo's or of a package's."""
    if top in _OURS or top in sys.stdlib_module_names:
        return True
    return PathFinder.find_spec(top, _packages()) is not None


@cache
def _packages() -> tuple[str, ...]:
    """Return where this interpreter's packages lie."""
    return tuple(sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))


def _unpacked(place: Path) -> Mapping[str, bytes]:
    content = place.read_bytes()
    if hashlib.sha256(content).hexdigest() != place.stem:
        raise Refused("the bundle in this silo is not the one that was approved", code="bundle")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [each for each in archive.namelist() if each.endswith(".py")]
        return {name: archive.read(name) for name in names if name != "consilo_bundle.py"}


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


_sources: dict[Path, Source] = {}
_finder = _Finder()
