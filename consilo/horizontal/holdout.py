"""Which rows of a silo are held out: of each row by itself, the same in every run of every job.

A row's side is a pseudo-random number of that row and of a key of the silo, held against the job's
share: what other rows there are does not count, nor does their order or the job's seed. So a row
more or less moves that row only (what differential privacy rests on), equal rows are on one side,
a larger share holds out all that a smaller one does, and no later job is tested on what an earlier
one has learnt from. Where the contract names a subject (role ``subject``), it decides in place of
the row, so that nobody is on both sides.

Folds are parts of equal size of the same numbers, so that what holds of a share holds of each of
them. Where a job names rows by a column's values or by time, those decide; a row without a value
there, or with one that is on neither side, is on neither side, and is counted.

There is no stratification: it would let each row move others. The shares of classes on both sides
are those that chance gives.

The number is AES-CBC-MAC of the row's values in the contract's order, eight bytes a column: a
pseudo-random function for messages of one length (Bellare, Kilian, Rogaway 2000, Theorem 3.1).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from consilo.config import nearest
from consilo.contracts.contract import Column, Contract
from consilo.errors import IncompatibleJob, SchemaDrift
from consilo.jobs.job import Evaluation
from consilo.jobs.split import Split

if TYPE_CHECKING:
    import pandas as pd

Words = npt.NDArray[np.uint64]

PURPOSE = "holdout"
"""What the silo's key for this is called: see `consilo.kernel.roles.Secrets.lasting`."""
TRAIN, TEST, NEITHER = 0, 1, -1
"""On which side of the split a row is."""
_BLOCK = 16
_MISSING = b"\x00missing"


def held_out(
    frame: pd.DataFrame, contract: Contract, evaluation: Evaluation, key: bytes
) -> npt.NDArray[np.bool_]:
    """Return which rows are held out, (rows,); see `sides`."""
    return np.asarray(sides(frame, contract, evaluation, key) == TEST)


def sides(
    frame: pd.DataFrame, contract: Contract, evaluation: Evaluation, key: bytes
) -> npt.NDArray[np.int8]:
    """Return on which side each row is: `TRAIN`, `TEST` or `NEITHER`, (rows,).

    Args:
        frame: canonical rows, or any part of them.
        contract: what they obey.
        evaluation: the job's: the share, a fold, or the column that says it.
        key: 32 bytes of the silo.

    Raises:
        IncompatibleJob: where the job names a column that cannot say it.
        SchemaDrift: where a row has no subject, or a column of role split says neither.
    """
    if isinstance(evaluation.split, str):
        return _said(frame, contract, evaluation.split)
    named = evaluation.named
    if named is not None and named.column is not None:
        require_split(contract, named)
        return _by_column(frame[named.column], contract.columns[named.column], named)
    found, (low, high) = unit_numbers(frame, contract, key), _ends(evaluation)
    within = found >= np.uint64(low)
    if high < 2**64:
        within &= found < np.uint64(high)
    return within.astype(np.int8)


def unit_numbers(frame: pd.DataFrame, contract: Contract, key: bytes) -> Words:
    """Return what decides of each row by itself on which side it is: its subject's, or its own.

    Args:
        frame: canonical rows, or any part of them.
        contract: what they obey.
        key: 32 bytes of the silo.

    Raises:
        SchemaDrift: where a row has no subject.
    """
    if contract.subject is not None:
        return subjects_of(frame, contract, key)
    return numbers(frame, contract.table, key)


def ends_of(evaluation: Evaluation) -> frozenset[int] | None:
    """Return the numbers at which a job's rows change sides: one, or a fold's two.

    0 is a share of which no number is below; None where a column says which rows are held out.
    """
    named = evaluation.named
    if isinstance(evaluation.split, str) or (named is not None and named.column is not None):
        return None
    low, high = _ends(evaluation)
    return frozenset({low, high} - {2**64} - ({0} if high else set()))


def _ends(evaluation: Evaluation) -> tuple[int, int]:
    """Return from which number on rows are held out, and below which: 2**64 for all above."""
    named = evaluation.named
    if named is None or named.folds is None or named.fold is None:
        return 0, _at(evaluation.holdout)
    above = _at(named.fold / named.folds) if named.fold < named.folds else 2**64
    return _at((named.fold - 1) / named.folds), above


