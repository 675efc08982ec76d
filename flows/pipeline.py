"""The main job: train one model over all silos that keep the contract, and register it.

Silos with the same columns train together (`flows.tasks`), those with the same people by the parts
of one model (`flows.vertical`).

The flow is Flower's ServerApp: it opens the run and holds the transport itself, so that a contract
check is a Prefect task per silo, a round is a task, and logs, retries and cancelling are Prefect's.

What a run needs is imported when it runs. Prefect's worker imports this file, too, to look for
hooks of a flow run that died, and holds what that takes along for as long as it lives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

from prefect import State, flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.beginning import Seconds, flow_run_name, says_whose

Rounds = Annotated[int, Field(ge=1, le=100_000)]
Epsilon = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Folds = Annotated[int, Field(ge=2, le=50)]
Fold = Annotated[int, Field(ge=1, le=50)]


@flow(
    name="pipeline",
    flow_run_name=flow_run_name,
    persist_result=False,
    # Prefect's task runners are invariant in their futures: none is what `flow` is said to take.
    task_runner=ThreadPoolTaskRunner(max_workers=16),  # type: ignore[arg-type]
)
def pipeline(
    job: str,
    rounds: Rounds | None = None,
    epsilon: Epsilon | None = None,
    private: bool = True,
    seed: Seed | None = None,
    folds: Folds | None = None,
    fold: Fold | None = None,
    wait_s: Seconds = 60.0,
    when_due: bool = False,
    resume: str | None = None,
    extend: str | None = None,
    bundle: str | None = None,
    home: str | None = None,
) -> Any:
    """Check every silo, match where the job is vertical, train, evaluate, register, report.

    Args:
        job: the job file: a path, a path below home, or the name of a job that comes with Consilo.
        rounds: in place of the job's number of rounds.
        epsilon: in place of the job's privacy budget ε.
        private: off trains without differential privacy, whatever the job says.
        seed: in place of the job's seed.
        folds: into how many parts rows, or subjects, fall; one is held out, in place of what the
            job says. Such a run registers no model: it is there to be judged.
        fold: which part is held out, from 1.
        wait_s: how long to wait for silos that are not connected yet, in seconds.
        when_due: train only where the job's section ``retrain`` says that it is due: silos are
            asked whether their rows have moved, where nothing else tells.
        resume: id of a run of this job whose process died: go on from its last checkpoint.
        extend: id of a finished run of this job: go on from its last state as a new run, for
            ``rounds`` more; ``epsilon`` is what both together may cost.
        bundle: what the author of the job's code has signed, as a path, or a path below home; it is
            carried as it is. Empty makes a bundle here, which the coordinator signs.
        home: the coordinator's directory; empty takes the worker's CONSILO_HOME.
    """
    says_whose()
    from consilo.errors import ConsiloError
    from flows.asked import asked_for
    from flows.due import Due, because, find_out, not_due, note
    from flows.endings import refused
    from flows.registry import names
    from flows.session import final_state, opened
    from flows.stages import STAGES

    try:
        order = asked_for(
            job,
            rounds=rounds,
            epsilon=epsilon,
            private=private,
            seed=seed,
            folds=folds,
            fold=fold,
            resume=resume,
            extend=extend,
            bundle=bundle,
            home=home,
        )
        due: Due | None = None
        if when_due and not resume and not extend:
            found = find_out(order, wait_s)
            if not isinstance(found, Due):
                return found
            due = found
            if not due.cause:
                return not_due(order.job, due)
        with opened(order, experiment=names.pipeline_experiment(order.job.name)) as session:
            if due is not None:
                note(session, due)
            STAGES[order.job.kind](session, wait_s)
    except ConsiloError as error:
        return refused(error)
    return final_state(session) if due is None else because(final_state(session), due)


def run_pipeline(*, home: Path | str, run_id: str = "", **parameters: Any) -> dict[str, Any]:
    """Run the pipeline in this process and return its summary, however it ends.

    Args:
        home: the coordinator's directory.
        run_id: of the run, chosen by who wants to follow it; empty lets it choose.
        parameters: the flow's others.
    """
    from flows.endings import summary_of
    from flows.session import called

    with called(run_id):
        # Prefect takes a flow that answers `Any` for one that is awaited.
        state = cast("State[Any]", pipeline(home=str(home), return_state=True, **parameters))
    return summary_of(state)
