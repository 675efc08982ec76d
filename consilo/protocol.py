"""What an algorithm is: a coordinator half and a silo half, side by side.

The silo half's functions are *verbs*. A verb declares its reply fields, each with a disclosure
class and a shape; both sides check an answer against that declaration, so an undeclared field never
leaves a silo and an odd reply never reaches a sum.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from consilo.check_report import CheckReport
from consilo.correspondence.cards import parsed
from consilo.errors import ReplyInvalid
from consilo.metrics import NUM_BINS

if TYPE_CHECKING:
    from consilo.job import Job
    from consilo.silo import Message, SiloView
    from consilo.steps import Step

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


@dataclass(frozen=True)
class Field:
    """A declared reply field.

    Args:
        disclosure: what kind of thing it is.
        kind: ``count`` (int >= 0), ``number``, ``numbers`` (name → number), ``arrays`` (name →
            numeric array, finite), ``tensors`` (arrays with the names, shapes and dtypes of the
            payload entry ``like``), ``tally`` (sums over rows by name), ``verdict`` (a contract
            check's findings), ``cards`` (what columns are, in their owner's words: printable lines
            of limited length), ``envelopes`` (receiver → sealed bytes).
        like: for ``tensors``, the payload entry to compare with.
        optional: may be absent.
        content: for ``envelopes``, what kind of thing is sealed in them; it leaves the silo too,
            for another silo.
    """

    disclosure: Disclosure
    kind: str
    like: str = ""
    optional: bool = False
    content: Disclosure | None = None

    def check(self, name: str, value: Any, payload: Mapping[str, Any]) -> None:
        """Raise `ReplyInvalid` where ``value`` is not what the field declares."""
        _CHECKS[self.kind](self, name, value, payload)


def count(disclosure: Disclosure = Disclosure.STATISTIC) -> Field:
    """A whole number, zero or more."""
    return Field(disclosure, "count")


def number(disclosure: Disclosure, *, optional: bool = False) -> Field:
    """One finite number."""
    return Field(disclosure, "number", optional=optional)


def numbers(disclosure: Disclosure, *, optional: bool = False) -> Field:
    """Finite numbers by name."""
    return Field(disclosure, "numbers", optional=optional)


def arrays(disclosure: Disclosure, *, optional: bool = False) -> Field:
    """Finite numeric arrays by name."""
    return Field(disclosure, "arrays", optional=optional)


def tensors(disclosure: Disclosure, *, like: str) -> Field:
    """Arrays with the names, shapes and dtypes of the payload's entry ``like``."""
    return Field(disclosure, "tensors", like=like)


def tally(disclosure: Disclosure = Disclosure.STATISTIC) -> Field:
    """Sums over rows from which `consilo.metrics` computes figures of merit."""
    return Field(disclosure, "tally")


def verdict(disclosure: Disclosure = Disclosure.STATISTIC) -> Field:
    """A contract check's findings: rule, column, verdict, severity, safe counts."""
    return Field(disclosure, "verdict")


def cards() -> Field:
    """What columns are, in their owner's words: `consilo.correspondence.cards`."""
    return Field(Disclosure.METADATA, "cards")


def envelopes(content: Disclosure | None = None) -> Field:
    """Sealed bytes (uint8 arrays) by receiver.

    Args:
        content: what kind of thing they hold for their receivers; None for what tells nothing of
            the silo's data, such as public keys.
    """
    return Field(Disclosure.SEALED, "envelopes", content=content)


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
    function: Callable[[Any, SiloView, Message], Mapping[str, Any]]

    @property
    def disclosures(self) -> frozenset[Disclosure]:
        """Every class that an answer of this verb may hold."""
        said = {field.disclosure for field in self.replies.values()}
        sealed = {field.content for field in self.replies.values() if field.content is not None}
        return frozenset(said | sealed)

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
            elif not field.optional:
                raise ReplyInvalid(f"verb '{self.name}': the field '{name}' is missing")


FunctionT = TypeVar("FunctionT", bound=Callable[..., Mapping[str, Any]])


def verb(name: str, *, replies: Mapping[str, Field]) -> Callable[[FunctionT], FunctionT]:
    """Mark a protocol's method as the verb ``name`` that answers with ``replies``."""

    def mark(function: FunctionT) -> FunctionT:
        function.__consilo_verb__ = Verb(name, dict(replies), function)  # type: ignore[attr-defined]
        return function

    return mark


