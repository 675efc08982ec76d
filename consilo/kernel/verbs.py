"""What a silo is asked: verbs, their reply fields, and the class in which each field leaves a silo.

Both sides check an answer against its verb's declaration, so an undeclared field never leaves a
silo and an odd reply never reaches a sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.wire.params import num_bytes

_BLOCK = 1 << 20
_MAX_NAMES = 10_000
_MAX_NUMBER = 1e100
"""No honest figure is larger; its square and sums of squares are still finite."""
_MAX_COUNT = 2**53


class Disclosure(StrEnum):
    """What kind of thing leaves the silo; a silo's policy allows classes, one by one."""

    METRIC = "metric"
    """A figure of merit of a model on the silo's held-out rows."""
    STATISTIC = "statistic"
    """A count or an aggregate over rows."""
    UPDATE = "update"
    """A change of model parameters."""
    MASKED_UPDATE = "masked_update"
    """An update that only a sum over silos reveals."""
    EMBEDDING = "embedding"
    """A per-row representation."""
    LABEL = "label"
    """A label, or something from which one can be computed."""
    SEALED = "sealed"
    """Bytes that only another silo can open."""
    MATCH = "match"
    """Blinded identifiers, from which a partner learns which of its own people are here too."""
    METADATA = "metadata"
    """Words about columns that a person in the silo has released, column by column; no row."""


class FromRows(StrEnum):
    """What a field is computed from, and how exactly: a silo's policy judges by it.

    The last three are noisy, and paid from the data set's account, where the job's section
    ``privacy`` has the key `price`; where it has not, they are exact.
    """

    NONE = "none"
    """No value of a row: words, keys, prices, references, and the number of rows, which is public,
    or of subjects where the job hides those."""
    CHECKED = "checked"
    """Whether the rows keep a contract that people here confirmed, one bit; and, unless the policy
    wants privacy, which rules they break, in coarse counts, and a mark that is another one where
    the rows are others, keyed by the silo."""
    MATCH = "match"
    """Blinded identifiers for a partner: exact, and let out by a policy's ``matching`` alone."""
    EXACT = "exact"
    TRAINING = "noisy_training"
    STATISTICS = "noisy_statistics"
    FIGURES = "noisy_figures"

    @property
    def price(self) -> str:
        """The key of a job's section ``privacy`` that pays for it; empty where none does."""
        return _PRICES.get(self.value, "")


_PRICES = {
    "noisy_training": "epsilon",
    "noisy_statistics": "statistics_epsilon",
    "noisy_figures": "metrics_epsilon",
}

Check = Callable[[str, Any, Mapping[str, Any]], None]
"""(where, value, payload of the request): raises `ReplyInvalid` unless the value has the shape."""


@dataclass(frozen=True)
class Field:
    """A declared reply field.

    `count`, `number`, `numbers`, `arrays`, `tensors` and `envelopes` make those that every protocol
    may need; what only one kind of protocol sends is declared beside it.

    Args:
        disclosure: what kind of thing it is.
        shape: raises `ReplyInvalid` where a value is not what the field declares.
        optional: may be absent.
        content: for sealed bytes, what kind of thing is sealed in them; it leaves the silo too, for
            another silo.
        like: the payload's entry whose names, shapes and dtypes it has; empty where it is small.
        rows: what it is computed from, and how exactly.
        held_out: whether it is made of held-out rows, by a model that the request brings.
        where_asked: it is in an answer just where the payload has the entry ``like``.
        kind: which of those made it, so that another process can check it too; empty for others.
    """

    disclosure: Disclosure
    shape: Check
    optional: bool = False
    content: Disclosure | None = None
    like: str = ""
    rows: FromRows = FromRows.EXACT
    held_out: bool = False
    where_asked: bool = False
    kind: str = ""

    @property
    def is_sized(self) -> bool:
        """Whether the declaration and the request say how large it is."""
        return self.kind in _SIZED

    @property
    def classes(self) -> frozenset[Disclosure]:
        """Its class, and that of what is sealed in it."""
        return frozenset(each for each in (self.disclosure, self.content) if each is not None)

    def check(self, name: str, value: Any, payload: Mapping[str, Any]) -> None:
        """Raise `ReplyInvalid` where ``value`` is not what the field declares."""
        self.shape(name, value, payload)


