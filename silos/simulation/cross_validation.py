"""Cross-validation: a job as often as there are folds, each judged on another part of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.runs.folds import fold_job, over_folds
from consilo.runs.outcome import RunResult
from consilo.runs.stages import Say, silent
from silos.simulation.simulation import simulate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CrossValidation:
    """What the folds' models are worth; each was judged on rows that it had not learnt from.

    Args:
        folds: the runs, in the order of the folds. Each trained a model of its own, and under
            privacy each spent its job's ε.
    """

    folds: tuple[RunResult, ...]

    @property
    def figures(self) -> pd.DataFrame:
        """Figures of merit over all silos: a row a fold, from 1; a figure that it lacks is NaN."""
        import pandas as pd

        rows = [dict(each.metrics) for each in self.folds]
        numbers = pd.RangeIndex(1, len(rows) + 1, name="fold")
        table = pd.DataFrame(rows, index=numbers, dtype="float64")
        return table.assign(status=[each.status for each in self.folds])

    @property
    def summary(self) -> pd.DataFrame:
        """Mean and deviation (ddof 1) of each figure over the folds that have it, and their number.

        The folds' models share most of the rows that they learnt from, so that the deviation says
        how much the figure moves, and is no standard error.
        """
        import pandas as pd

        found = over_folds([each.metrics for each in self.folds])
        return pd.DataFrame.from_dict(found, orient="index", dtype="float64")


def cross_validate(
    job: Job | str | Path,
    silos: Mapping[str, pd.DataFrame | str | Path],
    *,
    folds: int = 5,
    contract: Contract | None = None,
    search_path: Sequence[Path] = (),
    say: Say = silent,
) -> CrossValidation:
    """Run a horizontal job once a fold over the same silos, as `simulate` does.

    Every row, or subject, is held out in just one of the runs.

    Args:
        job: a job, or the path of a job file; its own ``evaluation`` gives way to the folds.
        silos: name → rows, or name → the directory of a silo.
        folds: how many, 2 to 50.
        contract: in place of the one that the job names.
        search_path: where the job's own modules lie, besides the job file's directory.
        say: is told each step that was done.

    Raises:
        InvalidInput: where job, contract or a silo's files are not valid.
        IncompatibleJob: where the parts cannot work together, or the job is not horizontal.
    """
    if not isinstance(job, Job):
        path = Path(job)
        job, search_path = Job.load(path), (*search_path, path.resolve().parent)
    results = []
    for fold in range(1, folds + 1):
        results.append(
            simulate(
                fold_job(job, folds=folds, fold=fold),
                silos,
                contract=contract,
                search_path=search_path,
                say=say,
            )
        )
    return CrossValidation(tuple(results))
