"""``/metrics``: what a federation's records say, in Prometheus's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dashboards.reading.reading import Reading

RUNS = "consilo_runs"
OPEN = "consilo_runs_open"
ROUNDS = "consilo_rounds"
PARTS = "consilo_participations"
BYTES = "consilo_bytes"
SECONDS = "consilo_phase_seconds"
EPSILON = "consilo_epsilon"
FAILURES = "consilo_failures"
QUEUE = "consilo_flow_runs_waiting"
ONLINE = "consilo_silo_online"
VERDICT = "consilo_silo_contract_kept"
EXPIRY = "consilo_expiry_timestamp_seconds"
UNKNOWN = "consilo_unknown"
RECORDS = "consilo_records_not_whole"

_WAITING = ("Late", "Pending", "AwaitingConcurrencySlot")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Measures:
    """Collects them when they are asked for.

    They are counted anew from the records each time, which are read again where they have changed:
    a restart loses nothing, and a run that is taken away is counted no more.

    Args:
        reading: what is read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        self._reading.freshen()
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on the records."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._of_runs()
        yield from self._of_silos()

    def _of_runs(self) -> Iterator[Metric]:
        briefs = self._reading.records.briefs()
        runs: Counter[tuple[str, str]] = Counter()
        rounds: Counter[str] = Counter()
        parts: Counter[tuple[str, str]] = Counter()
        moved: Counter[tuple[str, str]] = Counter()
        seconds: dict[tuple[str, str], float] = {}
        failures: Counter[tuple[str, str]] = Counter()
        spent: dict[tuple[str, str], float] = {}
        unwhole = 0
        for each in briefs:
            if each.status:
                runs[(each.job, each.status)] += 1
            if each.status == "failed":
                failures[(each.job, each.reason.partition(":")[0] or "unknown")] += 1
            rounds[each.job] += each.done
            for outcome, number in each.outcomes.items():
                parts[(each.job, outcome)] += number
            moved[(each.job, "down")] += each.bytes_down
            moved[(each.job, "up")] += each.bytes_up
            for phase, took in each.seconds.items():
                key = (each.job, phase)
                seconds[key] = seconds.get(key, 0.0) + took
            for silo, epsilon in each.epsilon.items():
                spent.setdefault((each.job, silo), epsilon)  # the newest run comes first
            check = self._reading.records.known_check(each.name)
            unwhole += check is not None and not check.is_whole
        for name, told, labels, values in (
            (RUNS, "Runs that have ended, by how", ("job", "status"), runs),
            (PARTS, "A silo's part in a round, by its outcome", ("job", "outcome"), parts),
            (BYTES, "Bytes to the silos (down) and from them", ("job", "direction"), moved),
            (SECONDS, "Seconds of the parts of runs", ("job", "phase"), seconds),
            (FAILURES, "Runs that failed, by the cause", ("job", "cause"), failures),
        ):
            family = CounterMetricFamily(name, told, labels=labels)
            for key, value in sorted(values.items()):
                family.add_metric(key, value)
            yield family
        family = CounterMetricFamily(ROUNDS, "Rounds that are done", labels=("job",))
        for job, number in sorted(rounds.items()):
            family.add_metric((job,), number)
        yield family
        gauge = GaugeMetricFamily(
            EPSILON, "What the newest private run has cost a silo", labels=("job", "silo")
        )
        for key, value in sorted(spent.items()):
            gauge.add_metric(key, value)
        yield gauge
        yield GaugeMetricFamily(
            OPEN, "Runs that are not over", value=sum(not each.status for each in briefs)
        )
        yield GaugeMetricFamily(RECORDS, "Records that were found not whole", value=unwhole)

    def _of_silos(self) -> Iterator[Metric]:
        reading = self._reading
        told, flow_runs = reading.presences.told, reading.flow_runs.told
        unknown = GaugeMetricFamily(
            UNKNOWN, "1 where a server does not answer, so that others lack", labels=("server",)
        )
        unknown.add_metric(("superlink",), float(bool(told.error) or not told.is_known))
        unknown.add_metric(("prefect",), float(bool(flow_runs.error) or not flow_runs.is_known))
        yield unknown
        if told.is_known and not told.error:
            online = GaugeMetricFamily(ONLINE, "1 where a silo is connected", labels=("silo",))
            for card in reading.silos():
                if card.takes_part:
                    online.add_metric((card.name,), float(card.connected == "online"))
            yield online
        if flow_runs.is_known and not flow_runs.error:
            waiting = [each for each in flow_runs.value or () if each.state in _WAITING]
            yield GaugeMetricFamily(QUEUE, "Flow runs that wait for their turn", value=len(waiting))
        kept = GaugeMetricFamily(
            VERDICT, "1 where a silo's last contract check passed", labels=("silo",)
        )
        for card in reading.silos():
            if card.verdicts:
                kept.add_metric((card.name,), float(card.verdicts[0].verdict.verdict == "passed"))
        yield kept
        expiry = GaugeMetricFamily(
            EXPIRY, "When a key or certificate ends", labels=("whose", "what")
        )
        for when, whose, what in reading.members.calendar():
            expiry.add_metric((whose, what), datetime.fromisoformat(when).timestamp())
        yield expiry
