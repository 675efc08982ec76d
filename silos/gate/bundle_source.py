"""What a person reads before code may run here: its text, what changed, what it imports."""

from __future__ import annotations

import ast
import difflib
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from consilo.errors import ConfigInvalid
from silos.gate.bundles import Decisions, kept_bundle, label_of

_REACHES_OUT: Mapping[str, str] = {
    "asyncio": "processes and the network",
    "builtins": "any name of Python's own",
    "ctypes": "memory, past Python",
    "ftplib": "the network",
    "glob": "files",
    "http": "the network",
    "httpx": "the network",
    "importlib": "other modules, by names that are made up as it runs",
    "inspect": "the insides of whoever calls it",
    "io": "files",
    "marshal": "code from bytes",
    "mmap": "files",
    "multiprocessing": "processes",
    "os": "files, processes, the environment",
    "pathlib": "files",
    "pickle": "code from bytes",
    "requests": "the network",
    "runpy": "other code",
    "shutil": "files",
    "signal": "processes",
    "smtplib": "the network",
    "socket": "the network",
    "sqlite3": "files",
    "ssl": "the network",
    "subprocess": "processes",
    "sys": "the interpreter",
    "tempfile": "files",
    "threading": "what else runs in the process",
    "urllib": "the network",
}
"""Module → what it reaches. The sandbox holds it in (`sandbox: required`); a person may still ask
why code that learns from rows wants it."""
_CALLS = frozenset({"__import__", "compile", "eval", "exec", "open", "globals", "setattr"})


@dataclass(frozen=True)
class Import:
    """One module that a bundle's code imports, or a call that does as much.

    Args:
        module: its name; a call's with brackets.
        files: which of the bundle's files do.
        origin: ``python``, ``installed``, ``bundle``, ``missing`` or ``call``.
        reaches: what it gives access to, besides numbers; empty where nothing is known.
    """

    module: str
    files: tuple[str, ...]
    origin: str
    reaches: str


@dataclass(frozen=True)
class Source:
    """A bundle as a person reads it.

    Args:
        digest: its SHA-256.
        modules: path → text.
        imports: what its code imports, what reaches out first.
        difference: of `difference`.
    """

    digest: str
    modules: Mapping[str, str]
    imports: tuple[Import, ...]
    difference: str


def source_of(folder: Path, digest: str) -> Source:
    """Return what a person reads of a bundle.

    Raises:
        ConfigInvalid: where the bundle's content is not here.
    """
    changed = difference(folder, digest)
    modules = _modules(_content(folder, digest))
    return Source(digest, modules, imports_of(modules), changed)


def difference(folder: Path, digest: str) -> str:
    """Return how a bundle's modules differ from the last approved one's of the same package.

    A unified diff; against nothing where there is no such bundle.

    Raises:
        ConfigInvalid: where the bundle's content is not here.
    """
    new = _content(folder, digest)
    label = label_of(new)
    old = None
    for other in reversed(Decisions.load(folder).approved):
        content = None if other == digest else kept_bundle(folder, other)
        theirs = None if content is None else label_of(content)
        if theirs is not None and label is not None and theirs.package == label.package:
            old = content
            break
    before, after = _modules(old), _modules(new)
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        one, two = before.get(name, ""), after.get(name, "")
        lines += difflib.unified_diff(
            one.splitlines(), two.splitlines(), f"approved/{name}", f"new/{name}", lineterm=""
        )
    return "\n".join(lines)


def imports_of(modules: Mapping[str, str]) -> tuple[Import, ...]:
    """Return what code imports, or calls to the same end; nothing of it is run.

    A file that is no Python counts as an import of ``(unreadable)``.

    Args:
        modules: path → text.
    """
    found: dict[tuple[str, str], list[str]] = {}
    own = {Path(name).parts[0].removesuffix(".py") for name in modules}
    for name, text in sorted(modules.items()):
        for module, origin in sorted(set(_named(text, own))):
            found.setdefault((module, origin), []).append(name)
    imports = [
        Import(module, tuple(files), origin, _reach(module, origin))
        for (module, origin), files in found.items()
    ]
    return tuple(sorted(imports, key=lambda each: (not each.reaches, each.origin, each.module)))


def _named(text: str, own: set[str]) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        yield "(unreadable)", "missing"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.name, _origin(each.name, own)) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or ""), "bundle"
            elif node.module:
                yield node.module, _origin(node.module, own)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in _CALLS:
            yield f"{ast.unparse(node.func)}()", "call"


def _origin(module: str, own: set[str]) -> str:
    top = module.partition(".")[0]
    if top in own:
        return "bundle"
    if top in sys.stdlib_module_names:
        return "python"
    return "installed" if _is_installed(top) else "missing"


def _reach(module: str, origin: str) -> str:
    if origin == "call":
        return "files" if module == "open()" else "code or names that are made up as it runs"
    if module == "(unreadable)":
        return "nobody knows: it is no Python"
    return _REACHES_OUT.get(module.partition(".")[0], "") if origin != "bundle" else ""


def _is_installed(top: str) -> bool:
    """Return whether a package of this name is here; it is looked for, not imported."""
    try:
        return find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _content(folder: Path, digest: str) -> bytes:
    content = kept_bundle(folder, digest)
    if content is None:
        raise ConfigInvalid(digest, ["the content of this bundle is not here"])
    return content


def _modules(content: bytes | None) -> dict[str, str]:
    if content is None:
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [each for each in archive.namelist() if each.endswith(".py")]
        return {name: archive.read(name).decode("utf-8", "replace") for name in names}
