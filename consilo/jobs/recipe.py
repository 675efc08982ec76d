"""How records become keys: the same recipe on every side, so that equal people give equal keys.

A recipe has one or more composite keys in order of strength. Each is a list of columns with the
steps that make their values comparable. A record with a missing part has no such key. The hash of a
recipe covers what its steps make of fixed examples, so that sides whose libraries differ in a
version that matters notice it before they match wrongly.

```yaml
keys:
  - name: insured
    parts: [{column: insurance_no, steps: [trim, upper]}]
    duplicates: same           # rows that share it are one person; the default is ambiguous
  - name: person
    parts:
      - {column: surname, steps: [trim, fold, plain, metaphone]}
      - {column: born, steps: ["date:%d.%m.%Y"]}
```
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from consilo.config import Config, nearest, parse, read_yaml
from consilo.contracts.compact_dates import padded
from consilo.errors import ConfigInvalid
from consilo.wire.payload import digest

if TYPE_CHECKING:
    import pandas as pd

_ISO_DATES = ("%Y-%m-%d", "%Y%m%d")
_TIME = re.compile(
    r"(?<=[0-9])[T ][0-9]{2}(:[0-9]{2}){1,2}(\.[0-9]+)?( ?(Z|[+-][0-9]{2}:?([0-9]{2})?))?"
)
_MARKS = re.compile(r"([0-9]{4})([/.])([0-9]{1,2})\2([0-9]{1,2})")
_EXAMPLES = (
    "  Müller-Lüdenscheidt ",
    "O'Neil",
    "ŁÓDŹ",
    "ﬁancée",
    "van der  Berg",
    "Straße 12a",
    "2001-02-03",
    "20010203",
    "3.2.2001",
    "0042",
    "Smythe",
    "Schmidt",
    "Thompson",
    "Knight",
    "ΑΘΗΝΑ",
    "",
)
_NUMERALS = ("1000.0", "+007.50", "12.0", "1e+16", "1e3", "0.0", "A7.0")
"""More examples, for the steps that know numbers: what these mean has changed once."""
_DATES = (
    "19900501.0",
    "1990-05-01T00:00:00.0+02:00",
    "1990/5/1",
    "1990.05.01 12:30",
    "1051990",
    "1051990.0",
)
"""And for those that know dates."""
_OF_DATES = ("date", "year", "month", "day")

Step = Callable[[str], "str | None"]


def _plain(text: str) -> str:
    """Return text without marks: taken apart (NFKD), the combining signs dropped."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(each for each in parts if not unicodedata.combining(each))


def _soundex(text: str) -> str:
    import jellyfish

    return jellyfish.soundex(text)


def _metaphone(text: str) -> str:
    import jellyfish

    return jellyfish.metaphone(text)


def _nysiis(text: str) -> str:
    import jellyfish

    return jellyfish.nysiis(text)


def _iso(text: str) -> str | None:
    """Return the day that a date begins with, or a time at it, where it was told."""
    text = text.strip()
    if time := _TIME.search(text):
        text = text if text[time.end() :] else text[: time.start()]
    text = _MARKS.sub(r"\1-\3-\4", text)
    return next(filter(None, (_dated(text, each) for each in _ISO_DATES)), None)


def _dated(text: str, form: str) -> str | None:
    # 19900501.0 is a date on its way through a column of floats, and may have lost its first zero.
    is_number = re.fullmatch(r"[0-9]+\.0", text) is not None
    whole = padded(text[:-2] if is_number else text, form, is_number=is_number)
    try:
        return None if whole is None else datetime.strptime(whole, form).date().isoformat()
    except ValueError:
        return None


def _part_of_date(start: int, end: int) -> Step:
    def cut(text: str) -> str | None:
        iso = _iso(text)
        return None if iso is None else iso[start:end]

    return cut


_NUMBER = re.compile(r"(?P<sign>[+-]?)0*(?P<whole>[0-9]+?)(?:\.(?P<rest>[0-9]*?)0*)?")
_LARGE = re.compile(r"[+-]?[0-9](?:\.[0-9]+)?e\+[0-9]{2}")
"""How a float from 1e16 on is written; ``1e3`` is a code."""