def _at(share: float) -> int:
    return min(int(share * 2.0**64), 2**64 - 1)


def numbers(frame: pd.DataFrame, columns: tuple[Column, ...], key: bytes) -> Words:
    """Return a pseudo-random number of each row: uint64, (rows,).

    Args:
        frame: canonical rows.
        columns: which of their columns count, in this order.
        key: 32 secret bytes.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    mac_key, value_key = (hmac.digest(key, each, "sha256") for each in (b"rows", b"values"))
    # Electronic code book of one block a row is CBC-MAC of all rows side by side.
    cipher = Cipher(algorithms.AES(mac_key), modes.ECB()).encryptor()
    state = np.zeros((len(frame), 2), np.uint64)
    for pair in _pairs([_words(frame[each.name], each, value_key) for each in columns], len(frame)):
        state = np.frombuffer(cipher.update((state ^ pair).tobytes()), np.uint64).reshape(-1, 2)
    return state[:, 0].copy()


def subjects_of(frame: pd.DataFrame, contract: Contract, key: bytes) -> Words:
    """Return a number for each row that rows of one subject share: uint64, (rows,).

    Args:
        frame: canonical rows.
        contract: names the subject.
        key: 32 secret bytes; two subjects share a number with a probability of ``2**-64``.

    Raises:
        SchemaDrift: where a row has no subject.
    """
    assert contract.subject is not None
    _require_subjects(frame, contract.subject)
    return numbers(frame, (contract.columns[contract.subject],), key)


def _require_subjects(frame: pd.DataFrame, subject: str) -> None:
    if bool(frame[subject].isna().any()):
        raise SchemaDrift(f"column '{subject}': rows have no subject; each needs one")


def _pairs(words: list[Words], num_rows: int) -> Iterator[Words]:
    if len(words) % 2 or not words:
        words = [*words, np.zeros(num_rows, np.uint64)]
    for first, second in zip(words[::2], words[1::2], strict=True):
        yield np.column_stack([first, second])


def _words(values: pd.Series[Any], column: Column, key: bytes) -> Words:
    """Return a column as eight bytes a row: equal for equal values, whatever their dtype."""
    import pandas as pd

    if column.type in ("float", "integer", "boolean"):
        found = values.to_numpy(dtype=np.float64, na_value=np.nan) + 0.0  # -0.0 becomes 0.0
        if column.type == "float":  # as models see it: a last bit of a change of units is nothing
            with np.errstate(over="ignore"):
                found = found.astype(np.float32).astype(np.float64)
        words: Words = np.where(np.isnan(found), np.nan, found).view(np.uint64)
        return words
    codes, kinds = pd.factorize(values, use_na_sentinel=True)
    known = [hmac.digest(key, _text(each), "sha256")[:8] for each in kinds]
    known.append(hmac.digest(key, _MISSING, "sha256")[:8])
    table = np.frombuffer(b"".join(known), np.uint64)
    return table[codes]  # -1, what is missing, is the last


def _text(value: Any) -> bytes:
    """Return a category, a text or a date as bytes; whole numbers alike, of whatever type."""
    import pandas as pd

    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    if hasattr(value, "isoformat"):
        value = pd.Timestamp(value).isoformat()
    return str(value).encode()


def require_split(contract: Contract, split: str | Split) -> None:
    """Raise `IncompatibleJob` unless a contract's column says which rows are held out."""
    where, name = "evaluation.split", split if isinstance(split, str) else split.column
    if name is None:
        return
    column = contract.columns.get(name)
    if isinstance(split, str):
        if column is None or column.role != "split":
            raise IncompatibleJob(
                f"{where}: '{name}' is no column of {contract.ref} with the role split; of another "
                f"column say which rows: {{column: {name}, test: [...]}} or {{column: {name}, "
                "after: ...}"
            )
        return
    if column is None:
        guess = nearest(name, list(contract.columns))
        hint = f"; did you mean '{guess}'?" if guess else ""
        raise IncompatibleJob(f"{where}.column: {contract.ref} has no column '{name}'{hint}")
    if column.role in ("ignore", "target"):
        raise IncompatibleJob(
            f"{where}.column: '{name}' has the role {column.role}; "
            + (
                "it is not in the canonical table, give it the role time, split or id"
                if column.role == "ignore"
                else "what is predicted cannot say what is learnt from"
            )
        )
    if split.as_feature and column.role != "feature":
        raise IncompatibleJob(f"{where}.as_feature: '{name}' has the role {column.role}")
    fault = _after_fault(column, split.after) if split.test is None else _value_fault(column, split)
    if fault:
        raise IncompatibleJob(f"{where}.{fault}")