def count(
    disclosure: Disclosure = Disclosure.STATISTIC, *, rows: FromRows = FromRows.EXACT
) -> Field:
    """A whole number, zero or more."""
    return Field(disclosure, check_count, rows=rows, kind="count")


def number(
    disclosure: Disclosure, *, optional: bool = False, rows: FromRows = FromRows.EXACT
) -> Field:
    """One finite number."""
    return Field(disclosure, check_number, optional=optional, rows=rows, kind="number")


def numbers(
    disclosure: Disclosure,
    *,
    optional: bool = False,
    rows: FromRows = FromRows.EXACT,
    held_out: bool = False,
) -> Field:
    """Finite numbers by name."""
    return Field(
        disclosure, check_numbers, optional=optional, rows=rows, held_out=held_out, kind="numbers"
    )


def arrays(
    disclosure: Disclosure, *, optional: bool = False, rows: FromRows = FromRows.EXACT
) -> Field:
    """Finite numeric arrays by name."""
    return Field(disclosure, check_arrays, optional=optional, rows=rows, kind="arrays")


def tensors(
    disclosure: Disclosure,
    *,
    like: str,
    optional: bool = False,
    rows: FromRows = FromRows.EXACT,
    where_asked: bool = False,
) -> Field:
    """Arrays with the names, shapes and dtypes of the payload's entry ``like``."""
    return Field(
        disclosure,
        partial(_check_tensors, like=like),
        optional=optional,
        like=like,
        rows=rows,
        where_asked=where_asked,
        kind="tensors",
    )


def envelopes(content: Disclosure | None = None, *, rows: FromRows | None = None) -> Field:
    """Sealed bytes (uint8 arrays) by receiver.

    Args:
        content: what kind of thing they hold for their receivers; None for what tells nothing of
            the silo's data, such as public keys.
        rows: what they are computed from; None is nothing without ``content``, else exact.
    """
    if rows is None:
        rows = FromRows.NONE if content is None else FromRows.EXACT
    return Field(Disclosure.SEALED, _check_envelopes, content=content, rows=rows, kind="envelopes")


@dataclass(frozen=True)
class AskedField:
    """What one field of an answer would let leave.

    Args:
        name: the field's.
        disclosures: its class, and that of what is sealed in it.
        rows: what it is computed from, and how exactly.
        optional: whether an answer without it counts.
        held_out: whether it is made of held-out rows.
    """

    name: str
    disclosures: frozenset[Disclosure]
    rows: FromRows
    optional: bool
    held_out: bool


@dataclass(frozen=True)
class Asked:
    """What a verb would let leave, in plain values: a silo's gate judges by it.

    Args:
        name: the verb's.
        fields: of its answer.
    """

    name: str
    fields: tuple[AskedField, ...]

    @property
    def disclosures(self) -> frozenset[Disclosure]:
        """Every class that an answer may hold."""
        return frozenset(each for field in self.fields for each in field.disclosures)

    @property
    def uses_rows(self) -> bool:
        """Whether anything of an answer is computed from values of rows."""
        return any(field.rows != FromRows.NONE for field in self.fields)

    def strictest(self) -> Asked:
        """Return how the fields are read of code that is not Consilo's own, whatever it declares.

        All is exact and computed from rows; a figure of merit is one of held-out rows; what is
        said to be masked is taken for a plain update.
        """
        return Asked(self.name, tuple(_strictest(each) for each in self.fields))


def _strictest(field: AskedField) -> AskedField:
    said = field.disclosures
    if Disclosure.MASKED_UPDATE in said:
        said = said | {Disclosure.UPDATE}
    return replace(
        field,
        disclosures=said,
        rows=FromRows.EXACT,
        held_out=field.held_out or Disclosure.METRIC in said,
    )


def unread(name: str, classes: frozenset[Disclosure]) -> Asked:
    """Return how a verb is judged of which nothing is known but the classes that may leave.

    Args:
        name: the verb's.
        classes: that the label of its bundle declares.
    """
    fields = (
        AskedField(str(each), frozenset({each}), FromRows.EXACT, optional=False, held_out=False)
        for each in sorted(classes)
    )
    return Asked(name, tuple(fields)).strictest()


