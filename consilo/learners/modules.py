"""Find a class or function that a job names by ``module:name``, and build a model from it.

One rule holds for every dotted name in a job (`resolve`). A name that Consilo, torch or Flower
offers for its purpose is listed in `HOMES`, and what is found must be defined there; any other name
is of the job's own modules: of the approved bundle in a silo, of those beside the job file at the
coordinator. Nothing else is imported, and what such a module has merely imported is not its own.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from consilo.config import nearest
from consilo.errors import JobInvalid
from consilo.learners.sources import Source, is_taken, source_at

if TYPE_CHECKING:
    from torch import nn


HOMES: Mapping[str, tuple[str, ...]] = {
    "model": ("consilo.learners.tabular", "torch.nn"),
    "loss": ("torch.nn.functional",),
    "optimizer": ("torch.optim",),
    "protocol.optimizer": ("torch.optim", "consilo.horizontal.server_optimizers"),
    "protocol.strategy": ("flwr.serverapp.strategy",),
}
"""What a name is for → the installed modules that may offer it, with those below them."""
_BYTES_A_PARAMETER = 24
"""Of the model, its gradient, the state of an optimiser, and their sum over silos as float64."""
_PUBLIC = {
    "Module": "torch.nn.Module",
    "Optimizer": "torch.optim.Optimizer",
    "Protocol": "consilo.protocol.Protocol",
    "Strategy": "flwr.serverapp.strategy.Strategy",
}


def build_model(
    spec: str | Mapping[str, Any],
    *,
    num_inputs: int,
    num_outputs: int,
    seed: int,
    search_path: Sequence[Path] = (),
    input_names: Sequence[str] | None = None,
    must_fit: bool = False,
) -> nn.Module:
    """Return a new model whose start depends on ``seed`` only.

    Args:
        spec: ``"module:Class"``, or ``{"class": "module:Class", "args": {...}}``.
        num_inputs: passed to the constructor where it has a parameter of that name.
        num_outputs: passed to the constructor where it has a parameter of that name.
        seed: of the initial parameters.
        search_path: directories to look for the module in, before the installed ones.
        input_names: what each input is, in order, as a tuple; passed to the constructor where it
            has a parameter of that name. None where inputs have no names: a network's inner layers.
        must_fit: count its parameters first, without their memory; at the coordinator, before a
            job is sent.

    Raises:
        JobInvalid: where the class is not found, is no ``torch.nn.Module``, refuses its arguments,
            or is larger than this machine's memory.
    """
    from torch import nn

    from consilo.learners.randomness import seeded

    where, args = _parts(spec)
    found = resolve(where, search_path, what="model", of=nn.Module)
    parameters = inspect.signature(found).parameters
    known = told(parameters, num_inputs, num_outputs, input_names)
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
    if must_fit:
        with seeded(seed):
            _require_memory(where, lambda: found(**{**known, **args}))
    with seeded(seed):
        try:
            model: nn.Module = found(**{**known, **args})
        except Exception as cause:
            raise JobInvalid(
                "model", [f"'{where}' could not be constructed: {describe(cause)}: {cause}"]
            ) from cause
    if not list(model.parameters()):
        raise JobInvalid("model", [f"'{where}' has no parameters to train"])
    return model


def _require_memory(where: str, build: Callable[[], nn.Module]) -> None:
    """Raise `JobInvalid` where a model's parameters cannot be trained in this machine's memory.

    On torch's meta device a tensor has a shape and no memory. A constructor that looks at values
    cannot be run there, and is not judged.
    """
    import psutil
    import torch

    try:
        with torch.device("meta"):
            number = sum(each.numel() for each in build().parameters())
    except Exception:  # whatever a constructor does with values that are not there
        return
    needed, there = number * _BYTES_A_PARAMETER, psutil.virtual_memory().total
    if needed > there:
        raise JobInvalid(
            "model",
            [
                f"'{where}' has {number:,} parameters; training them takes {needed / 2**30:,.0f} "
                f"GiB or more, and this machine has {there / 2**30:,.0f}; make its layers smaller"
            ],
        )


def told(
    parameters: Iterable[str],
    num_inputs: int,
    num_outputs: int,
    input_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Return what a model's constructor is given besides its args: what it has a parameter for."""
    offered: dict[str, Any] = {"num_inputs": num_inputs, "num_outputs": num_outputs}
    if input_names is not None:
        offered["input_names"] = tuple(input_names)
    known = set(parameters)
    return {name: value for name, value in offered.items() if name in known}


