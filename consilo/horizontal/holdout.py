"""Which rows of a silo are held out: of each row by itself, the same in every run of every job.

A row's side is a pseudo-random number of that row and of a key of the silo, held against the job's
share: what other rows there are does not count, nor does their order or the job's seed. So a row
more or less moves that row only (what differential privacy rests on), equal rows are on one side,
a larger share holds out all that a smaller one does, and no later job is tested on what an earlier
one has learnt from. Where the contract names a subject (role ``subject``), it decides in place of
the row, so that nobody is on both sides.

There is no stratification: it would let each row move others. The shares of classes on both sides
are those that chance gives.

The number is AES-CBC-MAC of the row's values in the contract's order, eight bytes a column: a
pseudo-random function for messages of one length (Bellare, Kilian, Rogaway 2000, Theorem 3.1).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from consilo.contracts.contract import Column, Contract
from consilo.errors import IncompatibleJob, SchemaDrift
from consilo.jobs.job import Evaluation

if TYPE_CHECKING:
    import pandas as pd

Words = npt.NDArray[np.uint64]

PURPOSE = "holdout"
"""What the silo's key for this is called: see `consilo.kernel.roles.Secrets.lasting`."""
_BLOCK = 16
_MISSING = b"\x00missing"


def held_out(
    frame: pd.DataFrame, contract: Contract, evaluation: Evaluation, key: bytes
) -> npt.NDArray[np.bool_]:
    """Return which rows are held out, (rows,).

    Args:
        frame: canonical rows, or any part of them.
        contract: what they obey.
        evaluation: the job's: the share, or the column that says it.
        key: 32 bytes of the silo.

    Raises:
        IncompatibleJob: where the job names a column that cannot say it.
        SchemaDrift: where a row has no subject, or the named column says neither.
    """
    if evaluation.split is not None:
        return _said(frame, contract, evaluation.split)
    limit = np.uint64(min(int(evaluation.holdout * 2.0**64), 2**64 - 1))
    if contract.subject is not None:
        return subjects_of(frame, contract, key) < limit
    return numbers(frame, contract.table, key) < limit


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


def require_split(contract: Contract, name: str) -> None:
    """Raise `IncompatibleJob` unless a contract's column says which rows are held out."""
    column = contract.columns.get(name)
    if column is None or column.role != "split":
        raise IncompatibleJob(
            f"evaluation.split: '{name}' is no column of {contract.ref} with the role split"
        )


def _said(frame: pd.DataFrame, contract: Contract, name: str) -> npt.NDArray[np.bool_]:
    require_split(contract, name)
    said = frame[name].astype("string")
    neither = int((~said.isin(["train", "test"])).sum())
    if neither:
        raise SchemaDrift(f"column '{name}': {neither} rows say neither 'train' nor 'test'")
    return np.asarray((said == "test").to_numpy(dtype=bool))
