"""Great Expectations judges, from numbers that are counted here once.

An expectation decides from a few numbers (its metrics): how many rows there are, how many hold
nothing, how many are not as expected, a median. Its own way to them builds a graph of metrics for
each rule, 3 to 5 ms before a row is seen; a contract of 400 columns has 1,600 rules. Here each
number is counted over the column, and handed to the expectation's own ``_validate``, which Great
Expectations documents as the place where an expectation decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silos.rows.checks.conditions import Condition, condition_of

if TYPE_CHECKING:
    import pandas as pd

_NULLS = "column_values.nonnull.unexpected_count"
_MISSING = "column.distinct_values.missing_from_column"
_VERDICT_ONLY = {"result_format": "BOOLEAN_ONLY"}
_SUMMARY = {
    "result_format": "SUMMARY",
    "partial_unexpected_count": 20,
    "include_unexpected_rows": False,
}
_CANNOT_COMPARE = (TypeError, ValueError, OverflowError)
_SHOWN = ("unexpected_values", "unexpected_index_list")
_NO_ROWS = "df.filter(items=[], axis=0)"


@dataclass(frozen=True)
class Judged:
    """What Great Expectations says of one expectation.

    Args:
        holds: whether the table is as expected.
        failed: how many rows are not; 0 where the expectation is about no single rows.
    """

    holds: bool
    failed: int = 0


class Judge:
    """Has expectations judged over one table.

    Args:
        columns: name → values, all of the same rows; left as they are.
        num_rows: how many these are.
    """

    def __init__(self, columns: Mapping[str, pd.Series[Any]], num_rows: int) -> None:
        from great_expectations.execution_engine import PandasExecutionEngine

        self._columns = columns
        self._num_rows = num_rows
        self._engine = PandasExecutionEngine()

    def judge(self, expectation: Any) -> Judged:
        """Return what becomes of one expectation.

        As in Great Expectations, one whose numbers cannot be computed, since a value cannot be
        compared with what is expected, is not met, and no rows are counted for it.
        """
        try:
            metrics, failed = self._counted(expectation)
            said = self._said(expectation, metrics, _VERDICT_ONLY)
        except _CANNOT_COMPARE:
            return Judged(False)
        return Judged(bool(said["success"]), failed)

    def told(self, expectation: Any) -> Any:
        """Return the result as Great Expectations keeps it; None where rows are to be shown."""
        if not self.judge(expectation).holds:
            return None
        metrics, failed = self._counted(expectation)
        if failed:
            return None
        condition = condition_of(expectation)
        if condition is not None:
            metrics |= {f"{condition.metric}.{each}": [] for each in _SHOWN}
            metrics[f"{condition.metric}.unexpected_index_query"] = _NO_ROWS
        return expectation._build_evr(raw_response=self._said(expectation, metrics, _SUMMARY))

    def _counted(self, expectation: Any) -> tuple[dict[str, Any], int]:
        condition = condition_of(expectation)
        return self._of_table(expectation) if condition is None else self._of_rows(condition)

    def _said(
        self, expectation: Any, metrics: Mapping[str, Any], form: Mapping[str, Any]
    ) -> dict[str, Any]:
        said: dict[str, Any] = expectation._validate(
            metrics=metrics,
            runtime_configuration={"result_format": dict(form)},
            execution_engine=self._engine,
        )
        return said

    def _of_rows(self, condition: Condition) -> tuple[dict[str, Any], int]:
        import numpy as np

        asked = condition.rows(self._columns)
        num_asked = int(np.count_nonzero(asked))
        failed = int(np.count_nonzero(condition.broken(self._columns, asked)))
        metrics = {
            "table.row_count": self._num_rows,
            f"{condition.metric}.unexpected_count": failed,
            f"{condition.metric}.filtered_row_count": num_asked,
        }
        if condition.asked == "each" and len(condition.columns) == 1:
            metrics[_NULLS] = self._num_rows - num_asked
        return metrics, failed

    def _of_table(self, expectation: Any) -> tuple[dict[str, Any], int]:
        kind = type(expectation).__name__
        if kind == "ExpectTableRowCountToBeBetween":
            return {"table.row_count": self._num_rows}, 0
        name = expectation.column
        if kind == "ExpectColumnToExist":
            return {"table.columns": [name] if name in self._columns else []}, 0
        values = self._columns[name]
        if kind == "ExpectColumnValuesToBeOfType":
            if values.dtype == object:
                raise TypeError("a canonical column has a type of its own")
            return {"table.column_types": [{"name": name, "type": values.dtype}]}, 0
        if kind == "ExpectColumnMedianToBeBetween":
            return {"column.median": values.median()}, 0
        if kind == "ExpectColumnMaxToBeBetween":
            return {"column.max": values.max()}, 0
        if kind == "ExpectColumnDistinctValuesToContainSet":
            there = set(values.dropna().unique())
            missing = [each for each in dict.fromkeys(expectation.value_set) if each not in there]
            return {f"{_MISSING}.count": len(missing), _MISSING: missing}, 0
        raise NotImplementedError(f"nothing is counted for {kind}")
