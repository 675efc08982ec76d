"""What a pipeline run leaves in MLflow: names and numbers about rounds and silos, never a row.

Everything goes through one `MlflowClient` and an explicit run id: no global tracking URI, no active
run, nothing on stdout. Metrics travel in one batch per round.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport, Finding
from consilo.horizontal.between.drift import Moved
from consilo.horizontal.statistics import Summary
from consilo.jobs.job import Job
from consilo.kernel.loop import Exchange
from consilo.record.participation import counted
from consilo.runs.outcome import RunResult, SiloOutcome
from consilo.runs.stages import Stages
from flows.registry import names
from flows.registry.drift import column_table, drift
from flows.registry.patient import patient

if TYPE_CHECKING:
    from mlflow import MlflowClient

Ending = Literal["FINISHED", "FAILED", "KILLED"]

_DESCRIPTION = "mlflow.note.content"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
NOT_TOLD = "not told"
"""The digest of a dataset whose silo does not say which rows it has."""
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_LONGEST_PARAM = 500


class Tracker:
    """One MLflow run.

    Args:
        client: of the tracking server.
        uri: the tracking server's address.
        experiment_id: where the run belongs.
        run_id: the run.
    """

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str, run_id: str) -> None:
        self.client = client
        self.uri = uri
        self.experiment_id = experiment_id
        self.run_id = run_id
        self._tables: list[str] = []

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        resume: str = "",
        stopped: threading.Event | None = None,
        require: Callable[[], None] = lambda: None,
    ) -> Tracker:
        """Start an MLflow run, or go on with the one of a run of ours.

        Args:
            uri: the tracking server's address.
            experiment: the experiment's name; made where it is not there.
            name: the run's name.
            tags: of the run.
            resume: id of a run of ours: go on with its MLflow run, where there is one.
            stopped: set where the run shall end; a server that is away is not waited for then.
            require: raises where another process has gone on with the run: nothing is written then.
        """
        _quieten()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = patient(MlflowClient(uri), uri, stopped=stopped, require=require)
        existing = client.get_experiment_by_name(experiment)
        if existing is None:
            try:
                experiment_id = client.create_experiment(experiment, tags=_KIND)
            except MlflowException:  # somebody was faster
                existing = client.get_experiment_by_name(experiment)
                if existing is None:
                    raise
                experiment_id = existing.experiment_id
        else:
            experiment_id = existing.experiment_id
        known = run_of(client, experiment_id, resume) if resume else None
        if known is not None:
            client.update_run(known, status="RUNNING")
            tracker = cls(client, uri, experiment_id, known)
            tracker.tag(tags)
            return tracker
        run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
        return cls(client, uri, experiment_id, run.info.run_id)

    @property
    def url(self) -> str:
        """The run's page in the MLflow UI."""
        return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def to_json(self) -> dict[str, str]:
        """Return what the run's summary says of it."""
        return {"tracking_uri": self.uri, "run_id": self.run_id, "url": self.url}

    def log_job(self, job: Job, contract: Contract) -> None:
        """Log the job's settings as params, and job and contract as files."""
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in flattened(job.to_json())]
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self.client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_BATCH])
        self.client.log_dict(self.run_id, job.to_json(), names.JOB_FILE)
        self.client.log_dict(self.run_id, json.loads(contract.to_json()), names.CONTRACT_FILE)

    def log_contracts(
        self,
        reports: Mapping[str, CheckReport],
        contract: Contract,
        marks: Mapping[str, str] = MappingProxyType({}),
        outcomes: Mapping[str, SiloOutcome] = MappingProxyType({}),
    ) -> None:
        """Log every silo's contract report, and which silos' data went in: names, no rows.

        Args:
            reports: silo → what it said.
            contract: which contract.
            marks: silo → what tells its present rows from others; one that tells none (its policy
                wants privacy, or its release is older) has the digest `NOT_TOLD`.
            outcomes: silo → its verdict, with why it gave none.
        """
        from mlflow.data.http_dataset_source import HTTPDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        contents = {name: json.loads(report.to_json()) for name, report in reports.items()}
        self.client.log_dict(self.run_id, contents, names.REPORTS_FILE)
        rows = verdict_rows(outcomes, reports)
        if rows:
            table = {"columns": list(rows[0]), "data": [list(each.values()) for each in rows]}
            self.client.log_dict(self.run_id, table, names.VERDICTS_FILE)
            self._tables.append(names.VERDICTS_FILE)
        inputs = []
        for name, report in reports.items():
            if report.passed:
                data = MetaDataset(
                    HTTPDatasetSource(f"silo://{name}/{contract.ref}"),
                    name=f"{name} ({contract.ref})",
                    digest=marks.get(name, NOT_TOLD),
                )
                tags = [InputTag("mlflow.data.context", "training")]
                inputs.append(DatasetInput(data._to_mlflow_entity(), tags))
        if inputs:
            self.client.log_inputs(self.run_id, inputs)

    def log_round(
        self, report: Mapping[str, Any], exchanges: Iterable[Exchange], *, seconds: float
    ) -> None:
        """Log one round: its figures by silo and over all, its bytes, its time, its ε."""
        self._log(round_metrics(report, exchanges, seconds=seconds))

    def log_evaluation(
        self, metrics: Mapping[str, float], silos: Mapping[str, Mapping[str, float]], *, step: int
    ) -> None:
        """Log the final model's figures over all silos and in each."""
        points = [(names.global_metric(key), value, step) for key, value in metrics.items()]
        for silo, own in silos.items():
            points += [(names.silo_metric(silo, key), value, step) for key, value in own.items()]
        self._log(points)

    def log_statistics(self, summary: Summary) -> None:
        """Log each column over all silos, with its histogram, as a file and as metrics."""
        histograms = {
            name: {"edges": edges.tolist(), "counts": summary.histogram[name].tolist()}
            for name, edges in summary.edges.items()
        }
        statistics = {
            "rows": dict(summary.rows),
            "classes": {name: list(counts) for name, counts in summary.class_counts.items()},
            "columns": column_table(summary),
            "histograms": histograms,
        }
        self.client.log_dict(self.run_id, statistics, names.STATISTICS_FILE)
        largest = [
            (names.silo_metric(silo, names.MAX_DRIFT), max(map(abs, each), default=0.0), 0)
            for silo, each in drift(summary).items()
        ]
        rows = [
            (names.silo_metric(silo, names.NUM_EXAMPLES), n, 0) for silo, n in summary.rows.items()
        ]
        self._log([*largest, *rows])

    def log_files(self, files: Mapping[str, bytes]) -> None:
        """Log files, name → content, as artifacts of the run."""
        with tempfile.TemporaryDirectory(prefix="consilo-files-") as made:
            for name, content in files.items():
                (Path(made) / name).write_bytes(content)
            self.client.log_artifacts(self.run_id, made)

    def log_moved(self, moved: Mapping[str, Moved]) -> None:
        """Log how far each silo's columns have moved since the last training."""
        points = [
            (names.moved_metric(silo, index, column), figure, 0)
            for silo, word in moved.items()
            for index, columns in word.indices.items()
            for column, figure in columns.items()
        ]
        points += [
            (names.silo_metric(silo, names.MOVED), float(word.drifted), 0)
            for silo, word in moved.items()
            if word.compared
        ]
        self._log(points)

    def log_result(self, result: RunResult, *, plots: bool = True) -> None:
        """Log the run's end: summary, record, participation and, with ``plots``, pictures."""
        with tempfile.TemporaryDirectory(prefix="consilo-result-") as made:
            folder = Path(made)
            summary = json.dumps(result.to_json(), indent=2)
            (folder / names.SUMMARY_FILE).write_text(summary, encoding="utf-8")
            record = Path(result.record)
            if record.is_file():
                (folder / record.name).write_bytes(record.read_bytes())
            if plots and result.rounds:
                from flows.registry.plots import (
                    compared,
                    comparison,
                    participation,
                )

                (folder / "plots").mkdir()
                if any(each["metrics"] for each in result.rounds):
                    result.plot().savefig(folder / names.CURVES_PLOT, dpi=110)
                if compared(result):
                    comparison(result, folder / names.COMPARISON_PLOT)
                if result.participation:
                    participation(result, folder / names.HEATMAP_PLOT)
            table = json.dumps(participation_table(result), indent=1)
            (folder / names.PARTICIPATION_FILE).write_text(table, encoding="utf-8")
            if result.participation:
                rows = [each.to_json() for each in result.participation]
                by_round = {"columns": [*rows[0]], "data": [[*each.values()] for each in rows]}
                content = json.dumps(by_round)
                (folder / names.ROUNDS_FILE).write_text(content, encoding="utf-8")
                self._tables.append(names.ROUNDS_FILE)
            self.client.log_artifacts(self.run_id, str(folder))
        # What makes the file a table in the MLflow UI and for `mlflow.load_table`.
        paths = [*self._tables, names.PARTICIPATION_FILE]
        tables = [{"path": path, "type": "table"} for path in dict.fromkeys(paths)]
        self.tag({"mlflow.loggedArtifacts": json.dumps(tables)})

    def tag_result(self, result: RunResult) -> None:
        """Tag the run with how it ended, and say so in its description."""
        parts = result.participation
        note = self.client.get_run(self.run_id).data.tags.get(_DESCRIPTION, "")
        sentence = result.sentence.removeprefix(f"{result.status}: ")
        told = f"**{result.status}** {sentence}\n\n{note}"
        self.tag(
            {
                names.TAG_STATUS: result.status,
                names.TAG_REASON: result.reason,
                **({names.TAG_PARTICIPATION: counted(parts)} if parts else {}),
                _DESCRIPTION: told,
            }
        )

    def rename(self, name: str) -> None:
        """Call the run otherwise."""
        self.client.update_run(self.run_id, name=name)

    def log_file(self, value: Mapping[str, Any], name: str) -> None:
        """Log a JSON file."""
        self.client.log_dict(self.run_id, dict(value), name)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, tags[key]) for key in tags])

    def end(self, ending: Ending) -> None:
        """End the MLflow run."""
        self.client.set_terminated(self.run_id, ending)

    def _log(self, points: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value, step in points]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])


