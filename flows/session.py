"""What the tasks of one flow run share: the run, its tracker, its federation; opened and closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import State, get_run_logger
from prefect.exceptions import TerminationSignal
from prefect.states import Completed

from consilo.contracts.contract import Contract
from consilo.errors import (
    ConsiloError,
    RunCancelled,
    RunNotResumable,
    RunSuperseded,
    ServiceFailed,
    TransportError,
)
from consilo.jobs.job import Job
from consilo.machine.files import write_atomic
from consilo.record.run_record import new_run_id
from consilo.runs.analytics import AnalyticsRun
from consilo.runs.horizontal import Run
from consilo.runs.kinds import way_of
from consilo.runs.outcome import RunResult
from consilo.runs.patience import Waiting
from consilo.runs.stages import Stages
from consilo.runs.vertical import VerticalRun
from flows.cancellation import Cancellable, watching
from flows.endings import cancelled, failed, quiet_errors
from flows.registry import names
from flows.registry.departed import tag_departed
from flows.registry.model_lookup import with_model
from flows.registry.registry import Registered
from flows.registry.tracking import Tracker, run_tags
from flows.services.connection import connect
from flows.services.decisions import not_met
from flows.services.order import ORDERED_FROM, Connection, Order
from flows.services.owning import owning
from flows.telling import artifacts
from flows.telling.live import showing
from flows.telling.shown import (
    close_died,
    close_ended,
    flow_run,
    number_of,
    opens,
    prefect_place,
    rename,
)

_called: ContextVar[str] = ContextVar("called", default="")


class Session:
    """One flow run at work; a plain object, so that Prefect hands it on as it is.

    Args:
        run: the stages.
        tracker: the MLflow run.
        connection: the open federation.
        flow_run_id: of Prefect.
        cancelled: somebody asked the run to stop.
        number: of the run among those of its job.
        registers: whether the model becomes a version of the registry.
    """

    def __init__(
        self,
        run: Stages,
        tracker: Tracker,
        connection: Connection,
        flow_run_id: UUID,
        cancelled: threading.Event,
        number: int,
        registers: bool,
    ) -> None:
        self.run = run
        self.tracker = tracker
        self.connection = connection
        self.flow_run_id = flow_run_id
        self.cancelled = cancelled
        self.number = number
        self.registers = registers
        self.model: Registered | None = None
        self.result: RunResult | None = None
        self.error: BaseException | None = None

    @property
    def analytics(self) -> AnalyticsRun:
        """A run that asks how the columns are spread, and may train afterwards."""
        if not isinstance(self.run, AnalyticsRun):
            raise TypeError("this run asks no statistics")
        return self.run

    @property
    def horizontal(self) -> Run:
        """The run of a horizontal job."""
        if not isinstance(self.run, Run):
            raise TypeError("this is no horizontal run")
        return self.run

    @property
    def vertical(self) -> VerticalRun:
        """The run of a vertical or a scoring job."""
        if not isinstance(self.run, VerticalRun):
            raise TypeError("this is no vertical run")
        return self.run

    def show(self, status: str) -> None:
        """Let the lists of Prefect and MLflow tell at a look which run it is and how it stands."""
        job, contract = self.run.job.name, self.run.contract.ref
        name = names.label(job, self.number, status)
        self.tracker.rename(name)
        rename(self.flow_run_id, name, tags=(f"job:{job}", f"contract:{contract}", status))

    def waits(self, waiting: Waiting) -> None:
        """Tell people that the run waits for silos, or goes on: Prefect, MLflow and the logs."""
        get_run_logger().warning(waiting.told)
        self.tracker.tag({names.TAG_WAITING: "" if waiting.waited_s is not None else waiting.told})
        self.show("running" if waiting.waited_s is not None else "waiting")
        artifacts.waits(waiting)

    def close(self, error: BaseException | None = None) -> RunResult:
        """Close the run and its record, once; later calls return the first one's result."""
        if self.result is None:
            self.error = error
            self.result = self.run.close(
                error,
                model=None if self.model is None else self.model.to_json(),
                mlflow=self.tracker.to_json(),
                prefect=prefect_place(self.flow_run_id),
            )
        return self.result


@contextmanager
def opened(
    order: Order, *, experiment: str, stages: Callable[..., Stages] | None = None
) -> Iterator[Session]:
    """Open the federation, a run and its MLflow run; close all three however the block ends.

    An error of Consilo's own, or a cancellation, ends the block quietly: `final_state` tells it.

    Args:
        order: what is run.
        experiment: of MLflow.
        stages: the run; None takes that of the job's kind.
    """
    flow_run_id = flow_run()
    quiet_errors()
    made = stages or way_of(order.job).run
    with (
        watching(flow_run_id, order.cancelled),
        connect(order) as connection,
        owning(connection.home / "runs" / order.run_id, flow_run=str(flow_run_id)),
    ):
        opens(flow_run_id, order.run_id)
        run = _run(order, connection, made, experiment)
        session = _tracked(order, connection, run, experiment, flow_run_id)
        try:
            session.show("running")
            tracker = session.tracker
            get_run_logger().info("run %s; MLflow run %s", run.run_id, tracker.url)
            for each in not_met(order.home, order.job, connection.silos):
                get_run_logger().warning("no version of this run could be promoted: %s", each)
            tag_departed(order.home, connection.tracking_uri)
            tracker.log_job(run.job, order.contract)
            with showing(run):
                yield session
            session.close()
        except RunSuperseded:
            raise
        except (ConsiloError, TerminationSignal) as error:
            session.close(_cause(error, order.cancelled))
            order.cancelled.set()  # what still waits in a thread stops
        except BaseException as error:
            session.close(_cause(error, order.cancelled))
            order.cancelled.set()
            raise
        finally:
            if run.is_ours:
                _settle(session)
            else:  # its successor settles it
                order.cancelled.set()


