"""From canonical columns to a model's inputs, the same in every silo and in the registered model.

Numbers are standardised, booleans become 0 and 1, a category becomes one column per allowed value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.contract import Column, Contract
from consilo.contracts.made_up import made_up_columns
from consilo.errors import IncompatibleJob, SchemaDrift
from consilo.jobs.job import Job
from consilo.jobs.table_job import TableJob
from consilo.learners.plans import Arrays

if TYPE_CHECKING:
    import pandas as pd

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Encoding:
    """How one contract becomes inputs and targets under one job.

    Args:
        numeric: number and boolean columns, in the contract's order.
        categories: category column → its allowed values that get an input column.
        indicators: numeric columns that get a "missing" input column besides.
        targets: target columns.
        classes: the target's classes in order, for classification, else empty.
        drop_missing: leave out rows with a missing feature.
        ranges: numeric column → (min, max) of the contract where both are given.
    """

    numeric: tuple[str, ...]
    categories: Mapping[str, tuple[Any, ...]]
    indicators: tuple[str, ...]
    targets: tuple[str, ...]
    classes: tuple[Any, ...]
    drop_missing: bool
    ranges: Mapping[str, tuple[float, float]]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order."""
        hot = [f"{name}={value}" for name, values in self.categories.items() for value in values]
        return (*self.numeric, *hot, *(f"{name} is missing" for name in self.indicators))

    @property
    def open_ended(self) -> tuple[str, ...]:
        """Numeric columns for which the contract does not give both ends of a range."""
        return tuple(name for name in self.numeric if name not in self.ranges)

    @classmethod
    def plan(cls, contract: Contract, job: Job) -> Encoding:
        """Return the encoding that a job asks for.

        Raises:
            IncompatibleJob: where a column cannot become an input or a target.
        """
        asked = TableJob.of(job)
        numeric: list[str] = []
        categories: dict[str, tuple[Any, ...]] = {}
        indicators: list[str] = []
        ranges: dict[str, tuple[float, float]] = {}
        split = asked.evaluation.named
        said = None if split is None or split.as_feature else split.column
        for name in contract.features:
            column = contract.columns[name]
            if name == said:  # what says which rows judge a model is nothing that it knows
                continue
            if column.type in ("float", "integer", "boolean"):
                numeric.append(name)
                if column.nullable_share > 0 and asked.features.missing == "indicator":
                    indicators.append(name)
                limits = _limits(column)
                if limits is not None:
                    ranges[name] = limits
            elif column.type == "category" and column.allowed:
                skip = 1 if asked.features.drop_first else 0
                # The canonical table holds codes as texts, however the contract writes them.
                categories[name] = tuple(str(each) for each in column.allowed)[skip:]
            else:
                raise IncompatibleJob(
                    f"contract {contract.ref}, column '{name}': a {column.type} cannot be a "
                    "feature; give it the role 'ignore', or make it a category with allowed values"
                )
        if asked.features.standardize == "contract":
            open_ended = [name for name in numeric if name not in ranges]
            if open_ended:
                raise IncompatibleJob(
                    "features.standardize: 'contract' needs a range with min and max for every "
                    f"numeric feature; {contract.ref} gives none for {', '.join(open_ended[:5])}"
                )
        return cls(
            tuple(numeric),
            categories,
            tuple(indicators),
            tuple(contract.targets),
            _classes(contract, asked),
            asked.features.missing == "drop",
            ranges,
        )

    def features(self, frame: pd.DataFrame, scale: Scale) -> np.ndarray[Any, Any]:
        """Return the inputs of every row.

        Args:
            frame: canonical columns.
            scale: what standardises the numeric columns.

        Returns:
            float32, shape (rows, len(inputs)).
        """
        codes = {name: frame[name].to_numpy(dtype=object) for name in self.categories}
        return self._inputs_of(self.raw_numeric(frame), codes, scale)

    def _inputs_of(
        self, raw: Floats, written: Mapping[str, np.ndarray[Any, Any]], scale: Scale
    ) -> np.ndarray[Any, Any]:
        """Return the inputs of rows, of their numbers and their codes as they are written."""
        standard = (raw - scale.mean) / scale.deviation
        parts = [np.where(np.isnan(raw), 0.0, standard)]
        for name, values in self.categories.items():
            codes = class_codes(written[name], values)
            parts.append((codes[:, None] == np.arange(len(values))).astype(np.float64))
        if self.indicators:
            places = [self.numeric.index(name) for name in self.indicators]
            parts.append(np.isnan(raw[:, places]).astype(np.float64))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def raw_numeric(self, frame: pd.DataFrame) -> Floats:
        """Return the numeric columns as they are, missing as NaN: float64, (rows, numeric)."""
        columns = [frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in self.numeric]
        return _stacked(columns, len(frame))

    def target(self, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
        """Return the targets.

        Returns:
            int64 class numbers of shape (rows,) for classification, else float64 of shape
            (rows,) for one target column or (rows, columns) for several.

        Raises:
            SchemaDrift: where a row has no target, or one outside the contract's classes.
        """
        if self.classes:
            return self._targets_of([frame[self.targets[0]].to_numpy(dtype=object)])
        return self._targets_of(
            [frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in self.targets]
        )

    def _targets_of(self, columns: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        if self.classes:
            codes = class_codes(columns[0], self.classes)
            if (codes < 0).any():
                raise SchemaDrift(
                    f"column '{self.targets[0]}': {int((codes < 0).sum())} rows have a target that "
                    "is missing or not among the contract's allowed values"
                )
            return codes
        values = np.column_stack(columns)  # float64: of a large offset float32 keeps too little
        if np.isnan(values).any():
            raise SchemaDrift(f"columns {', '.join(self.targets)}: rows have no target")
        return values[:, 0] if len(self.targets) == 1 else values

    def made_up(self, contract: Contract, *, num_rows: int = 8) -> Arrays:
        """Return encoded rows that nobody has (`consilo.contracts.made_up`), scaled as a silo's.

        Args:
            contract: what the rows keep to.
            num_rows: at least; every class is there twice or more.
        """
        size = max(num_rows, 2 * len(self.classes), 2)
        made = made_up_columns(
            contract,
            numeric=(*self.numeric, *(() if self.classes else self.targets)),
            categories=tuple(self.categories),
            classes=self.classes,
            target=self.targets[0] if self.targets else "",
            num_rows=size,
        )
        raw = _stacked([made[name] for name in self.numeric], size)
        scale = Scale.of_moments(raw.mean(axis=0), raw.var(axis=0)) if raw.size else Scale.unit(0)
        targets = [made[name] for name in self.targets]
        blank = np.zeros(size, np.float32)
        return Arrays(
            self._inputs_of(raw, made, scale), self._targets_of(targets) if targets else blank
        )

    def usable(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that can be learnt from: all but those without a label.

        Where the job says so, those with a missing feature are left out too.
        """
        columns = [name for name in self.targets if name in frame]
        if self.drop_missing:
            columns += [*self.numeric, *self.categories]
        kept: pd.DataFrame = frame[~frame[columns].isna().any(axis=1)]
        return kept


@dataclass(frozen=True)
class Scale:
    """What standardises numeric columns: (x - mean) / deviation, both float64 of their number."""

    mean: Floats
    deviation: Floats

    @classmethod
    def unit(cls, size: int) -> Scale:
        """Return the scale that changes nothing."""
        return cls(np.zeros(size), np.ones(size))

    @classmethod
    def of_moments(cls, mean: Floats, variance: Floats) -> Scale:
        """Return the z-score's scale; a constant or empty column keeps its width of 1."""
        deviation = np.sqrt(np.maximum(variance, 0.0))
        usable = np.isfinite(deviation) & (deviation > 1e-12 * np.maximum(1.0, np.abs(mean)))
        return cls(np.where(np.isfinite(mean), mean, 0.0), np.where(usable, deviation, 1.0))

    @classmethod
    def of_ranges(cls, encoding: Encoding) -> Scale:
        """Return the scale that carries the contract's ranges to [-1, 1]."""
        low = np.array([encoding.ranges[name][0] for name in encoding.numeric])
        high = np.array([encoding.ranges[name][1] for name in encoding.numeric])
        return cls((low + high) / 2, np.where(high > low, (high - low) / 2, 1.0))

    def to_payload(self) -> dict[str, Any]:
        """Return the scale as arrays by name."""
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_payload(cls, value: Mapping[str, Any]) -> Scale:
        """Return the scale that `to_payload` wrote."""
        return cls(np.asarray(value["mean"]), np.asarray(value["deviation"]))


def target_ends(contract: Contract) -> tuple[Floats, Floats] | None:
    """Return the least and the largest value of each target; None where the contract has none."""
    columns = [contract.columns[name] for name in contract.targets]
    found = [each for each in map(_ends, columns) if each is not None]
    if not columns or len(found) < len(columns):
        return None
    low, high = np.array(found, np.float64).T
    return low, high


def target_range(contract: Contract) -> Scale | None:
    """Return the scale that carries the targets' ranges to [-1, 1]; None where one has none."""
    ends = target_ends(contract)
    if ends is None:
        return None
    low, high = ends
    return Scale((low + high) / 2, np.where(high > low, (high - low) / 2, 1.0))


def _ends(column: Column) -> tuple[float, float] | None:
    """Return the ends of a column's range, or of the numbers that it may be."""
    numbers = [float(each) for each in column.allowed or () if isinstance(each, int | float)]
    return _limits(column) or ((min(numbers), max(numbers)) if numbers else None)


def unbounded(contract: Contract, encoding: Encoding) -> str:
    """Return why a contract without ranges allows no differentially private statistics."""
    return (
        "differentially private statistics need a range with min and max for every numeric "
        f"feature; {contract.ref} gives none for {', '.join(encoding.open_ended[:5])}"
    )


def class_codes(values: np.ndarray[Any, Any], classes: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """Return each value's place in ``classes`` as int64, -1 for one that is not there.

    Codes are texts in the canonical table; a frame that was not mapped may hold them as integers.
    """
    places = {value: place for place, value in enumerate(classes)}

    def place(value: Any) -> int:
        plain = _plain(value)
        if plain not in places and isinstance(plain, int) and not isinstance(plain, bool):
            plain = str(plain)
        return places.get(plain, -1)

    return np.array([place(value) for value in values], dtype=np.int64)


def _limits(column: Column) -> tuple[float, float] | None:
    if column.type == "boolean":
        return (0.0, 1.0)
    if column.range is None or column.range.min is None or column.range.max is None:
        return None
    low, high = column.range.min, column.range.max
    return None if isinstance(low, date) or isinstance(high, date) else (float(low), float(high))


def class_names(classes: tuple[Any, ...]) -> tuple[str, ...]:
    """Return how figures of single classes are named: as the contract calls them, or by place."""
    names = tuple(str(each) for each in classes)
    plain = all(re.fullmatch(r"\w[\w .-]{0,59}", each) for each in names)
    return names if plain and len(set(names)) == len(names) else tuple(map(str, range(len(names))))


def _classes(contract: Contract, job: TableJob) -> tuple[Any, ...]:
    if job.task not in ("binary", "multiclass"):
        return ()
    if len(contract.targets) != 1:
        raise IncompatibleJob(
            f"task: {job.task} needs one target column, {contract.ref} has {len(contract.targets)}"
        )
    column = contract.columns[contract.targets[0]]
    if column.classes is None:
        raise IncompatibleJob(
            f"task: {job.task} needs the target's classes; give {contract.ref}, column "
            f"'{contract.targets[0]}', its allowed values"
        )
    classes = tuple(str(each) if column.type == "category" else each for each in column.classes)
    if job.task == "binary" and len(classes) != 2:
        raise IncompatibleJob(
            f"task: binary needs two classes, {contract.ref} allows {len(classes)}; use multiclass"
        )
    return classes


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _stacked(columns: Sequence[np.ndarray[Any, Any]], num_rows: int) -> Floats:
    return np.column_stack(columns) if columns else np.empty((num_rows, 0))