@dataclass(frozen=True)
class Permitted:
    """What a silo's gate lets a verb do.

    Args:
        withheld: optional fields that its policy keeps back, each with the reason.
        floors: class → of how many rows a figure of it must be made.
        is_private: whether times are told coarsely, and a contract check says one bit.
        wants_privacy: whether what is computed from rows leaves with differential privacy only.
        unsized_bytes: most of an answer's fields whose size nothing declares, where a job's own
            code made them; None sets no limit.
    """

    withheld: Mapping[str, str] = dataclasses.field(default_factory=dict)
    floors: Mapping[Disclosure, int] = dataclasses.field(default_factory=dict)
    is_private: bool = False
    wants_privacy: bool = False
    unsized_bytes: int | None = None


@dataclass(frozen=True)
class Verb:
    """A silo half's function with what it declares.

    Args:
        name: as the coordinator asks for it.
        replies: field name → declaration.
        function: (protocol, silo, message) → reply fields.
    """

    name: str
    replies: Mapping[str, Field]
    function: Callable[[Any, Any, Any], Mapping[str, Any]]

    @property
    def disclosures(self) -> frozenset[Disclosure]:
        """Every class that an answer of this verb may hold."""
        return self.asked.disclosures

    @property
    def asked(self) -> Asked:
        """What a silo's gate is told of the verb."""
        return Asked(
            self.name,
            tuple(
                AskedField(name, each.classes, each.rows, each.optional, each.held_out)
                for name, each in self.replies.items()
            ),
        )

    def num_bytes(self, payload: Mapping[str, Any]) -> int:
        """Return the size of an answer's vectors; its figures are not counted."""
        likes = [each.like for each in self.replies.values() if each.like in payload]
        return sum(num_bytes(payload[each]) for each in likes)

    def unsized_bytes(self, reply: Mapping[str, Any]) -> int:
        """Return how large the fields of a reply are of which no declaration says it, names too."""
        free = [name for name, each in self.replies.items() if not each.is_sized]
        return _size({name: reply[name] for name in free if name in reply})

    def named_bytes(self, reply: Mapping[str, Any]) -> int:
        """Return how large the numbers of a reply are whose names a job's own code may choose."""
        named = [name for name, each in self.replies.items() if each.kind == "numbers"]
        return _size({name: reply[name] for name in named if name in reply})

    def check(self, reply: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        """Raise `ReplyInvalid` unless ``reply`` holds just what was declared.

        Args:
            reply: the answer's fields.
            payload: what was asked, for the fields that must be like a part of it.
        """
        undeclared = sorted(set(reply) - set(self.replies))
        if undeclared:
            raise ReplyInvalid(
                f"verb '{self.name}': undeclared fields {_shown(undeclared)}; declared are "
                f"{', '.join(sorted(self.replies))}"
            )
        for name, field in self.replies.items():
            if name in reply:
                field.check(f"verb '{self.name}', field '{name}'", reply[name], payload)
            elif field.like in payload if field.where_asked else not field.optional:
                raise ReplyInvalid(f"verb '{self.name}': the field '{name}' is missing")


def declaration(field: Field) -> dict[str, Any]:
    """Return what a field declares, in plain values, for `declared_field` in another process."""
    return {
        "kind": field.kind,
        "disclosure": str(field.disclosure),
        "content": None if field.content is None else str(field.content),
        "like": field.like,
        "optional": field.optional,
        "where_asked": field.where_asked,
    }


def declared_field(plain: Mapping[str, Any]) -> Field:
    """Return a field as another process says that it is declared, with our own check of its kind.

    One of a kind that is not ours passes as it is: what it may hold is bounded by its size alone.

    Args:
        plain: as `declaration` made it, or somebody who would like to be believed.

    Raises:
        ReplyInvalid: where that is no declaration.
    """
    kind, like = plain.get("kind"), plain.get("like")
    try:
        said = [plain["content"], plain["disclosure"]]
        content, disclosure = (None if each is None else Disclosure(each) for each in said)
        check = _CHECKS[str(kind)]
    except (KeyError, ValueError):
        raise ReplyInvalid("what declares a field is no declaration") from None
    if disclosure is None or not isinstance(like, str):
        raise ReplyInvalid("what declares a field is no declaration")
    return Field(
        disclosure,
        partial(_check_tensors, like=like) if kind == "tensors" else check,
        optional=plain.get("optional") is True,
        content=content,
        like=like,
        where_asked=plain.get("where_asked") is True,
        kind=str(kind),
    )


FunctionT = TypeVar("FunctionT", bound=Callable[..., Mapping[str, Any]])


def verb(name: str, *, replies: Mapping[str, Field]) -> Callable[[FunctionT], FunctionT]:
    """Mark a protocol's method as the verb ``name`` that answers with ``replies``."""

    def mark(function: FunctionT) -> FunctionT:
        function.__consilo_verb__ = Verb(name, dict(replies), function)  # type: ignore[attr-defined]
        return function

    return mark


def _is_number(value: Any) -> bool:
    # The comparison, unlike math.isfinite, also holds for integers too large for a float.
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
    )


