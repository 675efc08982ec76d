"""Propose how a silo's columns become a contract's, for a person to confirm.

Every local column is compared with every column of the contract, by name
(`silos.proposals.likeness`) and by what it holds (`silos.proposals.readings`); the assignment that
is best altogether is proposed, as YAML with the reasons beside each line. ``confirmed: false``
keeps the mapping out of use until a person has read it. The YAML may show codes of the rows: it
stays in the silo.
"""

from __future__ import annotations

from collections.abc import Mapping as Mapped
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.codes import code_key
from consilo.contracts.contract import Column, Contract
from consilo.yaml_text import to_yaml_line
from silos.proposals.likeness import is_generated, likeness
from silos.proposals.profile import Profile, Reading, as_written, profile
from silos.proposals.readings import best_reading
from silos.rows.canonical import allowed_values
from silos.rows.mapping import UNREADABLE, Mapping

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 5000
"""Rows a proposal looks at; the check looks at all of them."""
_NAME, _FIT, _PLACE = 0.6, 0.35, 0.05
"""What name, values and position weigh where the names mean something."""
_BY_PLACE = {"fit": 0.4, "place": 0.6}
"""The same where they only count, and there are as many as the contract has."""
_LEAST = 0.35
"""Below this score nothing is proposed."""
_SURE = 0.75
_FEW_CODES = 20
"""A column of more different values is shown with none of them."""
_MARGIN = 0.08