def _number(text: str) -> str:
    """Return a number as all sides write it: without leading zeros, a plus, or a bare ``.0``."""
    if _LARGE.fullmatch(text):
        text = format(Decimal(text), "f")
    match = _NUMBER.fullmatch(text)
    if match is None:  # a code with letters keeps what is behind its zeros
        return text.lstrip("0") or ("0" if text else "")
    rest = f".{match['rest']}" if match["rest"] else ""
    sign = "-" if match["sign"] == "-" and (match["whole"] != "0" or rest) else ""
    return f"{sign}{match['whole']}{rest}"


def _digits(text: str) -> str:
    # 12.0 is a whole number on its way through a column of floats: its digits are 12, not 120.
    text = text[:-2] if re.fullmatch(r"[0-9]+\.0", text) else text
    return "".join(each for each in text if each in "0123456789")


_STEPS: dict[str, Step] = {
    "trim": lambda text: " ".join(text.split()),
    "fold": lambda text: text.casefold(),
    "upper": lambda text: text.upper(),
    "plain": _plain,
    "digits": _digits,
    "letters": lambda text: "".join(each for each in text if each.isalpha()),
    "number": _number,
    "soundex": _soundex,
    "metaphone": _metaphone,
    "nysiis": _nysiis,
    "date": _iso,
    "year": _part_of_date(0, 4),
    "month": _part_of_date(5, 7),
    "day": _part_of_date(8, 10),
    "words": lambda text: " ".join(sorted(text.split())),
}
_WITH_NUMBER: dict[str, Callable[[int], Step]] = {
    "first": lambda count: lambda text: text[:count],
    "last": lambda count: lambda text: text[-count:],
}


def _step(step: str) -> Step:
    """Return the function of a step; raise `ValueError` for one that is not known."""
    name, colon, argument = step.partition(":")
    if not colon and name in _STEPS:
        return _STEPS[name]
    if name == "date" and "%" in argument:
        if "%y" in argument:
            raise ValueError(
                f"'{step}' does not say the century; let the silo's mapping read the column as a "
                "date, with date_format and years_from, and take the step date"
            )
        return lambda text: _dated(text, argument)
    if name in _WITH_NUMBER and re.fullmatch(r"[1-9][0-9]?", argument):
        return _WITH_NUMBER[name](int(argument))
    known = [*_STEPS, "date:%d.%m.%Y", "first:3", "last:4"]
    guess = nearest(step, known)
    raise ValueError(
        f"'{step}' is no step; {f'did you mean {guess!r}? ' if guess else ''}known: "
        f"{', '.join(known)}"
    )


class Part(Config):
    """One column of a key.

    Args:
        column: a column of the contract.
        steps: what makes its values comparable, in order: ``trim`` (and single blanks), ``fold``
            (case), ``upper``, ``plain`` (unicode NFKD without marks), ``digits``, ``letters``,
            ``number`` (1000, 01000, +1000 and 1000.0 alike), ``soundex``, ``metaphone``,
            ``nysiis``, ``words`` (in the order of the alphabet), ``first:N``, ``last:N``, ``date``
            (ISO or ``date:FORMAT`` → ISO), ``year``, ``month``, ``day``.
    """

    column: str = Field(min_length=1)
    steps: tuple[str, ...] = ("trim", "fold", "plain")

    @field_validator("steps")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            _step(each)
        return value

    def apply(self, text: str) -> str | None:
        """Return what the steps make of a value; None where nothing is left."""
        value: str | None = text
        for each in self._functions:
            if not value:
                return None
            value = each(value)
        return value or None

    @property
    def examples(self) -> tuple[str, ...]:
        """What the recipe's hash tries the steps on."""
        steps = {each.partition(":")[0] for each in self.steps}
        more = _NUMERALS if {"number", "digits"} & steps else ()
        return (*_EXAMPLES, *more, *(_DATES if steps & set(_OF_DATES) else ()))

    def texts(self, column: pd.Series[Any]) -> list[str | None]:
        """Return a column's values after the steps; each distinct value is worked on once."""
        codes, distinct = column.factorize()
        made = [self.apply(_text(value)) for value in distinct]
        made.append(None)  # the code -1 is a missing value
        return [made[code] for code in codes]

    @cached_property
    def _functions(self) -> list[Step]:
        return [_step(each) for each in self.steps]


