"""The one place where the names of metrics, tags, artifacts and deployments are declared.

MLflow charts, dashboards and tests read them from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

POOL = "consilo"
"""The Prefect work pool whose process workers run deployments."""

HOME_VARIABLE = "CONSILO_HOME"
"""Environment variable that tells a flow where its federation lives."""

CANDIDATE = "candidate"
"""Alias of the newest registered model whose run was complete."""
DEGRADED_CANDIDATE = "candidate-degraded"
"""Alias of the newest whose run was degraded; who approves it says that they accept that."""
CHAMPION = "champion"
"""Alias of the version that is in use: it moves by a decision (`consilo.decisions`) alone."""
PREVIOUS = "previous"
"""Alias of the champion before it, to which a rollback goes."""

# Metrics of the whole run; the model's own metrics come under `global_metric`.
ROUND_SECONDS = "round/seconds"
ROUND_SILOS = "round/silos"
ROUND_BYTES_DOWN = "round/bytes_down"
ROUND_BYTES_UP = "round/bytes_up"
MAX_EPSILON = "global/epsilon"
ROUND_METRICS = (ROUND_SECONDS, ROUND_SILOS, ROUND_BYTES_DOWN, ROUND_BYTES_UP, MAX_EPSILON)

# What a silo is tracked by, besides the model's metrics on its held-out rows.
LOSS = "loss"
EPSILON = "epsilon"
EPSILON_RDP = "epsilon_rdp"
BYTES_DOWN = "bytes_down"
BYTES_UP = "bytes_up"
SILO_SECONDS = "silo_seconds"
SECONDS = "seconds"
NUM_EXAMPLES = "num_examples"
MAX_DRIFT = "max_drift"
MOVED = "moved"
"""Whether a silo's rows have moved since the last training: 1 or 0."""
SILO_METRICS = (
    LOSS,
    EPSILON,
    EPSILON_RDP,
    BYTES_DOWN,
    BYTES_UP,
    SILO_SECONDS,
    SECONDS,
    NUM_EXAMPLES,
    MAX_DRIFT,
    MOVED,
)

# Tags of the MLflow run and of the registered model version; MLflow shows them in a narrow column.
TAG_RUN = "run"
TAG_STATUS = "status"
TAG_REASON = "reason"
TAG_WAITING = "waiting"
"""For whom the run waits and until when; empty once it goes on."""
TAG_PARTICIPATION = "participation"
"""How often silos took part in rounds, and how often not."""
TAG_JOB = "job"
TAG_JOB_DIGEST = "job_digest"
TAG_CONTRACT = "contract"
TAG_CONTRACT_DIGEST = "contract_digest"
TAG_BUNDLE = "bundle"
TAG_FLOW_RUN = "flow_run"
TAG_PREFECT_URL = "prefect_url"
TAG_EPSILON = "epsilon"
TAG_DELTA = "delta"
TAG_REPRODUCIBLE = "reproducible"
TAG_SILOS = "silos"
TAG_FORMAT = "format"
TAG_PARAMS = "params_digest"
TAG_RECORD = "record_head"
TAG_CONTINUES = "continues"
"""The run, and the version of the model, that a model goes on with; absent where it began anew."""
TAG_DUE = "due"
"""Why a run trained, or that it need not have, as JSON: cause, sentence, and the run that asked."""
TAG_DUE_TOLD = "trained_because"
"""The same in a sentence."""
TAG_LABEL_SILO = "label_silo"
"""Of a vertical model: who learns what it says."""
TAG_CARD = "card"
"""Of a version: where its card is, as an artifact's address."""
TAG_PROMOTION = "promotion"
"""What the job says that reviewers hold the model to, as JSON; absent where it says nothing."""
TAG_DECISIONS = "decisions_head"
"""Of a registered model: how long the chain of its decisions was, and the hash of its last line."""
_FORMERLY = {
    TAG_RUN: "consilo.run_id",
    TAG_FORMAT: "consilo.model_format",
    TAG_FLOW_RUN: "consilo.flow_run_id",
}
"""What former releases called the tags that are read again."""
MODEL_TAGS = (
    TAG_RUN,
    TAG_STATUS,
    TAG_REASON,
    TAG_JOB_DIGEST,
    TAG_CONTRACT,
    TAG_CONTRACT_DIGEST,
    TAG_BUNDLE,
    TAG_EPSILON,
    TAG_DELTA,
    TAG_REPRODUCIBLE,
    TAG_SILOS,
    TAG_FORMAT,
    TAG_PARAMS,
    TAG_RECORD,
)

# Files of the MLflow run.
JOB_FILE = "job.json"
CONTRACT_FILE = "contract.json"
REPORTS_FILE = "contract_reports.json"
VERDICTS_FILE = "contract_verdicts.json"
PARTICIPATION_FILE = "participation.json"
ROUNDS_FILE = "participation_by_round.json"
SUMMARY_FILE = "summary.json"
STATISTICS_FILE = "statistics.json"
MATCH_FILE = "match.json"
FACTS_FILE = "facts.json"
PARTS_FILE = "parts.json"
CARD_FOLDER = "card"
CURVES_PLOT = "plots/learning_curves.png"
COMPARISON_PLOT = "plots/comparison.png"
HEATMAP_PLOT = "plots/participation.png"