@dataclass(frozen=True)
class Proposed:
    """What is proposed for one column of the contract.

    Args:
        column: its canonical name.
        source: the local column, or None where none fits.
        score: from 0 to 1.
        how: the mapping's entry beside ``from``.
        reasons: why.
        doubts: what a person has to look at; empty where the proposal is sure.
        guess: where nothing is proposed, the entry that a person may complete.
    """

    column: str
    source: str | None
    score: float
    how: Mapped[str, Any]
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    guess: Mapped[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> dict[str, Any]:
        """What stands in the mapping; empty where the column is taken as it is."""
        renamed = {} if self.source in (None, self.column) else {"from": self.source}
        return {**renamed, **self.how}

    def to_dict(self) -> dict[str, Any]:
        """Return the proposal for ``--json``: names, score and words, no value of a row."""
        return {
            "column": self.column,
            "from": self.source,
            "score": round(self.score, 2),
            "sure": not self.doubts,
        }


@dataclass(frozen=True)
class Proposal:
    """A mapping to be confirmed.

    Args:
        contract: the contract's reference.
        data: the data set's name in ``silo.yaml``.
        columns: one per column of the contract's table, in its order.
        missing: texts that mean "nothing recorded" in every column.
        unused: local columns that nothing was proposed for.
        rows: how many rows were looked at.
    """

    contract: str
    data: str
    columns: tuple[Proposed, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    rows: int

    @property
    def doubtful(self) -> tuple[Proposed, ...]:
        """The columns that a person has to look at with care."""
        return tuple(each for each in self.columns if each.doubts)

    def to_yaml(self) -> str:
        """Return the mapping file, with the reasons as comments."""
        lines = [
            f"# Proposed from the data set '{self.data}' after a look at {self.rows} rows.",
            "# Read it; what is marked 'confirm' was guessed. It is not used before you have set",
            f"# 'confirmed: true', or run: consilo silo data confirm {self.contract}",
            "confirmed: false",
            f"contract: {to_yaml_line(self.contract)}",
            f"data: {to_yaml_line(self.data)}",
        ]
        if self.missing:
            comment = "# confirm: 'nothing recorded', in every column"
            lines.append(f"missing: {to_yaml_line(list(self.missing))}  {comment}")
        lines.append("columns:")
        for each in self.columns:
            lines += _column_lines(each)
        if self.unused:
            lines += ["", *_wrapped(f"not used: {', '.join(map(to_yaml_line, self.unused))}", "")]
        return "\n".join(lines) + "\n"


def propose(
    sample: pd.DataFrame,
    contract: Contract,
    *,
    data: str,
    aligned: Mapped[str, str] | None = None,
) -> Proposal:
    """Return the best mapping of a table to a contract that was found.

    Args:
        sample: some rows as the organisation holds them; text as written, where there is a choice.
        contract: the contract.
        data: the data set's name.
        aligned: canonical name → local name, for columns that people have agreed on; these are
            taken, and only how to read them is found out.
    """
    from scipy.optimize import linear_sum_assignment

    table = contract.table
    words = {code_key(v) for column in table for v in (allowed_values(column) or [])}
    locals_ = [
        profile(sample[name], position, words) for position, name in enumerate(sample.columns)
    ]
    readings = [[best_reading(local, column) for column in table] for local in locals_]
    scores = _scores(locals_, table, readings)
    names = [local.name for local in locals_]
    for index, column in enumerate(table):
        if column.name in (aligned or {}):
            given = names.index((aligned or {})[column.name])
            scores[given, :] = scores[:, index] = 0.0
            scores[given, index] = 1.0
    rows, columns = linear_sum_assignment(-scores)
    chosen = {int(c): int(r) for r, c in zip(rows, columns, strict=True) if scores[r, c] >= _LEAST}
    missing = sorted(
        {
            text
            for index, row in chosen.items()
            for text in locals_[row].missing
            # A free text may be a name: Na, Nan and None are somebody's.
            if table[index].type != "string" or not any(each.isalpha() for each in text)
        }
    )
    proposed = []
    for index, column in enumerate(table):
        row = chosen.get(index)
        if row is None:
            left = [each for at, each in enumerate(locals_) if at not in chosen.values()]
            proposed.append(_nothing(column, left))
            continue
        rivals = np.delete(scores[:, index], row)
        margin = scores[row, index] - rivals.max(initial=0.0)
        proposed.append(
            _proposed(column, locals_[row], readings[row][index], scores[row, index], margin)
        )
    used = {each.source for each in proposed}
    unused = tuple(local.name for local in locals_ if local.name not in used)
    made = Proposal(contract.ref, data, tuple(proposed), tuple(missing), unused, len(sample))
    return _tried(made, sample, contract)


def _scores(
    locals_: Sequence[Profile], table: Sequence[Column], readings: Sequence[Sequence[Reading]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    counted = sum(is_generated(local.name) for local in locals_) > len(locals_) / 2
    by_place = counted and len(locals_) == len(table)
    size = max(len(locals_), len(table), 2)
    scores = np.zeros((len(locals_), len(table)))
    for row, local in enumerate(locals_):
        for index, column in enumerate(table):
            fit = readings[row][index].fit
            if by_place:
                place = float(row == index)
                score = _BY_PLACE["fit"] * fit + _BY_PLACE["place"] * place
            else:
                place = 1 - abs(row - index) / (size - 1)
                score = _NAME * likeness(local.name, column) + _FIT * fit + _PLACE * place
            # A name alone does not make values readable.
            scores[row, index] = score * min(1.0, 0.4 + 2 * fit)
    return scores


def _proposed(
    column: Column, local: Profile, reading: Reading, score: float, margin: float
) -> Proposed:
    alike = likeness(local.name, column)
    reasons = [_named(alike), *reading.reasons]
    doubts = list(reading.doubts)
    if is_generated(local.name):
        reasons[0] = f"column {local.position + 1} of the table"
        doubts.insert(0, f"it has no name of its own; is it {column.description or column.name}?")
    elif score < _SURE:
        doubts.insert(0, f"is it {column.description or column.name}?")
    elif margin < _MARGIN and alike < 1:
        doubts.insert(0, "another column fits nearly as well")
    return Proposed(
        column.name, local.name, score, dict(reading.how), tuple(reasons), tuple(doubts)
    )


def _named(alike: float) -> str:
    if alike == 1:
        return "same name"
    return "similar name" if alike >= 0.7 else "found by its values more than by its name"


def _nothing(column: Column, left: Sequence[Profile]) -> Proposed:
    """Return what is said of a column that no local column was found for.

    Args:
        column: the contract's.
        left: the local columns that no other column was found for.
    """
    doubt = f"no local column was found for it ({column.description or column.type})"
    like = _told_apart(column, left)
    if like:
        doubt = (
            f"'{like.name}' may be it, but its codes are not the contract's; say after 'recode' "
            "what each of them means"
        )
    if column.nullable_share < 1:
        hint = "" if like else "; write its name after 'from'"
        how = {"recode": {as_written(code): "???" for code in like.codes}} if like else {}
        guess = {"from": like.name, **how} if like else {"from": "???"}
        return Proposed(column.name, None, 0.0, {}, (), (doubt + hint,), guess)
    hint = "; it stays empty unless you name one"
    return Proposed(column.name, None, 0.0, {"constant": None}, (), (doubt + hint,))


def _told_apart(column: Column, left: Sequence[Profile]) -> Profile | None:
    """Return the local column that may be one of codes: by its name, or as the only one."""
    if column.classes is None:
        return None
    few = [each for each in left if 2 <= each.distinct <= _FEW_CODES]
    same = [each for each in few if likeness(each.name, column) == 1]
    alike = [each for each in few if each.distinct == len(column.classes)]
    return next(iter(same), None) or (alike[0] if len(alike) == 1 else None)


def _tried(proposal: Proposal, sample: pd.DataFrame, contract: Contract) -> Proposal:
    """Return the proposal with a doubt wherever it leaves values of the sample unread."""
    mapping = Mapping.parse(as_mapping(proposal), contract, where="the proposal")
    unreadable = mapping.apply(sample, contract).attrs.get(UNREADABLE, {})
    columns = [
        replace(each, doubts=(f"{count['count']} of {proposal.rows} values unreadable",))
        if (count := unreadable.get(each.column)) and not each.doubts
        else each
        for each in proposal.columns
    ]
    return replace(proposal, columns=tuple(columns))


def as_mapping(proposal: Proposal) -> dict[str, Any]:
    """Return the proposal as the parsed YAML of a mapping."""
    return {
        "confirmed": False,
        "contract": proposal.contract,
        "data": proposal.data,
        "missing": list(proposal.missing),
        "columns": {each.column: each.entry for each in proposal.columns if each.entry},
    }


def _column_lines(each: Proposed) -> list[str]:
    lines = [f"  # {each.score:.2f}: {'; '.join(each.reasons)}"] if each.source else []
    for doubt in each.doubts:
        lines += _wrapped(f"confirm: {doubt}", "  ")
    if each.source is None and not each.entry:
        blank = to_yaml_line(each.guess).replace("'???'", "???")  # a comment, for people to fill in
        return [*lines, f"  # {each.column}: {blank}"]
    return [*lines, f"  {each.column}: {to_yaml_line(each.entry or {'from': each.source})}"]


def _wrapped(text: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(
        text, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ",
        break_long_words=False,
    )  # fmt: skip