def _shown(names: list[str]) -> str:
    return ", ".join(name[:40] for name in names[:5])


def _size(value: Any) -> int:
    """Return how many bytes a plain value can tell, its names included."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes) + 8 * value.ndim
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, int):
        return max(8, (value.bit_length() + 7) // 8)
    if isinstance(value, Mapping):
        return sum(_size(str(key)) + _size(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return sum(8 + _size(each) for each in value)
    return 8 if value is None or isinstance(value, float) else len(memoryview(value).cast("B"))


def check_count(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    """Raise `ReplyInvalid` unless a value is a whole number, zero or more."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_COUNT:
        raise ReplyInvalid(f"{name}: expected a count, found a {type(value).__name__}")


def check_number(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    """Raise `ReplyInvalid` unless a value is one finite number."""
    if not _is_number(value):
        raise ReplyInvalid(f"{name}: expected a finite number, found a {type(value).__name__}")


def _check_mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or len(value) > _MAX_NAMES:
        raise ReplyInvalid(f"{name}: expected a mapping, found a {type(value).__name__}")
    return value


def check_numbers(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    """Raise `ReplyInvalid` unless a value is finite numbers by name."""
    if not all(_is_number(item) for item in _check_mapping(name, value).values()):
        raise ReplyInvalid(f"{name}: expected finite numbers by name")


def _all_finite(array: np.ndarray[Any, Any]) -> bool:
    """Return whether every number is finite, block by block: no mask as large as the array."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[at : at + _BLOCK]).all() for at in range(0, flat.size, _BLOCK))


def check_arrays(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    """Raise `ReplyInvalid` unless a value is finite numeric arrays by name."""
    for item in _check_mapping(name, value).values():
        if not isinstance(item, np.ndarray) or item.dtype.kind not in "biuf":
            raise ReplyInvalid(f"{name}: expected numeric arrays by name")
        if item.dtype.kind == "f" and not _all_finite(item):
            raise ReplyInvalid(f"{name}: an array holds NaN or infinity")
        if item.dtype == np.float64 and (np.abs(item) > _MAX_NUMBER).any():
            raise ReplyInvalid(f"{name}: an array holds a number above {_MAX_NUMBER:g}")


def _check_tensors(name: str, value: Any, payload: Mapping[str, Any], *, like: str) -> None:
    check_arrays(name, value, payload)
    if like not in payload:
        raise ReplyInvalid(f"{name}: nothing was asked that it could be like: no '{like}'")
    model = payload[like]
    if set(value) != set(model):
        raise ReplyInvalid(
            f"{name}: expected the {len(model)} tensors of '{like}', found {len(value)}"
        )
    for key, expected in model.items():
        found = value[key]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise ReplyInvalid(
                f"{name}: tensor '{key}' is {found.dtype}{list(found.shape)}, "
                f"expected {expected.dtype}{list(expected.shape)}"
            )


def _check_envelopes(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    for item in _check_mapping(name, value).values():
        if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.ndim != 1:
            raise ReplyInvalid(f"{name}: expected sealed bytes (uint8 arrays) by receiver")


def _check_nothing(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    """Let any plain value pass."""


_CHECKS: Mapping[str, Check] = {
    "": _check_nothing,
    "arrays": check_arrays,
    "count": check_count,
    "envelopes": _check_envelopes,
    "number": check_number,
    "numbers": check_numbers,
    "tensors": check_arrays,  # and `like`, see `declared_field`
}
_SIZED = frozenset({"count", "number", "tensors"})
