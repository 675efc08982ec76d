"""The full report of a check as Great Expectations writes it, for the people in the silo.

What holds in every row is told from the numbers that it was judged by. For the rest, Great
Expectations goes through the rows of the rule itself, to show values and rows that break it.
Everything lies in ``gx/`` in the silo's directory; it quotes values of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silos.rows.checks.judge import Judge
from silos.rows.checks.library import quiet_gx

if TYPE_CHECKING:
    import pandas as pd

_PAGES = Path("gx") / "uncommitted" / "data_docs" / "local_site"


def first_page(silo_dir: Path) -> Path:
    """Return where the pages of a silo begin."""
    return silo_dir / _PAGES / "index.html"


def write_pages(
    columns: Mapping[str, pd.Series[Any]],
    index: pd.Index[Any],
    expectations: Sequence[Any],
    name: str,
    silo_dir: Path,
    *,
    note: str = "",
) -> None:
    """Write what became of every expectation, with values and rows, and keep the results.

    Args:
        columns: name → values, all of the same rows; left as they are.
        index: of these rows.
        expectations: what was expected, in the order of the pages.
        name: of the suite.
        silo_dir: the silo's directory; its ``gx/`` is the owner's only.
        note: a sentence about the pages as a whole, on the page of the suite.
    """
    silo_dir.mkdir(parents=True, exist_ok=True)
    (silo_dir / "gx").mkdir(mode=0o700, exist_ok=True)
    (silo_dir / "gx").chmod(0o700)
    with quiet_gx() as gx:
        import pandas as pd
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )

        context = gx.get_context(mode="file", project_root_dir=silo_dir)
        context.variables.progress_bars = gx.data_context.types.base.ProgressBarsConfig(
            globally=False
        )
        if name in {each.name for each in context.suites.all()}:
            # An update compares every rule with every other one.
            context.suites.delete(name)
        suite = context.suites.add(
            gx.ExpectationSuite(name=name, expectations=list(expectations), notes=note or None)
        )
        frame = pd.DataFrame(dict(columns), index=index, copy=False)
        run = RunIdentifier(run_time=datetime.now(UTC))
        told = _results(gx, context, frame, suite, run)
        suite_id = ExpectationSuiteIdentifier(name=name)
        result_id = ValidationResultIdentifier(
            expectation_suite_identifier=suite_id, run_id=run, batch_identifier=told.batch_id
        )
        context.validation_results_store.store_validation_results(
            suite_validation_result=told,
            suite_validation_result_identifier=result_id,
            expectation_suite_identifier=suite_id,
        )
        with _compiled_once():
            context.build_data_docs(resource_identifiers=[result_id, suite_id])


@contextmanager
def _compiled_once() -> Iterator[None]:
    """Have a template compiled once: three kinds of pages would each compile their own of it."""
    from great_expectations.render.view import view
    from jinja2 import BytecodeCache
    from jinja2.bccache import Bucket

    known: dict[str, Any] = {}

    class Compiled(BytecodeCache):
        def load_bytecode(self, bucket: Bucket) -> None:
            bucket.code = known.get(f"{bucket.key} {bucket.checksum}")

        def dump_bytecode(self, bucket: Bucket) -> None:
            known[f"{bucket.key} {bucket.checksum}"] = bucket.code

    usual = view.Environment
    view.Environment = partial(usual, bytecode_cache=Compiled())
    try:
        yield
    finally:
        view.Environment = usual


def _results(gx: Any, context: Any, frame: pd.DataFrame, suite: Any, run: Any) -> Any:
    """Return the suite's results as Great Expectations' own run of it would keep them."""
    from great_expectations.validator.v1_validator import Validator
    from great_expectations.validator.validation_statistics import calc_validation_statistics

    source = context.data_sources.add_or_update_pandas("canonical")
    asset = source.add_dataframe_asset(suite.name)
    batch = Validator(
        batch_definition=asset.add_batch_definition_whole_dataframe("whole"),
        batch_parameters={"dataframe": frame},
        result_format=gx.ResultFormat.SUMMARY,
    )
    # Of no expectation: it says of which batch, by which version and when.
    told = batch.validate_expectation_suite(gx.ExpectationSuite(name=suite.name))
    judge = Judge({name: frame[name] for name in frame.columns}, len(frame))
    results = []
    for expectation in suite.expectations:
        bound = expectation.copy(update={"batch_id": told.batch_id})
        result = judge.told(bound)
        results.append(batch.validate_expectation(expectation) if result is None else result)
    statistics = calc_validation_statistics(results)
    told.results = results
    told.success = statistics.success
    told.statistics = {
        "evaluated_expectations": statistics.evaluated_expectations,
        "successful_expectations": statistics.successful_expectations,
        "unsuccessful_expectations": statistics.unsuccessful_expectations,
        "success_percent": statistics.success_percent,
    }
    told.meta |= {
        "validation_id": None,
        "checkpoint_id": None,
        "run_id": run,
        "validation_time": run.run_time,
        "batch_parameters": {"dataframe": "<DATAFRAME>"},
    }
    return told