# Keys of Prefect artifacts: lower case, digits and dashes.
CONTRACTS_ARTIFACT = "contract-verdicts"
PARTICIPATION_ARTIFACT = "participation"
ROUNDS_ARTIFACT = "participation-by-round"
METRICS_ARTIFACT = "metrics"
SUMMARY_ARTIFACT = "run-summary"
STATISTICS_ARTIFACT = "column-statistics"
ANSWER_ARTIFACT = "answer"
MATCH_ARTIFACT = "match"
WAITING_ARTIFACT = "waiting"
HOUSEKEEPING_ARTIFACT = "housekeeping"


def global_metric(name: str) -> str:
    """Return the name of a metric of the global model over all silos' held-out rows."""
    return f"global/{name}"


def silo_metric(silo: str, name: str) -> str:
    """Return the name of one silo's metric."""
    return f"silo/{silo}/{name}"


def moved_metric(silo: str, index: str, column: str) -> str:
    """Return the name of how far one column of a silo has moved since the last training."""
    return f"silo/{silo}/{index}/{column}"


def ending_of(status: str, reason: str) -> Literal["FINISHED", "FAILED", "KILLED"]:
    """Return how the MLflow run of a run ends that ended so; one without an end was killed."""
    if reason.startswith("RunCancelled") or status not in ("complete", "degraded", "failed"):
        return "KILLED"
    return "FAILED" if status == "failed" else "FINISHED"


def tag(tags: Mapping[str, str], name: str) -> str:
    """Return a tag's value as this release or a former one wrote it; empty where it is not there.

    Args:
        tags: of a run or a version.
        name: one of the `TAG_` names.
    """
    return tags.get(name) or tags.get(_FORMERLY.get(name, name), "")


def alias_of(status: str) -> str:
    """Return the alias that a model gets whose run ended so."""
    return CANDIDATE if status == "complete" else DEGRADED_CANDIDATE


def label(job: str, number: int, status: str) -> str:
    """Return what a run is called in the lists of Prefect and MLflow."""
    return f"{job} · {number} · {status}"


def baseline_metric(way: str, name: str) -> str:
    """Return the name of a figure of another way to train: ``pooled``, or ``alone/SILO``."""
    return f"baseline/{way}/{name}"


def departed_tag(silo: str) -> str:
    """Return the tag of a model version that contains updates of a silo that has left."""
    return f"consilo.departed.{silo}"


def pipeline_experiment(job: str) -> str:
    """Return the MLflow experiment of a job's pipeline runs."""
    return job


def analytics_experiment(job: str) -> str:
    """Return the MLflow experiment of a job's analytics runs."""
    return f"{job}-analytics"


def declared(metrics: Iterable[str], silos: Iterable[str]) -> frozenset[str]:
    """Return every metric name that a pipeline run can log.

    Args:
        metrics: the model's own, such as ``roc_auc``.
        silos: the silos' names.
    """
    own = (*metrics, LOSS)
    names = {global_metric(each) for each in own} | set(ROUND_METRICS)
    for silo in silos:
        names |= {silo_metric(silo, each) for each in (*own, *SILO_METRICS)}
    return frozenset(names)


STATUSES = (
    "running",
    "waiting",
    "complete",
    "degraded",
    "failed",
    "cancelled",
    "refused",
    "died",
    "not due",
)
"""Tags of a flow run of which it has one at a time."""


def of_died(name: str, tags: Sequence[str]) -> tuple[str, list[str]]:
    """Return name and tags of a flow run whose process died, given those that it had.

    >>> of_died("heart · 3 · running", ["job:heart", "running"])
    ('heart · 3 · died', ['job:heart', 'died'])
    """
    bare = name.rpartition(" · ")[0] or name
    return f"{bare} · died", [*(each for each in tags if each not in STATUSES), "died"]


_RUN = "run:"


def run_tag(run_id: str) -> str:
    """Return the tag of a flow run that says which run it opens, or goes on with."""
    return f"{_RUN}{run_id}"


def runs_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return which runs a flow run opens, or goes on with, given its tags.

    >>> runs_of(["job:heart", run_tag("heart-1")])
    ('heart-1',)
    """
    return tuple(each.removeprefix(_RUN) for each in tags if each.startswith(_RUN))


def of_another(tags: Iterable[str]) -> list[str]:
    """Return the tags of a flow run that does from the beginning what another one should have.

    >>> of_another(["mine", "run:heart-1", "died"])
    ['mine']
    """
    return [each for each in tags if each not in STATUSES and not each.startswith(_RUN)]


WORKER = "coordinator"
"""The worker of the pool that `consilo up --worker` starts."""
