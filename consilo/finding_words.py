"""What is wrong with a value that a person wrote, in words: what is expected, what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from rapidfuzz import process

_MOST_SHOWN = 80
MAPPING = "a mapping of keys to values"
_KINDS = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "dict": MAPPING,
    "mapping": MAPPING,
    "model": MAPPING,
    "dataclass": MAPPING,
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen": "a list",
    "iterable": "a list",
    "date": "a date, such as 2026-01-31",
    "datetime": "a date and time, such as 2026-01-31T08:00:00",
    "time": "a time, such as 20:00",
}
"""The first word of a fault's type → what is expected there."""
_LIMITS = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "{min_length} or more entries",
    "too_long": "{max_length} entries at most",
    "string_too_short": "a text no shorter than {min_length}",
    "string_too_long": "a text no longer than {max_length}",
    "string_pattern_mismatch": "a text of the form {pattern}",
}


@dataclass(frozen=True)
class Form:
    """A text's form, as annotation of a field: a regular expression, and what people read.

    >>> from typing import Annotated
    >>> from pydantic import TypeAdapter
    >>> Path = Annotated[str, Form("[a-z]+:[A-Z][a-z]+", "module:Class, such as nets:Net")]
    >>> TypeAdapter(Path).validate_python("nets:Net")
    'nets:Net'
    """

    pattern: str
    words: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of a text that is checked afterwards."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return what an editor checks by."""
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _checked(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise PydanticCustomError("form", "{words}", {"words": self.words})
        return value


def expectation(fault: Mapping[str, Any]) -> str | None:
    """Return what is expected where pydantic found a fault; None where the fault says it itself.

    Args:
        fault: one entry of ``ValidationError.errors()``.
    """
    kind: str = fault["type"]
    context = fault.get("ctx", {})
    if kind == "form":
        return str(context["words"])
    if kind in _LIMITS:
        limits = {name: _plain(each) for name, each in context.items()}
        return _LIMITS[kind].format(**limits)
    if kind in ("literal_error", "enum"):
        known: list[str] = re.findall(r"'([^']*)'", context["expected"])
        if len(known) == 1:
            return known[0]
        given = fault["input"] if isinstance(fault["input"], str) else ""
        guess = process.extractOne(given, known, score_cutoff=60)
        return f"one of {', '.join(known)}" + (f" (did you mean '{guess[0]}'?)" if guess else "")
    return _KINDS.get(kind.split("_")[0])


def _plain(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def is_consequence(fault: Mapping[str, Any]) -> bool:
    """Return whether a fault follows from others: a list is short of entries that are invalid."""
    value, context = fault.get("input"), fault.get("ctx", {})
    return (
        fault["type"] == "too_short"
        and isinstance(value, list | tuple | dict)
        and len(value) >= context["min_length"]
    )


def found(fault: Mapping[str, Any], expected: Sequence[str]) -> str:
    """Return what was found; of a text in a mapping's place, which may be a secret, its kind."""
    value = fault["input"]
    return "a text" if expected[0] == MAPPING and isinstance(value, str) else shown(value)


def shown(value: Any) -> str:
    """Return a value as a finding names it, in the words of YAML.

    >>> [shown(each) for each in (None, True, "ten", [1, 2], {"a": 1})]
    ['nothing', 'true', "'ten'", 'a list', 'a mapping of keys to values']
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, Mapping):
        return MAPPING if value else "an empty mapping"
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
