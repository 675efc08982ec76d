"""What a silo may be called, the same in every file, command and argument; jobs and data sets, too.

A name is a directory, a part of an address, and a word in a terminal. Upper case is refused, since
directories of some machines do not tell `A` from `a`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from consilo.errors import ConfigInvalid

FORM = r"[a-z][a-z0-9_-]{0,62}"
RULE = "a lower-case letter, then lower-case letters, digits, '_' and '-', 63 signs at most"


def fault_of(name: Any, *, what: str = "silo") -> str:
    """Return what to say of a name that is none; empty where it is one.

    Args:
        name: as it was given.
        what: whose name it is.

    >>> fault_of("north")
    ''
    >>> fault_of("North 1")
    "a silo's name is a lower-case letter, then lower-case letters, digits, '_' and '-', 63 signs \
at most, found 'North 1'; 'north-1' would do"
    """
    if isinstance(name, str) and re.fullmatch(FORM, name):
        return ""
    shown = repr(name if not isinstance(name, str) or len(name) < 80 else f"{name[:79]}…")
    proposal = proposed(name) if isinstance(name, str) else ""
    hint = f"; '{proposal}' would do" if proposal else ""
    return f"a {what}'s name is {RULE}, found {shown}{hint}"


def proposed(text: str) -> str:
    """Return the name that is nearest to a text; empty where nothing of it can stay.

    >>> [proposed(each) for each in ("A", "Centre Hospitalier d'Évry", "3rd ward", "北")]
    ['a', 'centre-hospitalier-d-evry', 'rd-ward', '']
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    joined = re.sub(r"[^a-z0-9_-]+", "-", plain)
    return re.sub(r"^[^a-z]+", "", joined)[:63].rstrip("-_")


def require_name(name: Any, *, where: str, what: str = "silo") -> None:
    """Raise `ConfigInvalid` where that is no name."""
    if fault := fault_of(name, what=what):
        raise ConfigInvalid(where, [fault])


def _named(what: str) -> Callable[[str], str]:
    def named(name: str) -> str:
        if fault := fault_of(name, what=what):
            raise ValueError(fault)
        return name

    return named


_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{FORM}$"})
SiloName = Annotated[str, AfterValidator(_named("silo")), _SCHEMA]
DataName = Annotated[str, AfterValidator(_named("data set")), _SCHEMA]
JobName = Annotated[str, AfterValidator(_named("job")), _SCHEMA]