class Protocol:
    """Base of every algorithm: `coordinate` runs at the coordinator, verbs run in the silos.

    A protocol is built anew on each side from the job, so it holds settings and never state.
    """

    needs_vectors = False
    """True where the coordinator half looks at single silos' vectors, not only at their sum."""
    only_by_its_job = False
    """True where a silo answers only in jobs whose ``protocol.name`` this is."""

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with the settings that a job gives; the same on both sides."""
        return cls()

    def prepare(self) -> None:
        """Check at the coordinator, before any message, what only its half needs.

        Raises:
            IncompatibleJob: where the coordinator half cannot work.
        """

    def coordinate(self, fed: Any, state: Any) -> Generator[Step, Any, Any]:
        """Yield steps, receive their results, return the final state."""
        raise NotImplementedError

    @classmethod
    def verbs(cls) -> dict[str, Verb]:
        """Return the verbs by name."""
        found: dict[str, Verb] = {}
        for attribute in dir(cls):
            each = getattr(getattr(cls, attribute), "__consilo_verb__", None)
            if isinstance(each, Verb):
                found[each.name] = each
        return found


def load_dotted(path: str) -> Any:
    """Return the object at ``module:name``.

    Raises:
        ImportError: where there is no such module.
        AttributeError: where the module has no such name.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _is_number(value: Any) -> bool:
    # The comparison, unlike math.isfinite, also holds for integers too large for a float.
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
    )


def _shown(names: list[str]) -> str:
    return ", ".join(name[:40] for name in names[:5])


def _check_count(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_COUNT:
        raise ReplyInvalid(f"{name}: expected a count, found a {type(value).__name__}")


def _check_number(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    if not _is_number(value):
        raise ReplyInvalid(f"{name}: expected a finite number, found a {type(value).__name__}")


def _check_mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or len(value) > _MAX_NAMES:
        raise ReplyInvalid(f"{name}: expected a mapping, found a {type(value).__name__}")
    return value


def _check_numbers(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    if not all(_is_number(item) for item in _check_mapping(name, value).values()):
        raise ReplyInvalid(f"{name}: expected finite numbers by name")


def _all_finite(array: np.ndarray[Any, Any]) -> bool:
    """Return whether every number is finite, block by block: no mask as large as the array."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[at : at + _BLOCK]).all() for at in range(0, flat.size, _BLOCK))


def _check_arrays(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    for item in _check_mapping(name, value).values():
        if not isinstance(item, np.ndarray) or item.dtype.kind not in "biuf":
            raise ReplyInvalid(f"{name}: expected numeric arrays by name")
        if item.dtype.kind == "f" and not _all_finite(item):
            raise ReplyInvalid(f"{name}: an array holds NaN or infinity")
        if item.dtype == np.float64 and (np.abs(item) > _MAX_NUMBER).any():
            raise ReplyInvalid(f"{name}: an array holds a number above {_MAX_NUMBER:g}")


def _check_tally(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    _check_arrays(field, name, value, payload)
    for key, item in value.items():
        if item.shape != ((NUM_BINS,) if key in ("scores_0", "scores_1") else ()):
            raise ReplyInvalid(f"{name}: '{key[:40]}' has the shape {list(item.shape)}")
        signed = key == "target_sum" or key.startswith("metric_sum/")
        whole = key in ("n", "values", "correct")
        if (not signed and (item < 0).any()) or (whole and item != np.floor(item)):
            raise ReplyInvalid(f"{name}: '{key[:40]}' is no sum over rows")


def _check_tensors(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    _check_arrays(field, name, value, payload)
    model = payload[field.like]
    if set(value) != set(model):
        raise ReplyInvalid(
            f"{name}: expected the {len(model)} tensors of '{field.like}', found {len(value)}"
        )
    for key, expected in model.items():
        found = value[key]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise ReplyInvalid(
                f"{name}: tensor '{key}' is {found.dtype}{list(found.shape)}, "
                f"expected {expected.dtype}{list(expected.shape)}"
            )


def _check_verdict(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    try:
        CheckReport.from_json(json.dumps(value))
    except (ValueError, TypeError, RecursionError):
        raise ReplyInvalid(
            f"{name}: expected a contract report; a finding holds rule, column, verdict, severity "
            "and counts, and nothing else"
        ) from None


def _check_cards(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    try:
        parsed(value)
    except (ValueError, TypeError, RecursionError):
        raise ReplyInvalid(
            f"{name}: expected descriptions of columns; each holds name, type, unit, description, "
            "codes, range, and nothing else, in printable lines of limited length"
        ) from None


def _check_envelopes(field: Field, name: str, value: Any, payload: Mapping[str, Any]) -> None:
    for item in _check_mapping(name, value).values():
        if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.ndim != 1:
            raise ReplyInvalid(f"{name}: expected sealed bytes (uint8 arrays) by receiver")


_CHECKS: dict[str, Callable[[Field, str, Any, Mapping[str, Any]], None]] = {
    "count": _check_count,
    "number": _check_number,
    "numbers": _check_numbers,
    "arrays": _check_arrays,
    "tensors": _check_tensors,
    "tally": _check_tally,
    "verdict": _check_verdict,
    "cards": _check_cards,
    "envelopes": _check_envelopes,
}
