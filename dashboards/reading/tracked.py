"""What MLflow knows of runs: figures by silo, and curves; a few calls for a page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any
from urllib.parse import quote

from consilo.metrics.words import foremost
from dashboards.reading.asked import Asked
from flows.registry import names
from flows.tending.servers import ask

_WITHIN_S = 5.0
_LIVE_S = 1.5
_MOST_RUNS = 128
_MOST_CURVES = 2
_MOST_POINTS = 20_000
_AGES_S = 10 * 365 * 86_400.0

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tracked:
    """A run in MLflow.

    Args:
        id: MLflow's; empty where it has no such run.
        url: its page.
        latest: metric → its last value.
        curves: metric of the whole model → (step, value).
    """

    id: str
    url: str
    latest: Mapping[str, float]
    curves: Mapping[str, Points]

    def of_silo(self, silo: str) -> dict[str, float]:
        """Return a silo's last figures."""
        start = names.silo_metric(silo, "")
        return {k.removeprefix(start): v for k, v in self.latest.items() if k.startswith(start)}


class Tracking:
    """The MLflow server of a federation; usable from several threads.

    Args:
        uri: of the server; called each time, since it may change; empty where none is up.
        pool: runs questions.
    """

    def __init__(self, uri: Any, pool: ThreadPoolExecutor) -> None:
        self._uri = uri
        self._pool = pool
        self._lock = Lock()
        self._runs: OrderedDict[tuple[str, bool], Asked[Tracked]] = OrderedDict()

    def run(self, name: str, job: str, *, is_over: bool) -> Asked[Tracked]:
        """Return the question for a run; of one that is over it is asked once.

        Args:
            name: of the run.
            job: the name of its job.
            is_over: whether it has ended.
        """
        key = (name, is_over)
        with self._lock:
            found = self._runs.get(key)
            if found is None or (found.told.error and is_over):
                found = Asked(
                    lambda: self._read(name, job),
                    fresh_s=_AGES_S if is_over else _LIVE_S,
                    pool=self._pool,
                )
                self._runs[key] = found
            self._runs.move_to_end(key)
            while len(self._runs) > _MOST_RUNS:
                self._runs.popitem(last=False)
        return found

    def _read(self, name: str, job: str) -> Tracked:
        uri = self._uri()
        if not uri:
            raise OSError("no MLflow server is up")
        api = f"{uri}/api/2.0/mlflow"
        experiment = ask(
            f"{api}/experiments/get-by-name?experiment_name={quote(names.pipeline_experiment(job))}",
            within_s=_WITHIN_S,
        )["experiment"]["experiment_id"]
        wanted = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{names.TAG_RUN}` = '{name}'",
            "max_results": 1,
        }
        found = ask(f"{api}/runs/search", wanted, within_s=_WITHIN_S).get("runs") or ()
        if not found:
            return Tracked("", "", {}, {})
        run_id = str(found[0]["info"]["run_id"])
        latest = {
            str(each["key"]): float(each["value"]) for each in found[0]["data"].get("metrics") or ()
        }
        start = names.global_metric("")
        own = [key.removeprefix(start) for key in latest if key.startswith(start)]
        shown = [each for each in foremost(own) if each not in (names.LOSS, names.EPSILON)]
        chosen = [names.global_metric(each) for each in shown[:_MOST_CURVES]]
        if names.global_metric(names.LOSS) in latest:
            chosen.append(names.global_metric(names.LOSS))
        return Tracked(
            run_id,
            f"{uri}/#/experiments/{experiment}/runs/{run_id}",
            latest,
            {key: self._history(api, run_id, key) for key in chosen},
        )

    def _history(self, api: str, run_id: str, key: str) -> Points:
        answer = ask(
            f"{api}/metrics/get-history?run_id={run_id}&metric_key={quote(key, safe='')}"
            f"&max_results={_MOST_POINTS}",
            within_s=_WITHIN_S,
        )
        points = {int(each["step"]): float(each["value"]) for each in answer.get("metrics") or ()}
        return [(float(step), value) for step, value in sorted(points.items())]
