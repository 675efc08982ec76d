"""Read YAML into one validated object; report every fault at once, suggest the nearest key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from rapidfuzz import process

from consilo.errors import ConfigInvalid, InvalidInput


class Config(BaseModel):
    """A frozen object per concern; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# libyaml's parser, 20 times as fast: a silo reads some files again with every message.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def read_yaml(path: Path, *, error: type[InvalidInput] = ConfigInvalid) -> Any:
    """Return the parsed YAML of ``path``.

    Raises:
        InvalidInput: of the type ``error``, where the file is missing or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(str(path), ["the file does not exist; check the path"]) from None
    except (OSError, UnicodeDecodeError) as cause:
        raise error(str(path), [f"the file cannot be read as UTF-8 text: {cause}"]) from None
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as cause:
        raise error(str(path), [f"the file is not valid YAML: {cause}"]) from None


def parse(
    model: type[ConfigT], value: Any, *, where: str, error: type[InvalidInput] = ConfigInvalid
) -> ConfigT:
    """Return ``value`` as a ``model``.

    Args:
        model: the pydantic model.
        value: parsed YAML or JSON.
        where: the file's name, for the message.
        error: the type to raise.

    Raises:
        InvalidInput: of the type ``error``, with one finding per fault.
    """
    if not isinstance(value, Mapping):
        raise error(where, [f"expected a mapping of keys to values, found {_kind(value)}"])
    try:
        return model.model_validate(value)
    except ValidationError as cause:
        raise error(where, [_finding(model, fault) for fault in cause.errors()]) from None


def nearest(word: str, known: list[str]) -> str | None:
    """Return the entry of ``known`` that a typing mistake most likely meant, or None."""
    match = process.extractOne(word, known, score_cutoff=60)
    return match[0] if match else None


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _finding(model: type[BaseModel], fault: Any) -> str:
    location = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, fault["loc"][:-1])
        guess = nearest(str(fault["loc"][-1]), known)
        hint = f"; did you mean '{guess}'?" if guess else f"; known keys: {', '.join(known)}"
        return f"{location}: unknown key{hint}"
    if fault["type"] == "missing":
        return f"{location}: this key is required and missing"
    found = "" if fault["type"] == "value_error" else f" (found {fault['input']!r})"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{location}: {message}{found}" if location else f"{message}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the model that the path leads to, following every union member."""
    models: list[type[BaseModel]] = [model]
    for part in path:
        models = [inner for outer in models for inner in _inner_models(outer, part)] or models
    return sorted({name for each in models for name in each.model_fields})


def _inner_models(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    field = model.model_fields.get(str(part))
    if field is None:
        return []
    return _models_in(field.annotation)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]