def run_of(client: MlflowClient, experiment_id: str, run_id: str) -> str | None:
    """Return the MLflow run of a run of ours; None where there is none.

    Former releases called the MLflow run as the run, and had other names for their tags.
    """
    for wanted in (f"tags.`{names.TAG_RUN}` = '{run_id}'", f"attributes.run_name = '{run_id}'"):
        runs = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
        if runs:
            return str(runs[0].info.run_id)
    return None


def verdict_rows(
    outcomes: Mapping[str, SiloOutcome], reports: Mapping[str, CheckReport]
) -> list[dict[str, str]]:
    """Return one row per silo for people: its verdict, and the rules that its rows broke."""

    def told(findings: Iterable[Finding]) -> str:
        return ", ".join(f"{each.rule} ({each.column or 'table'})" for each in findings)

    return [
        {
            "silo": name,
            "verdict": each.contract,
            "broken rules": told(reports[name].failures if name in reports else ()),
            "warnings": told(reports[name].warnings if name in reports else ()),
            "reason": each.reason,
        }
        for name, each in outcomes.items()
    ]


def _quieten() -> None:
    """Keep MLflow off stdout, which may hold a program's JSON, and its progress bars off stderr."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    # Its own seven retries hold a run for four minutes where the server is gone; four take 30 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def run_tags(run: Stages, *, bundle: str, flow_run_id: str, prefect_url: str) -> dict[str, str]:
    """Return the tags of a run that is beginning."""
    return {
        names.TAG_RUN: run.run_id,
        names.TAG_STATUS: "running",
        names.TAG_JOB: run.job.name,
        names.TAG_JOB_DIGEST: run.job.digest,
        names.TAG_CONTRACT: run.contract.ref,
        names.TAG_CONTRACT_DIGEST: run.contract.digest,
        names.TAG_BUNDLE: bundle or "in process",
        names.TAG_FLOW_RUN: flow_run_id,
        names.TAG_PREFECT_URL: prefect_url,
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": f"{run.job.kind} job {run.job.name}",
        "mlflow.source.type": "JOB",
        _DESCRIPTION: note_of(run, prefect_url),
    }


def note_of(run: Stages, prefect_url: str) -> str:
    """Return what a run is about, as its page says it in Markdown."""
    told = getattr(run.job, "description", "") or f"job {run.job.name}"
    asked = f"Contract {run.contract.ref}, silos {', '.join(run.silos)}."
    return f"{told}\n\n{asked} Run `{run.run_id}`, [in Prefect]({prefect_url})."


def round_metrics(
    report: Mapping[str, Any], exchanges: Iterable[Exchange], *, seconds: float
) -> list[tuple[str, float, int]]:
    """Return one round's metrics as (name, value, step).

    The silos measure the model that they receive: its metrics stand at the step before, so that
    step 0 is the untrained model. Loss, ε, bytes and seconds belong to the round itself.
    """
    number = int(report["round"])
    points: list[tuple[str, float | None, int]] = [
        (names.global_metric(key), value, number - 1) for key, value in report["metrics"].items()
    ]
    points.append((names.global_metric(names.LOSS), report["loss"], number))
    for silo, each in report["silos"].items():
        own = [(key, value, number - 1) for key, value in each["metrics"].items()]
        own += [
            (names.LOSS, each["loss"], number),
            (names.EPSILON, each["epsilon"], number),
            (names.EPSILON_RDP, each["epsilon_bound"], number),
            (names.NUM_EXAMPLES, each["num_examples"], number),
        ]
        points += [(names.silo_metric(silo, key), value, step) for key, value, step in own]
    down, up = 0, 0
    for exchange in (each for each in exchanges if each.round == number):
        down, up = down + exchange.bytes_down, up + exchange.bytes_up
        for key, value in (
            (names.BYTES_DOWN, exchange.bytes_down),
            (names.BYTES_UP, exchange.bytes_up),
            (names.SECONDS, exchange.seconds),
            (names.SILO_SECONDS, exchange.silo_seconds),
        ):
            points.append((names.silo_metric(exchange.silo, key), value, number))
    spent = [each["epsilon"] for each in report["silos"].values() if each["epsilon"] is not None]
    points += [
        (names.ROUND_SECONDS, seconds, number),
        (names.ROUND_SILOS, len(report["silos"]), number),
        (names.ROUND_BYTES_DOWN, down, number),
        (names.ROUND_BYTES_UP, up, number),
        (names.MAX_EPSILON, max(spent, default=None), number),
    ]
    return [(key, value, step) for key, value, step in points if value is not None]


def participation_table(result: RunResult) -> dict[str, list[Any]]:
    """Return one row per silo, its part in the run, as MLflow keeps a table."""
    return {
        "columns": [
            "silo",
            "status",
            "reason",
            "contract",
            "rounds",
            names.NUM_EXAMPLES,
            names.EPSILON,
            names.EPSILON_RDP,
        ],
        "data": [
            [
                name,
                each.status,
                each.reason,
                each.contract,
                ", ".join(str(number) for number in each.rounds),
                each.num_examples,
                each.epsilon,
                each.epsilon_bound,
            ]
            for name, each in result.silos.items()
        ],
    }


def flattened(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as dotted names and texts; what is not set is left out.

    >>> flattened({"protocol": {"name": "fedavg", "mu": None}, "seed": 3})
    [('protocol.name', 'fedavg'), ('seed', '3')]
    """
    pairs: list[tuple[str, str]] = []
    for key, each in value.items():
        if isinstance(each, Mapping):
            pairs += flattened(each, f"{prefix}{key}.")
        elif each is not None and each != "":
            text = each if isinstance(each, str) else json.dumps(each)
            pairs.append((f"{prefix}{key}", text[:_LONGEST_PARAM]))
    return pairs
