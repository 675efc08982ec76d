"""Metrics that come after a run, written without importing MLflow, which takes seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from flows.registry import names

_SECONDS = 30.0


def log_baselines(summary: Mapping[str, Any]) -> None:
    """Write a demo's baselines as metrics of its MLflow run, beside the federated model's.

    Args:
        summary: of the run, with ``pooled_baseline``, ``local_baselines`` and, where the job is
            private, ``judged_exactly``.

    Raises:
        httpx.HTTPError: where MLflow does not take them.
    """
    import httpx

    place, now = summary["mlflow"], int(time.time() * 1000)
    metrics = [
        {"key": key, "value": value, "timestamp": now, "step": 0}
        for key, value in _figures(summary)
    ]
    answer = httpx.post(
        f"{place['tracking_uri']}/api/2.0/mlflow/runs/log-batch",
        json={"run_id": place["run_id"], "metrics": metrics},
        timeout=_SECONDS,
    )
    answer.raise_for_status()


def _figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    ways = {
        "pooled": summary.get("pooled_baseline") or {},
        "without_noise": summary.get("judged_exactly") or {},
    }
    ways |= {f"alone/{name}": e for name, e in (summary.get("local_baselines") or {}).items()}
    for way, metrics in ways.items():
        for name, value in metrics.items():
            yield names.baseline_metric(way, name), float(value)
