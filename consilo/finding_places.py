"""Where in a file a finding is: pydantic's locations as the person who wrote it knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Field, RootModel
from pydantic.fields import FieldInfo

_PLAIN_FORMS = {"str", "int", "float", "bool", "date", "datetime", "time", "none"}


@dataclass(frozen=True)
class Place:
    """Where pydantic's location of a fault leads to.

    Args:
        words: the location as it stands in the file, without the names of a union's kinds.
        annotations: what may stand there.
        discriminator: the key that says which kind stands there; empty where there is one only.
        tag: what it says.
        kinds: what it could say → the model.
    """

    words: tuple[int | str, ...]
    annotations: tuple[Any, ...]
    discriminator: str = ""
    tag: str = ""
    kinds: Mapping[str, type[BaseModel]] = field(default_factory=dict)


def place_of(model: type[BaseModel], location: Sequence[int | str]) -> Place:
    """Return where a location of pydantic's leads to in what a person wrote."""
    place = Place((), (model,))
    for part in location:
        # Pydantic's own words: where a key itself is wrong, and which form of several was tried.
        if part == "[key]" or _is_form(part, place.annotations):
            continue
        unions = [each for outer in place.annotations for each in _unions(outer)]
        union = next((each for each in unions if part in each[1]), None)
        if union is not None:
            key, kinds = union
            place = Place(place.words, (kinds[str(part)],), key, str(part), kinds)
        else:
            inner = [each for outer in place.annotations for each in _inner(outer, part)]
            place = Place((*place.words, part), tuple(inner) or place.annotations)
    return place


def _is_form(part: int | str, annotations: Sequence[Any]) -> bool:
    """Return whether a part of a location says which kind of value was tried, of several."""
    several = any(
        get_origin(each) in (Union, UnionType) and not _unions(each)
        for outer in annotations
        for each in (outer, *(get_args(outer)[:1] if get_origin(outer) is Annotated else ()))
    )
    if not several or isinstance(part, int):
        return False
    names = {each.__name__ for each in models_in(annotations)}
    return part in names | _PLAIN_FORMS or any(sign in part for sign in "[(-")


def _unions(annotation: Any) -> list[tuple[str, dict[str, type[BaseModel]]]]:
    """Return (discriminator, what it says → the model) of each union that an annotation may be."""
    arguments = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _unions(_annotated(annotation.model_fields["root"]))
    if get_origin(annotation) is Annotated:
        told = [each.discriminator for each in arguments[1:] if isinstance(each, FieldInfo)]
        key = next((each for each in told if isinstance(each, str)), None)
        if key is None:
            return _unions(arguments[0])
        models = models_in(arguments[:1])
        tags = [(get_args(each.model_fields[key].annotation), each) for each in models]
        return [(key, {tag: each for several, each in tags for tag in several})]
    if get_origin(annotation) in (Union, UnionType):
        return [each for inner in arguments for each in _unions(inner)]
    return []


def _inner(annotation: Any, part: int | str) -> list[Any]:
    """Return what may stand at one key, or place, of what an annotation describes."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        told = [each for name, each in fields.items() if part in (name, each.alias)]
        return [_annotated(each) for each in told]
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _inner(arguments[0], part)
    if get_origin(annotation) in (Union, UnionType):
        return [each for inner in arguments for each in _inner(inner, part)]
    # Of a mapping the last is its values', of a sequence its items'.
    return [each for each in arguments[-2:] if each is not Ellipsis][-1:]


def _annotated(told: FieldInfo) -> Any:
    if told.discriminator is None:
        return told.annotation
    return Annotated[told.annotation, Field(discriminator=told.discriminator)]


def models_in(annotations: Sequence[Any]) -> list[type[BaseModel]]:
    """Return the models that annotations may be."""
    models: list[type[BaseModel]] = []
    for each in annotations:
        if isinstance(each, type) and issubclass(each, BaseModel):
            models.append(each)
        else:
            models += models_in(get_args(each))
    return models