def resolve(
    where: str,
    search_path: Sequence[Path] = (),
    *,
    what: str = "function",
    of: type[Any] | None = None,
) -> Any:
    """Return the class or function that ``module:name`` names, by the module's one rule.

    Without a ``search_path``, which no silo's node is, a program that calls us may also name what
    it has imported itself from modules of its own.

    Args:
        where: the name.
        search_path: places of the job's own modules: packed bundles or folders.
        what: what the name is for; a key of `HOMES`, or something that only a job's own can be.
        of: the class that what is found must be made from.

    Raises:
        JobInvalid: where the form is wrong, there is no such module or name, or what it names is
            of another kind or from elsewhere.
    """
    module_name, colon, name = where.partition(":")
    parts = module_name.split(".")
    if not (colon and name.isidentifier() and all(each.isidentifier() for each in parts)):
        raise JobInvalid(what, [f"'{where}' is not of the form 'module:name'"])
    homes = HOMES.get(what, ())
    if is_offered(where, what):
        module = _import(module_name, lambda: importlib.import_module(module_name), what)
        found = _attribute(module, module_name, name, what)
        is_own = any(_is_below(getattr(found, "__module__", None), home) for home in homes)
    else:
        source = _source_of(module_name, search_path, what)
        if source is None:
            module = sys.modules[module_name]
            found = _attribute(module, module_name, name, what)
            is_own = getattr(found, "__module__", None) == module_name
        else:
            module = _import(module_name, lambda: source.load(module_name), what)
            found = _attribute(module, module_name, name, what)
            is_own = source.defines(found)
    _refuse_other(found, where, what, of, is_own=is_own)
    return found


def is_offered(where: str, what: str) -> bool:
    """Return whether a name is of the installed modules that may offer it, not the job's own."""
    return any(_is_below(where.partition(":")[0], home) for home in HOMES.get(what, ()))


def _refuse_other(found: Any, where: str, what: str, of: type[Any] | None, *, is_own: bool) -> None:
    if of is not None and not (isinstance(found, type) and issubclass(found, of)):
        said = _PUBLIC.get(of.__name__, of.__name__)
        raise JobInvalid(what, [f"'{where}' is not a class made from {said}"])
    if not isinstance(found, type | FunctionType):
        raise JobInvalid(
            what, [f"'{where}' is a {type(found).__name__}, neither a class nor a function"]
        )
    if not is_own:
        raise JobInvalid(
            what,
            [
                f"'{where}' is defined elsewhere, as '{found.__module__}:{found.__qualname__}'; a "
                "job names what a module defines itself"
            ],
        )


def _source_of(module_name: str, search_path: Sequence[Path], what: str) -> Source | None:
    """Return the place that has a module; None where the calling program has imported it."""
    top = module_name.partition(".")[0]
    taken = is_taken(top)
    for place in () if taken else search_path:
        source = source_at(Path(place))
        if source.find(module_name) is not None:
            return source
    if not search_path and not taken and module_name in sys.modules:
        return None
    offered = f", or in {' or '.join(HOMES[what])}" if what in HOMES else ""
    raise JobInvalid(
        what,
        [
            f"module '{module_name}' was not found beside the job file; a job names modules "
            f"there{offered}. Import what else it needs in one of its own, which silos can look "
            "at before they approve it"
        ],
    )


def _is_below(module: Any, home: str) -> bool:
    return isinstance(module, str) and f"{module}.".startswith(f"{home}.")


def _attribute(module: ModuleType, module_name: str, name: str, what: str) -> Any:
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        guess = nearest(name, public)
        hint = f"; did you mean '{guess}'?" if guess else ""
        raise JobInvalid(what, [f"module '{module_name}' has no '{name}'{hint}"])
    return getattr(module, name)


def _import(module_name: str, load: Callable[[], ModuleType], what: str) -> ModuleType:
    try:
        return load()
    except Exception as cause:
        if isinstance(cause, ModuleNotFoundError) and cause.name == module_name:
            raise JobInvalid(what, [f"module '{module_name}' was not found"]) from None
        raise JobInvalid(
            what, [f"module '{module_name}' cannot be imported: {describe(cause)}: {cause}"]
        ) from cause


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


def load_dotted(path: str) -> Any:
    """Return the object at ``module:name``, which is a constant of ours and no word of a job.

    Raises:
        ImportError: where there is no such module.
        AttributeError: where the module has no such name.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
