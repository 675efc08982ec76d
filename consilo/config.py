"""Read YAML into one validated object; report every fault at once, suggest the nearest key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, RootModel, ValidationError
from rapidfuzz import process

from consilo.errors import ConfigInvalid, InvalidInput
from consilo.finding_places import Place, models_in, place_of
from consilo.finding_words import MAPPING, expectation, found, is_consequence
from consilo.yaml_text import PlainWord, YamlInvalid, from_yaml


class Config(BaseModel):
    """A frozen object per concern; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with values replaced; what was worked out from the old ones goes."""
        made = super().model_copy(update=update, deep=deep)
        for name in made.__dict__.keys() - type(made).model_fields.keys():
            del made.__dict__[name]
        return made


_DEEPEST = 3
"""Sections in sections that a key is looked for in."""
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
    except IsADirectoryError:
        raise error(str(path), ["this is a directory; give the file in it"]) from None
    except UnicodeDecodeError as cause:
        told = f"the file is not UTF-8 text (its byte {cause.start + 1}); save it as UTF-8"
        raise error(str(path), [told]) from None
    except OSError as cause:
        raise error(str(path), [f"the file cannot be read: {cause.strerror}"]) from None
    try:
        return from_yaml(text)
    except YamlInvalid as cause:
        raise error(str(path), cause.findings) from None


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
        told = found({"input": value}, [MAPPING])
        raise error(where, [f"expected {MAPPING}, found {told}"])
    try:
        made = model.model_validate(value)
    except ValidationError as cause:
        raise error(where, _findings(model, cause.errors())) from None
    if faults := [*_truths(value, made, ())]:
        raise error(where, faults)
    return made


def nearest(word: str, known: list[str]) -> str | None:
    """Return the entry of ``known`` that a typing mistake most likely meant, or None."""
    match = process.extractOne(word, known, score_cutoff=60)
    return match[0] if match else None


def _truths(value: Any, made: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Yield a finding for each boolean that was read as a number: pydantic takes true for 1."""
    if isinstance(made, RootModel):
        yield from _truths(value, made.root, path)
    elif isinstance(value, bool):
        if isinstance(made, BaseModel) or (
            isinstance(made, int | float) and not isinstance(made, bool)
        ):
            yield f"{_dotted(path)}: expected a number, found {str(value).lower()}"
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _truths(each, _held(made, key), (*path, str(key)))
    elif isinstance(value, list | tuple) and isinstance(made, list | tuple):
        for place, (each, of) in enumerate(zip(value, made, strict=False)):
            yield from _truths(each, of, (*path, str(place)))


def _held(made: Any, key: Any) -> Any:
    """Return what a model, or a mapping, holds under a key of the file."""
    if isinstance(made, BaseModel):
        name = _fields_of(type(made)).get(key)
        return None if name is None else getattr(made, name)
    return made.get(key) if isinstance(made, Mapping) else None


@cache
def _fields_of(model: type[BaseModel]) -> dict[str, str]:
    """Return a model's fields by what a file calls them: name or alias, the first one's."""
    found: dict[str, str] = {}
    for name, each in model.model_fields.items():
        for said in (name, each.alias):
            if said is not None:
                found.setdefault(said, name)
    return found


def _meant(value: Any) -> Any:
    """Refuse ``yes`` and ``no`` where whatever is read would take the text as it is."""
    if isinstance(value, PlainWord):
        raise ValueError(
            f"{value} may be a boolean or a text; write true or false, or '{value}' in quotes"
        )
    if isinstance(value, Mapping):
        for each in value.values():
            _meant(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _meant(each)
    return value


Args = Annotated[dict[str, Any], AfterValidator(_meant)]
"""Arguments by name, of something that reads them by itself."""


def _findings(model: type[BaseModel], faults: Sequence[Any]) -> list[str]:
    """Return a finding for each fault; what of several forms fits none is one finding."""
    told: dict[tuple[int | str, ...], list[Any]] = {}
    for fault in faults:
        if not is_consequence(fault):
            told.setdefault(place_of(model, fault["loc"]).words, []).append(fault)
    findings: list[str] = []
    for words, here in told.items():
        expected = [each for each in map(expectation, here) if each is not None]
        findings += [_finding(model, each) for each in here if expectation(each) is None]
        # Of several forms the one that is nearest has its fault further inside.
        is_inside = any(len(each) > len(words) and each[: len(words)] == words for each in told)
        if expected and not is_inside:
            location = f"{_dotted(words)}: " if words else ""
            forms = ", or ".join(dict.fromkeys(expected))
            findings.append(f"{location}expected {forms}, found {found(here[0], expected)}")
    return list(dict.fromkeys(findings))


def _finding(model: type[BaseModel], fault: Any) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        *before, key = fault["loc"]
        place = place_of(model, before)
        return f"{_dotted([*place.words, key])}: {_unknown(model, place, str(key))}"
    location = _dotted(place_of(model, fault["loc"]).words)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        # What was found is the whole mapping, which may hold what nobody should repeat.
        key = context["discriminator"].strip("'")
        location = f"{location}.{key}" if location else key
        if kind == "union_tag_invalid":
            expected = [each.strip(" '") for each in context["expected_tags"].split(",")]
            expectation = f"expected one of {', '.join(expected)} (found '{context['tag']}')"
            guess = nearest(context["tag"], expected)
            return f"{location}: {expectation}" + (f"; did you mean '{guess}'?" if guess else "")
    if kind in ("missing", "union_tag_not_found"):
        return f"{location}: this key is required and missing"
    ending = "" if kind == "value_error" else f" (found {fault['input']!r})"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{location}: {message}{ending}" if location else f"{message}"


def _dotted(words: Sequence[int | str]) -> str:
    return ".".join(str(word) for word in words)


def _unknown(model: type[BaseModel], place: Place, key: str) -> str:
    """Return what to say of a key that is not known where it stands."""
    having = [tag for tag, other in place.kinds.items() if key in other.model_fields]
    if having:
        kinds = f"{place.discriminator} {' and '.join(having)}"
        return f"not an option of {place.discriminator} {place.tag}, but of {kinds}"
    models = models_in(place.annotations)
    known = sorted({name for each in models for name in each.model_fields})
    elsewhere = {dotted.rpartition(".")[2]: dotted for dotted in reversed([*_keys(model)])}
    close = process.extractOne(key, known, score_cutoff=75)
    guess = elsewhere.get(key) or (close[0] if close else None)
    if guess is None:
        far = process.extractOne(key, list(elsewhere), score_cutoff=85)
        guess = elsewhere[far[0]] if far else nearest(key, known)
    hint = f"did you mean '{guess}'?" if guess else f"known keys: {', '.join(known)}"
    return f"unknown key; {hint}"


def _keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Yield the dotted keys of a model's sections, those of the outer ones first."""
    models = [model]
    if issubclass(model, RootModel):
        models = models_in(get_args(model.model_fields["root"].annotation))
    inner = []
    for each in models:
        for name, told in each.model_fields.items():
            if before:
                yield f"{before}{name}"
            # Below a list or a mapping a key has no one place.
            kinds = [told.annotation, *get_args(told.annotation)]
            is_named = get_origin(told.annotation) in (dict, Mapping)
            inner += [
                (one, f"{before}{name}.NAME." if is_named else f"{before}{name}.")
                for one in kinds
                if isinstance(one, type) and issubclass(one, BaseModel)
            ]
    for one, place in dict.fromkeys(inner):
        if place.count(".") < _DEEPEST:
            yield from _keys(one, place)