def _after_fault(column: Column, after: float | date | None) -> str:
    if column.type not in ("date", "integer", "float"):
        return f"after: '{column.name}' is a {column.type}; give its values under test"
    if isinstance(after, date) != (column.type == "date"):
        wanted = "a day, as 2024-01-01" if column.type == "date" else "a number"
        return f"after: '{column.name}' is of type {column.type}, so that it must be {wanted}"
    low, high = (column.range.min, column.range.max) if column.range else (None, None)
    above = high is not None and not after < high  # type: ignore[operator]
    if above or (low is not None and after < low):  # type: ignore[operator]
        side = "learnt from" if above else "held out"
        return (
            f"after: all rows would be {side}: {after} is not within the range of '{column.name}', "
            f"{low} to {high}"
        )
    return ""


def _value_fault(column: Column, split: Split) -> str:
    if column.type in ("date", "float"):
        return f"test: '{column.name}' is a {column.type}; say after which one rows are held out"
    known = None if column.classes is None else {_plain(each, column) for each in column.classes}
    for key, values in (("test", split.test or ()), ("train", split.train or ())):
        for each in values:
            if not _fits(each, column):
                return f"{key}: {each!r} is no {column.type}, as '{column.name}' is"
            if known is not None and _plain(each, column) not in known:
                allowed = ", ".join(str(value) for value in column.classes or ())
                return f"{key}: '{column.name}' may not be {each!r}; it may be {allowed}"
    if known is not None and known == {_plain(each, column) for each in split.test or ()}:
        return f"test: those are all values of '{column.name}'; nothing would be learnt from"
    return ""


def _fits(value: Any, column: Column) -> bool:
    if column.type == "boolean":
        return isinstance(value, bool)
    if column.type == "integer":
        return not isinstance(value, bool | str) and float(value).is_integer()
    return isinstance(value, str) or (column.type == "category" and type(value) is int)


def _plain(value: Any, column: Column) -> Any:
    """Return a value as the canonical table holds it: codes as texts."""
    return str(value) if column.type in ("category", "string") else float(value)


def _by_column(values: pd.Series[Any], column: Column, split: Split) -> npt.NDArray[np.int8]:
    import pandas as pd

    there = values.notna().to_numpy(bool)
    if split.test is None:
        if column.type == "date":
            days = pd.to_datetime(values).dt.normalize()
            later = (days > pd.Timestamp(split.after)).to_numpy(bool)  # type: ignore[arg-type]
        else:
            assert isinstance(split.after, int | float)
            later = values.to_numpy(dtype=np.float64, na_value=np.nan) > split.after
        return np.where(there, later, NEITHER).astype(np.int8)
    held = {_plain(each, column) for each in split.test}
    learnt = None if split.train is None else {_plain(each, column) for each in split.train}
    # Each distinct value is looked at once.
    codes, kinds = pd.factorize(values, use_na_sentinel=True)
    found = [_side(_plain(each, column), held, learnt) for each in kinds]
    return np.array([*found, NEITHER], np.int8)[codes]  # -1, what is missing, is the last


def _side(value: Any, held: set[Any], learnt: set[Any] | None) -> int:
    if value in held:
        return TEST
    return TRAIN if learnt is None or value in learnt else NEITHER


def _said(frame: pd.DataFrame, contract: Contract, name: str) -> npt.NDArray[np.int8]:
    require_split(contract, name)
    said = frame[name].astype("string")
    neither = int((~said.isin(["train", "test"])).sum())
    if neither:
        raise SchemaDrift(f"column '{name}': {neither} rows say neither 'train' nor 'test'")
    return np.asarray((said == "test").to_numpy(dtype=bool)).astype(np.int8)
