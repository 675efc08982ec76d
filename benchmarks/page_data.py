"""Past runs of a federation, made up: records, MLflow runs and Prefect's flow runs, as pages read.

Records are written by the same class as a run's, with a disk that syncs nothing, and verify; MLflow
gets its runs over its API, and their points into its tables, in its own shape: a million of them
over the API takes ten minutes. What silos signed in these runs is not theirs: it is as long.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from consilo.contracts.contract import SHIPPED, Contract
from consilo.jobs.job import Job
from consilo.machine.files import Disk, on
from consilo.membership.keys import load_or_create_signing_key
from consilo.record.participation import Part
from consilo.record.run_record import RunRecord
from flows.registry import names
from silos.membership.enrol import enrol_here

METRICS = ("roc_auc", "accuracy", "log_loss", "brier")
_SIGNED = ("contract_check", "statistics", "train", "evaluate")
_REASONS: Mapping[str, tuple[str, str]] = {
    "late": ("deadline", "no answer within 40 s"),
    "dropped": ("unreachable", "not connected"),
    "refused": ("refused", "its policy allows no update outside of its hours"),
    "rejected": ("bad_update", "its update is unlike those of the rounds before"),
}


@dataclass(frozen=True)
class Past:
    """How much there is.

    Args:
        runs: how many.
        silos: how many.
        rounds: of each run.
        seed: of everything.
    """

    runs: int = 100
    silos: int = 20
    rounds: int = 50
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The silos' names."""
        return tuple(f"clinic-{number:02}" for number in range(1, self.silos + 1))


@dataclass(frozen=True)
class Made:
    """One run that was made up.

    Args:
        name: of the run.
        status: how it ended.
        reason: why so.
        began: when.
        ended: when.
        points: (metric, value, step), as MLflow keeps them.
        job: what was asked.
    """

    name: str
    status: str
    reason: str
    began: datetime
    ended: datetime
    points: Sequence[tuple[str, float, int]]
    job: Job


class _NoSync(Disk):
    """A disk for what can be made again."""

    def sync(self, file: IO[bytes]) -> None:
        """Do nothing."""

    def sync_directory(self, directory: Path) -> None:
        """Do nothing."""


def write_past(home: Path, past: Past, *, until: datetime) -> list[Made]:
    """Write members and records into a coordinator's directory; return the runs, oldest first.

    Args:
        home: the coordinator's directory.
        past: how much.
        until: when the last run ended.
    """
    with on(_NoSync()):
        for name in past.names:
            enrol_here(home, home / "made-up" / name, address="127.0.0.1:1", name=name)
        key = load_or_create_signing_key(home / "keys" / "record.key")
        job = Job.load(SHIPPED / "jobs" / "breast_cancer.yaml")
        job = job.changed(protocol={"rounds": past.rounds})
        contract = Contract.load(job.contract, search=[])
        draw = random.Random(past.seed)
        made = []
        for number in range(past.runs):
            began = until - timedelta(days=past.runs - number, seconds=draw.randrange(3600))
            changed = job if number % 7 else job.changed(local={"lr": 0.01 * (1 + number % 3)})
            made.append(_write_run(home, past, number, began, changed, contract, key, draw))
    return made