class Key(Config):
    """One composite key.

    Args:
        parts: its columns.
        name: for people.
        duplicates: what rows of one silo are that share it: ``same``, one entity, or
            ``ambiguous``, so that none of them is matched by it.
    """

    parts: tuple[Part, ...] = Field(min_length=1)
    name: str = ""
    duplicates: Literal["ambiguous", "same"] = "ambiguous"


@dataclass(frozen=True)
class Digests:
    """The values of one key, as digests.

    Args:
        digests: uint8, [rows that have the key, 32]: BLAKE2b.
        rows: int64, [rows that have the key]: their numbers, ascending.
    """

    digests: np.ndarray[tuple[int, int], np.dtype[np.uint8]]
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]


class Recipe(Config):
    """Composite keys in order of strength; equal on all sides, or they do not match at all.

    Args:
        keys: the strongest first.
        version: of what the steps mean.
    """

    keys: Annotated[tuple[Key, ...], Field(min_length=1, max_length=16)]
    version: Literal[1] = 1

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"keys": value} if isinstance(value, list) else value

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the recipe in a YAML file.

        Raises:
            ConfigInvalid: with every fault.
        """
        return parse(cls, read_yaml(path), where=str(path))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a key uses, once, in order."""
        return tuple(dict.fromkeys(part.column for key in self.keys for part in key.parts))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the recipe and of what its steps make of fixed examples."""
        made = [
            [part.apply(each) for each in part.examples] for key in self.keys for part in key.parts
        ]
        return digest([self.model_dump(mode="json"), made])

    def require_columns(self, known: Sequence[str], *, where: str) -> None:
        """Raise `ConfigInvalid` where a column is not there."""
        faults = [
            f"keys: column '{each}' is not there; did you mean '{nearest(each, list(known))}'?"
            for each in self.columns
            if each not in known
        ]
        if faults:
            raise ConfigInvalid(where, faults)

    def digests(self, frame: pd.DataFrame, number: int) -> Digests:
        """Return the digests of one key's values, and the rows that have one.

        Args:
            frame: canonical rows.
            number: which key, from 0.
        """
        made, rows = bytearray(), []
        for row, value in enumerate(self._values(frame, number)):
            if value is not None:
                made += hashlib.blake2b(value, digest_size=32).digest()
                rows.append(row)
        raw = np.frombuffer(bytes(made), np.uint8).reshape(len(rows), 32)
        return Digests(raw, np.array(rows, np.int64))

    def values(self, frame: pd.DataFrame, number: int) -> np.ndarray[Any, Any]:
        """Return one key's values: object array of bytes, [rows]; None where a part is missing.

        Args:
            frame: canonical rows.
            number: which key, from 0.
        """
        column = np.empty(len(frame), dtype=object)
        for row, value in enumerate(self._values(frame, number)):
            column[row] = value
        return column

    def _values(self, frame: pd.DataFrame, number: int) -> Iterator[bytes | None]:
        columns = [_encoded(part.texts(frame[part.column])) for part in self.keys[number].parts]
        for parts in zip(*columns, strict=True):
            yield (
                None
                if None in parts
                else b"".join(len(each).to_bytes(4, "big") + each for each in parts)
            )


def _encoded(texts: Sequence[str | None]) -> list[bytes | None]:
    return [None if each is None else each.encode() for each in texts]


def _text(value: Any) -> str:
    """Return a canonical value as text: 7 and 7.0 alike, dates in ISO form."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return str(int(value)) if value == int(value) else repr(float(value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat())[:10]
    return str(value)