def final_state(session: Session) -> State[Any]:
    """Return how the flow run ends; a run on a subset never reads as plain success."""
    result = session.close()
    summary = result.to_json()
    if isinstance(session.error, RunCancelled):
        return cancelled(result.reason, summary)
    if result.status == "failed":
        return failed(result.reason, summary)
    if result.status == "degraded":
        return Completed(name="Degraded", message=f"degraded: {result.reason}", data=summary)
    return Completed(message="complete", data=summary)


def order_of(
    job: Job,
    *,
    home: Path,
    search_path: Sequence[Path],
    resume: str = "",
    bundle: Path | None = None,
    registers: bool = True,
    job_file: Path | None = None,
) -> Order:
    """Return the order to run ``job`` on the federation in ``home``, or to go on with a run of it.

    The run is called as `called` says, else it chooses a name.

    Raises:
        ContractInvalid: where its contract is not found or not valid.
    """
    contract = Contract.load(job.contract, search=list(search_path))
    return Order(
        home,
        job,
        contract,
        tuple(search_path),
        threading.Event(),
        run_id=resume or _called.get() or new_run_id(job.name),
        resume=bool(resume),
        bundle=bundle,
        registers=registers,
        job_file=job_file,
    )


@contextmanager
def called(run_id: str) -> Iterator[None]:
    """Let the run that a flow of this block opens bear a name that its starter has chosen.

    It is no parameter of the flow: in Prefect's form nobody should be asked for it, and a schedule
    would use one name twice.
    """
    token = _called.set(run_id)
    try:
        yield
    finally:
        _called.reset(token)


def _tracked(
    order: Order, connection: Connection, run: Stages, experiment: str, flow_run_id: UUID
) -> Session:
    """Open the MLflow run of a run; where that cannot be, close what is open already."""
    try:
        if order.job_file is not None:
            write_atomic(run.directory / ORDERED_FROM, str(order.job_file).encode())
        tags = run_tags(
            run,
            bundle=connection.bundle,
            flow_run_id=str(flow_run_id),
            prefect_url=prefect_place(flow_run_id)["url"],
        )
        if order.resume:
            close_died(run.run_id)
        number = number_of(run.directory)
        tracker = Tracker.open(
            connection.tracking_uri,
            experiment=experiment,
            name=names.label(order.job.name, number, "running"),
            tags=tags,
            resume=run.run_id if order.resume else "",
            stopped=order.cancelled,
            require=run.record.require_ours,
        )
    except RunSuperseded:  # its successor closes it
        raise
    except BaseException as error:
        run.close(_cause(error, order.cancelled))
        connection.finish(False, type(error).__name__)
        raise
    session = Session(
        run, tracker, connection, flow_run_id, order.cancelled, number, order.registers
    )
    run.on_wait = session.waits
    return session


def _run(
    order: Order, connection: Connection, stages: Callable[..., Stages], experiment: str
) -> Stages:
    try:
        return stages(
            with_model(order.job, connection.tracking_uri),
            order.contract,
            Cancellable(connection.transport, order.cancelled),
            silos=connection.silos,
            directory=connection.home / "runs" / order.run_id,
            run_id=order.run_id,
            key=connection.signing_key,
            parties=connection.parties,
            absent=connection.absent,
            standing=connection.standing,
            bundle=connection.bundle,
            search_path=order.search_path,
            resume=order.resume,
        )
    except BaseException as error:
        connection.finish(False, type(error).__name__)
        if isinstance(error, RunNotResumable):
            place = connection.home / "runs" / order.run_id
            try:
                close_ended(connection.tracking_uri, experiment, place)
            except Exception as away:  # whoever tends the directory ends what they show
                get_run_logger().warning("how it ended is not shown: %s", type(away).__name__)
        raise


def _cause(error: BaseException, cancelled: threading.Event) -> BaseException:
    """Return what ended the run: whatever breaks once it was cancelled is the cancellation."""
    told_to_end = isinstance(error, TerminationSignal | KeyboardInterrupt | SystemExit)
    if told_to_end or cancelled.is_set():
        return RunCancelled("the flow run was cancelled in Prefect, or its process was told to end")
    return error


def _settle(session: Session) -> None:
    """Tell the federation, MLflow and Prefect how the run ended; each even if another fails."""
    result = session.close()
    stopped = isinstance(session.error, RunCancelled)
    ended_well = result.status != "failed"
    ending = names.ending_of(result.status, result.reason)
    detail = "cancelled" if stopped else result.reason if not ended_well else result.status
    try:
        with suppress(TransportError):  # Flower's own account of the run: its SuperLink is away
            session.connection.finish(ended_well, detail)
    finally:
        try:
            session.tracker.tag_result(result)
            session.show("cancelled" if stopped else result.status)
            if stopped:  # whoever told the process to end may not wait long: the ending first
                session.tracker.end(ending)
                session.tracker.log_result(result, plots=False)
            else:
                session.tracker.log_result(result)
                session.tracker.end(ending)
        except ServiceFailed as away:
            get_run_logger().error("%s; how the run ended is in its record", away)
    if not stopped:
        model = None if session.model is None else session.model.to_json()
        artifacts.summary(result, mlflow_url=session.tracker.url, model=model)
