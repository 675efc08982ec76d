"""Find a user's class or function by ``module:name``, and build a model from it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from consilo.config import nearest
from consilo.errors import JobInvalid

if TYPE_CHECKING:
    from torch import nn


OPEN_PACKAGES = ("consilo", "torch")
"""Installed packages whose names a job may call by itself, without a module in its bundle."""


def build_model(
    spec: str | Mapping[str, Any],
    *,
    num_inputs: int,
    num_outputs: int,
    seed: int,
    search_path: Sequence[Path] = (),
) -> nn.Module:
    """Return a new model whose start depends on ``seed`` only.

    Args:
        spec: ``"module:Class"``, or ``{"class": "module:Class", "args": {...}}``.
        num_inputs: passed to the constructor where it has a parameter of that name.
        num_outputs: passed to the constructor where it has a parameter of that name.
        seed: of the initial parameters.
        search_path: directories to look for the module in, before the installed ones.

    Raises:
        JobInvalid: where the class is not found, is no ``torch.nn.Module``, or refuses its
            arguments.
    """
    from torch import nn

    from consilo.learners.randomness import seeded

    where, args = _parts(spec)
    found = resolve(where, search_path, what="model")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise JobInvalid("model", [f"'{where}' is not a class made from torch.nn.Module"])
    parameters = inspect.signature(found).parameters
    sizes = {"num_inputs": num_inputs, "num_outputs": num_outputs}
    known = {name: size for name, size in sizes.items() if name in parameters}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    findings = [
        _unknown(where, name, list(parameters))
        for name in args
        if name not in parameters and not takes_any
    ]
    findings += [
        f"'{where}' needs the argument {name!r}: give it under args"
        for name, each in parameters.items()
        if each.default is each.empty
        and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and name not in known
        and name not in args
    ]
    if findings:
        raise JobInvalid("model", findings)
    with seeded(seed):
        try:
            model = found(**{**known, **args})
        except Exception as cause:
            raise JobInvalid(
                "model", [f"'{where}' could not be constructed: {describe(cause)}: {cause}"]
            ) from cause
    if not list(model.parameters()):
        raise JobInvalid("model", [f"'{where}' has no parameters to train"])
    return model


def resolve(where: str, search_path: Sequence[Path] = (), *, what: str = "function") -> Any:
    """Return the object that ``module:name`` names.

    With a ``search_path`` only modules there count, and those of `OPEN_PACKAGES`: so a silo runs
    what its operator has seen in the bundle, and not whatever happens to be installed. A module
    there is loaded under a name of its own, so that two jobs may each have a ``model.py``.

    Raises:
        JobInvalid: where the form is wrong, or there is no such module or name.
    """
    module_name, colon, name = where.partition(":")
    if not (colon and module_name and name):
        raise JobInvalid(what, [f"'{where}' is not of the form 'module:name'"])
    module = _load(module_name, search_path, what)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [each for each in vars(found) if not each.startswith("_")]
            guess = nearest(part, public)
            hint = f"; did you mean '{guess}'?" if guess else ""
            raise JobInvalid(what, [f"module '{module_name}' has no '{part}'{hint}"])
        found = getattr(found, part)
    return found


def describe(cause: BaseException) -> str:
    """Return the type of an exception and where it was raised, without its message.

    A message may quote data; the type and the line of code do not.
    """
    frames = traceback.extract_tb(cause.__traceback__)
    own = [each for each in frames if "site-packages" not in each.filename] or frames
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if frames else ""
    return f"{type(cause).__name__}{place}"


def _parts(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    unknown = sorted(set(spec) - {"class", "args"})
    if unknown or "class" not in spec:
        raise JobInvalid(
            "model",
            [f"expected 'module:Class' or the keys class and args, found {', '.join(spec)}"],
        )
    return str(spec["class"]), dict(spec.get("args") or {})


def _unknown(where: str, name: str, parameters: list[str]) -> str:
    guess = nearest(name, parameters)
    hint = f"; did you mean '{guess}'?" if guess else f"; it takes {', '.join(parameters)}"
    return f"'{where}' has no argument {name!r}{hint}"


def _load(module_name: str, search_path: Sequence[Path], what: str) -> ModuleType:
    for directory in search_path if module_name.split(".")[0] != "consilo" else ():
        file = _file_of(Path(directory), module_name)
        if file is not None:
            return _load_file(module_name, file, Path(directory), what)
    if search_path and module_name.partition(".")[0] not in OPEN_PACKAGES:
        raise JobInvalid(
            what,
            [
                f"module '{module_name}' was not found beside the job file; a job names modules "
                f"there, or in {' or '.join(OPEN_PACKAGES)}. Import what else it needs in one of "
                "its own, which silos can look at before they approve it"
            ],
        )
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as cause:
        if cause.name and (module_name == cause.name or module_name.startswith(cause.name + ".")):
            places = [*(f"'{Path(each).name}/'" for each in search_path), "the installed packages"]
            raise JobInvalid(
                what, [f"module '{module_name}' was not found in {' or '.join(places)}"]
            ) from None
        raise JobInvalid(
            what, [f"module '{module_name}' needs '{cause.name}', which is not installed"]
        ) from cause
    except Exception as cause:
        raise JobInvalid(
            what, [f"module '{module_name}' cannot be imported: {describe(cause)}: {cause}"]
        ) from cause


def _file_of(directory: Path, module_name: str) -> Path | None:
    stem = directory.joinpath(*module_name.split("."))
    for file in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
        if file.is_file():
            return file
    return None


def _load_file(module_name: str, file: Path, directory: Path, what: str) -> ModuleType:
    content = hashlib.sha256(str(file.resolve()).encode() + b"\x00" + file.read_bytes())
    own_name = f"_consilo_job_{content.hexdigest()[:16]}_{module_name.replace('.', '_')}"
    if own_name in sys.modules:
        return sys.modules[own_name]
    places = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(own_name, file, submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise JobInvalid(what, [f"'{file.name}' is not a Python module"])
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module
    try:
        with _importable(directory):
            spec.loader.exec_module(module)
    except Exception as cause:
        del sys.modules[own_name]
        raise JobInvalid(
            what, [f"module '{module_name}' cannot be imported: {describe(cause)}: {cause}"]
        ) from cause
    return module


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Let a user's module import its neighbours, and forget them so that jobs do not mix."""
    before = set(sys.modules)
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        root = directory.resolve()
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            ours = name.startswith("_consilo_job_")
            if origin and not ours and Path(origin).resolve().is_relative_to(root):
                del sys.modules[name]


def load_dotted(path: str) -> Any:
    """Return the object at ``module:name``.

    Raises:
        ImportError: where there is no such module.
        AttributeError: where the module has no such name.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