def _write_run(
    home: Path,
    past: Past,
    number: int,
    began: datetime,
    job: Job,
    contract: Contract,
    key: Any,
    draw: random.Random,
) -> Made:
    name = f"{job.name}-{began:%Y%m%dT%H%M%S}-{draw.randrange(1 << 24):06x}"
    ending = "failed" if number % 25 == 24 else "degraded" if number % 5 == 3 else "complete"
    clock = [began]

    def now() -> str:
        clock[0] += timedelta(seconds=draw.uniform(0.0, 2.0))
        return clock[0].isoformat(timespec="seconds")

    record = RunRecord(home / "runs" / name / "record.jsonl", key, now=now)
    silos = past.names
    record.add(
        "opened",
        run_id=name,
        job=job.to_json(),
        job_digest=job.digest,
        contract=contract.ref,
        contract_digest=contract.digest,
        bundle=_hex(draw, 64),
        silos=list(silos),
        manifest=_hex(draw, 64),
        signing_keys={each: _hex(draw, 64) for each in silos},
        excluded=[],
        software={"consilo": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu"},
        hardware={"cpu": "made up", "architecture": "x86_64", "capability": "AVX2"},
        threads=1,
        reproducible=False,
    )
    out = silos[number % past.silos] if ending == "degraded" else ""
    for each in silos:
        record.add("contract", **_contract(each, contract, broken=each == out))
    record.add("replies", headers=_headers(draw, silos, "contract_check"))
    taking_part = [each for each in silos if each != out]
    rows = {each: draw.randrange(60, 900) for each in taking_part}
    record.add("standardized", rows=rows, mode="global", mean=[0.0] * 30, variance=[1.0] * 30)
    record.add("replies", headers=_headers(draw, silos, "statistics"))
    points: list[tuple[str, float, int]] = []
    last = past.rounds // 2 if ending == "failed" else past.rounds
    epsilon = dict.fromkeys(taking_part, 0.0)
    for at in range(1, last + 1):
        parts = [_part(draw, at, each, out, rows, epsilon) for each in silos]
        trained = {p.silo: p for p in parts if p.outcome == "trained"}
        record.add(
            "round",
            round=at,
            silos={
                n: {"num_examples": p.num_examples, "epsilon": p.epsilon}
                for n, p in trained.items()
            },
            faults={p.silo: p.code for p in parts if p.code and p.invited},
            params=_hex(draw, 64),
            participation=[p.brief() for p in parts],
        )
        record.add("replies", headers=_headers(draw, tuple(trained), "train"))
        points += _points(draw, at, trained)
    figures = _figures(draw, last)
    silo_figures = {each: _figures(draw, last) for each in taking_part}
    points += [(names.global_metric(k), v, last) for k, v in figures.items()]
    points += [
        (names.silo_metric(n, k), v, last)
        for n, own in silo_figures.items()
        for k, v in own.items()
    ]
    if ending != "failed":
        record.add(
            "evaluated",
            metrics=figures,
            rows={each: max(1, rows[each] // 5) for each in taking_part},
            intervals={k: [v - 0.02, v + 0.02] for k, v in figures.items()},
            constant={"accuracy": 0.63},
        )
        record.add("replies", headers=_headers(draw, tuple(taking_part), "evaluate"))
    reason = {
        "complete": "",
        "degraded": f"{out} was left out: its data do not keep the contract",
        "failed": f"QuorumLost: 9 of at least 12 silos answered in round {last + 1}",
    }[ending]
    record.close(
        status=ending,
        reason=reason,
        metrics=figures if ending != "failed" else {},
        silos={
            each: {
                "status": "left_out" if each == out else "trained",
                "reason": "its data do not keep the contract" if each == out else "",
                "rounds": [] if each == out else list(range(1, last + 1)),
                "num_examples": rows.get(each, 0),
                "epsilon": epsilon.get(each),
            }
            for each in silos
        },
    )
    return Made(name, ending, reason, began, clock[0], points, job)


def _contract(silo: str, contract: Contract, *, broken: bool) -> dict[str, Any]:
    rules = ("present", "type", "nulls", "range")
    findings = [
        {
            "rule": rule,
            "column": column,
            "severity": "error",
            "verdict": "fail" if broken and rule == "range" and number == 2 else "pass",
            "counts": {"rows": 400, "nulls": 0, "failed": 3 if broken else 0},
        }
        for number, column in enumerate(contract.columns)
        for rule in rules
    ]
    reason = f"range of {tuple(contract.columns)[2]}: 3 of 400 rows" if broken else ""
    return {
        "silo": silo,
        "verdict": "failed" if broken else "passed",
        "reason": reason,
        "findings": findings,
    }


def _part(
    draw: random.Random,
    at: int,
    silo: str,
    out: str,
    rows: Mapping[str, int],
    epsilon: dict[str, float],
) -> Part:
    if silo == out:
        reason = "its data do not keep the contract"
        return Part(round=at, silo=silo, outcome="left_out", code="contract", reason=reason)
    chance = draw.random()
    away = "" if chance > 0.03 else ("late", "dropped", "refused", "rejected")[int(chance * 133)]
    seconds = draw.uniform(0.5, 4.0)
    moved = {"bytes_down": 9_000 + draw.randrange(900), "bytes_up": 12_000 + draw.randrange(900)}
    if away:
        code, reason = _REASONS[away]
        return Part(
            round=at,
            silo=silo,
            outcome=away,  # type: ignore[arg-type]
            code=code,
            reason=reason,
            invited=away != "dropped",
            checked=True,
            approved=away != "refused",
            seconds=round(seconds, 3),
            bytes_down=moved["bytes_down"],
        )
    epsilon[silo] = 3.0 * math.sqrt(at / 50)
    return Part(
        round=at,
        silo=silo,
        outcome="trained",
        invited=True,
        checked=True,
        approved=True,
        num_examples=rows[silo],
        weight=rows[silo] / sum(rows.values()),
        seconds=round(seconds, 3),
        silo_seconds=round(seconds * 0.8, 3),
        epsilon=round(epsilon[silo], 6),
        **moved,
    )


def _figures(draw: random.Random, at: int) -> dict[str, float]:
    reached = 1 - math.exp(-at / 12)
    noise = draw.gauss(0, 0.004)
    return {
        "roc_auc": round(0.5 + 0.42 * reached + noise, 6),
        "accuracy": round(0.6 + 0.3 * reached + noise, 6),
        "log_loss": round(0.69 - 0.45 * reached - noise, 6),
        "brier": round(0.25 - 0.17 * reached - noise, 6),
    }


def _points(
    draw: random.Random, at: int, trained: Mapping[str, Part]
) -> Iterator[tuple[str, float, int]]:
    for key, value in _figures(draw, at - 1).items():
        yield names.global_metric(key), value, at - 1
    yield names.global_metric(names.LOSS), _figures(draw, at)["log_loss"], at
    yield names.ROUND_SECONDS, max((p.seconds for p in trained.values()), default=0.0), at
    yield names.ROUND_SILOS, float(len(trained)), at
    for silo, part in trained.items():
        for key, value in _figures(draw, at - 1).items():
            yield names.silo_metric(silo, key), value, at - 1
        for key, own in (
            (names.LOSS, _figures(draw, at)["log_loss"]),
            (names.EPSILON, part.epsilon or 0.0),
            (names.NUM_EXAMPLES, float(part.num_examples)),
            (names.BYTES_DOWN, float(part.bytes_down)),
            (names.BYTES_UP, float(part.bytes_up)),
            (names.SECONDS, part.seconds),
            (names.SILO_SECONDS, part.silo_seconds),
        ):
            yield names.silo_metric(silo, key), own, at


def _headers(draw: random.Random, silos: Sequence[str], verb: str) -> list[dict[str, Any]]:
    """Return what is as long as the signed headers of replies to one step."""
    known = ":".join(f"{each}:0:::{_hex(draw, 128)}" for each in silos)
    return [
        {
            "silo": each,
            "status": "ok",
            "code": "",
            "reason": "",
            "seconds": 0.1,
            "wire": 3,
            "step_id": _hex(draw, 32),
            "content": _hex(draw, 64),
            "head": _hex(draw, 64),
            "manifest": _hex(draw, 64),
            "signature": _hex(draw, 128),
            "attestation": known if verb == "train" else "",
        }
        for each in silos
    ]


def _hex(draw: random.Random, digits: int) -> str:
    return f"{draw.getrandbits(4 * digits):0{digits}x}"


def write_tracked(
    made: Sequence[Made], tracking_uri: str, database: Path, prefect_api: str
) -> None:
    """Let MLflow and Prefect have the runs.

    Args:
        made: the runs.
        tracking_uri: the MLflow server.
        database: its SQLite file.
        prefect_api: the Prefect API.
    """
    experiment = _post(
        f"{tracking_uri}/api/2.0/mlflow/experiments/create",
        {"name": names.pipeline_experiment(made[0].job.name)},
    )["experiment_id"]
    flow = _post(f"{prefect_api}/flows/", {"name": "pipeline"})["id"]
    with ThreadPoolExecutor(4) as pool:
        numbered = enumerate(made, start=1)
        ids = list(pool.map(lambda each: _track(*each, tracking_uri, experiment), numbered))
        list(pool.map(lambda each: _flow_run(*each, prefect_api, flow), enumerate(made, start=1)))
    with sqlite3.connect(database, timeout=60) as connection:
        for run, mlflow_id in zip(made, ids, strict=True):
            _points_into(connection, run, mlflow_id)
    connection.close()


def _track(number: int, run: Made, uri: str, experiment: str) -> str:
    began, ended = (int(each.timestamp() * 1000) for each in (run.began, run.ended))
    tags = {
        names.TAG_RUN: run.name,
        names.TAG_STATUS: run.status,
        names.TAG_REASON: run.reason,
        names.TAG_JOB: run.job.name,
        "mlflow.runName": names.label(run.job.name, number, run.status),
    }
    made = _post(
        f"{uri}/api/2.0/mlflow/runs/create",
        {
            "experiment_id": experiment,
            "start_time": began,
            "run_name": tags["mlflow.runName"],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        },
    )
    mlflow_id = str(made["run"]["info"]["run_id"])
    ending = names.ending_of(run.status, run.reason)
    _post(
        f"{uri}/api/2.0/mlflow/runs/update",
        {"run_id": mlflow_id, "status": ending, "end_time": ended},
    )
    return mlflow_id


def _flow_run(number: int, run: Made, api: str, flow: str) -> None:
    tags = [f"job:{run.job.name}", names.run_tag(run.name), run.status]
    kind = {"failed": "FAILED"}.get(run.status, "COMPLETED")
    _post(
        f"{api}/flow_runs/",
        {
            "flow_id": flow,
            "name": names.label(run.job.name, number, run.status),
            "tags": tags,
            "state": {"type": kind, "name": kind.capitalize()},
        },
    )


def _points_into(connection: sqlite3.Connection, run: Made, mlflow_id: str) -> None:
    began = int(run.began.timestamp() * 1000)
    rows = {
        (key, value, began + step * 1000, step, 0, mlflow_id) for key, value, step in run.points
    }
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        rows,
    )
    newest: dict[str, tuple[Any, ...]] = {}
    for row in sorted(rows, key=lambda each: each[3]):
        newest[row[0]] = row
    connection.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        newest.values(),
    )


def _post(url: str, body: Mapping[str, Any]) -> Any:
    content = json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)
