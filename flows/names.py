"""The one place where the names of metrics, tags, artifacts and deployments are declared.

MLflow charts, dashboards and tests read them from here.
"""

from __future__ import annotations

from collections.abc import Iterable

POOL = "consilo"
"""The Prefect work pool whose process workers run deployments."""

HOME_VARIABLE = "CONSILO_HOME"
"""Environment variable that tells a flow where its federation lives."""

CANDIDATE = "candidate"
"""Alias of the newest registered model."""

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
)

# Tags of the MLflow run and of the registered model version.
TAG_RUN = "consilo.run_id"
TAG_STATUS = "consilo.status"
TAG_REASON = "consilo.reason"
TAG_JOB = "consilo.job"
TAG_JOB_DIGEST = "consilo.job_digest"
TAG_CONTRACT = "consilo.contract"
TAG_CONTRACT_DIGEST = "consilo.contract_digest"
TAG_BUNDLE = "consilo.bundle"
TAG_FLOW_RUN = "consilo.flow_run_id"
TAG_PREFECT_URL = "consilo.prefect_url"
TAG_EPSILON = "consilo.epsilon"
TAG_DELTA = "consilo.delta"
TAG_REPRODUCIBLE = "consilo.reproducible"
TAG_SILOS = "consilo.silos"
TAG_FORMAT = "consilo.model_format"
TAG_PARAMS = "consilo.params_digest"
TAG_RECORD = "consilo.record_head"
TAG_LABEL_SILO = "consilo.label_silo"
"""Of a vertical model: who learns what it says."""
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
PARTICIPATION_FILE = "participation.json"
SUMMARY_FILE = "summary.json"
STATISTICS_FILE = "statistics.json"
MATCH_FILE = "match.json"
FACTS_FILE = "facts.json"
PARTS_FILE = "parts.json"
CURVES_PLOT = "plots/learning_curves.png"
COMPARISON_PLOT = "plots/comparison.png"
HEATMAP_PLOT = "plots/participation.png"

# Keys of Prefect artifacts: lower case, digits and dashes.
CONTRACTS_ARTIFACT = "contract-verdicts"
PARTICIPATION_ARTIFACT = "participation"
METRICS_ARTIFACT = "metrics"
SUMMARY_ARTIFACT = "run-summary"
STATISTICS_ARTIFACT = "column-statistics"
MATCH_ARTIFACT = "match"


def global_metric(name: str) -> str:
    """Return the name of a metric of the global model over all silos' held-out rows."""
    return f"global/{name}"


def silo_metric(silo: str, name: str) -> str:
    """Return the name of one silo's metric."""
    return f"silo/{silo}/{name}"


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
