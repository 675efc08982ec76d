"""What a round costs beside the silos' own computing: Consilo against stock Flower, in one run.

Three silos on this machine, each its own processes, directory and keys, with TLS and node
authentication, train a perceptron of 2,114 parameters. Consilo: SuperLink, three nodes, a run over
the Flower transport. Stock: Flower's SuperLink and SuperNodes as they come (subprocess isolation),
``flwr run``, Flower's FedAvg. The first round of each is left out. ``--ours-only`` leaves stock
Flower out, which takes most of the time.

    s_per_round, stock_s_per_round      median of the round's wall time
    overhead_s_per_round, stock_overhead_s_per_round
                                        the same, less the slowest silo's own computing
    cpu_s_per_round, stock_cpu_s_per_round
                                        CPU-seconds of all processes of the federation, ended
                                        children included
    overhead_vs_stock_flower, cpu_vs_stock_flower
                                        stock Flower's over ours
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from report import Report, columns, load_now, options, say, sized
from trees import cpu_seconds

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, ServiceFailed
from consilo.horizontal.features import Encoding, Scale
from consilo.jobs.job import Job
from consilo.machine.environment import child_environment, quieten
from consilo.machine.processes import Service, Supervisor, free_port, listens
from consilo.membership.keys import (
    Authority,
    load_or_create_authority,
    load_or_create_signing_key,
    load_or_create_silo_key,
)

quieten()

from consilo.runs.horizontal import Run  # noqa: E402
from consilo.transports.flower.bundle import build_bundle, bundle_hash  # noqa: E402
from consilo.transports.flower.superlink import Registry  # noqa: E402
from consilo.transports.flower.transport import FlowerTransport  # noqa: E402
from flows.demo.demo_data import Hospital, write_hospitals  # noqa: E402
from flows.services.federation import parties_of, start_silos, wait_online  # noqa: E402
from silos.gate.bundles import approve  # noqa: E402
from silos.gate.policy import TEMPLATE  # noqa: E402

SILOS = 3
ALONE = TEMPLATE.replace("min_cohort: 2", "min_cohort: 1")
"""The policy of a silo that trains with nobody else, as in a smoke run."""
STEPS, BATCH, LR, MOMENTUM = 8, 32, 0.05, 0.5
_STOCK_APP = Path(__file__).parent / "stock_flower"
_ONLINE_S, _ROUND_S = 180.0, 300.0


@dataclass(frozen=True)
class Cost:
    """What the rounds after the first cost.

    Args:
        wall_s: of each round.
        overhead_s: the same, less the slowest silo's own computing.
        computing_s: of each round, all silos' own computing together.
        cpu_s: CPU-seconds of all processes, over all these rounds.
    """

    wall_s: Sequence[float]
    overhead_s: Sequence[float]
    cpu_s: float
    computing_s: Sequence[float] = ()

    def figures(self) -> dict[str, float]:
        """Return the figures per round."""
        return {
            "s_per_round": median(self.wall_s),
            "overhead_s_per_round": median(self.overhead_s),
            "cpu_s_per_round": self.cpu_s / len(self.wall_s),
        }


def job_of(rounds: int, silos: int) -> Job:
    """Return the job that is measured, between so many silos."""
    return Job.from_json(
        {
            "name": "rounds",
            "contract": "breast_cancer@1",
            "model": "consilo.learners.tabular:MLP",
            "outputs": 2,
            "protocol": {"name": "fedavg", "rounds": rounds},
            "local": {
                "batch_size": BATCH,
                "steps": STEPS,
                "optimizer": "sgd",
                "lr": LR,
                "momentum": MOMENTUM,
            },
            "quorum": {"min_silos": silos, "deadline": _ROUND_S},
        }
    )


def ours(folder: Path, hospitals: Sequence[Hospital], rounds: int) -> Cost:
    """Return the cost of ``rounds`` rounds after the first, with Consilo."""
    bundle = build_bundle()
    job, contract = job_of(rounds + 1, len(hospitals)), Contract.load("breast_cancer@1")
    directories = {each.name: each.directory for each in hospitals}
    for directory in directories.values():
        approve(directory, bundle_hash(bundle))
        if len(directories) == 1:
            (directory / "policy.yaml").write_text(ALONE)
    with Supervisor() as supervisor:
        address, certificate = start_silos(supervisor, folder, directories, say)
        wait_online(address, Path(certificate), directories, supervisor.services)
        say("consilo: federation is up")
        with FlowerTransport.open(
            address, Path(certificate), bundle, home=folder / "superlink"
        ) as transport:
            run = Run(
                job,
                contract,
                transport,
                silos=tuple(directories),
                directory=folder / "run",
                run_id="rounds",
                key=load_or_create_signing_key(folder / "keys" / "record.key"),
                parties=parties_of(directories),
                bundle=bundle_hash(bundle),
            )
            for name in directories:
                run.check(name)
            run.admit()
            run.standardize()
            cost = _our_rounds(run, rounds, [each.pid for each in supervisor.services])
            run.close()
    return cost


def _our_rounds(run: Run, rounds: int, roots: Sequence[int]) -> Cost:
    run.train_round()
    wall_s, overhead_s, computing_s = [], [], []
    cpu_before = cpu_seconds(roots) + time.process_time()
    for _ in range(rounds):
        started = time.perf_counter()
        report = run.train_round()
        wall_s.append(time.perf_counter() - started)
        if len(report["silos"]) < len(run.silos):
            raise ServiceFailed(f"round {report['round']}: only {len(report['silos'])} answered")
        seconds = [each["seconds"] for each in report["silos"].values()]
        overhead_s.append(wall_s[-1] - max(seconds))
        computing_s.append(sum(seconds))
    cpu_s = cpu_seconds(roots) + time.process_time() - cpu_before
    cost = Cost(wall_s, overhead_s, cpu_s, computing_s)
    say(f"consilo: {rounds} rounds, median {median(wall_s):.3f} s")
    return cost


def stock(folder: Path, hospitals: Sequence[Hospital], rounds: int) -> Cost:
    """Return the cost of ``rounds`` rounds after the first, with Flower alone."""
    with Supervisor() as supervisor:
        authority = load_or_create_authority(folder / "keys")
        address = _start_stock_superlink(supervisor, folder, authority)
        names = {}
        with Registry(address, authority.ca_certificate) as registry:
            for hospital in hospitals:
                silo = folder / hospital.name
                silo.mkdir()
                write_arrays(hospital, silo / "rows.npz")
                registry.register(hospital.name, load_or_create_silo_key(silo / "silo.key"))
                names[hospital.name] = silo
                _start_stock_node(supervisor, hospital.name, silo, address, authority)
        wait_online(address, authority.ca_certificate, names, supervisor.services)
        say("stock: federation is up")
        marks = folder / "marks.jsonl"
        marks.touch()
        _submit(folder, address, authority, marks, rounds + 1, len(hospitals))
        return _stock_rounds(marks, rounds, supervisor.services)


def _start_stock_superlink(supervisor: Supervisor, folder: Path, authority: Authority) -> str:
    port = free_port()
    command = [
        *("flower-superlink", "--enable-supernode-auth", "--port", str(port)),
        *("--ssl-ca-certfile", str(authority.ca_certificate)),
        *("--ssl-certfile", str(authority.server_certificate)),
        *("--ssl-keyfile", str(authority.server_key)),
        *("--database", str(folder / "superlink.db")),
    ]
    supervisor.start(
        "stock superlink",
        command,
        log=folder / "superlink.log",
        env=child_environment(home=folder / "flwr"),
        healthy=lambda: listens(port),
        timeout_s=_ONLINE_S,
        port=port,
    )
    return f"127.0.0.1:{port}"


def _start_stock_node(
    supervisor: Supervisor, name: str, silo: Path, address: str, authority: Authority
) -> None:
    data = silo / "rows.npz"
    command = [
        *("flower-supernode", "--superlink", address),
        *("--root-certificates", str(authority.ca_certificate)),
        *("--auth-supernode-private-key", str(silo / "silo.key")),
        *("--port", str(free_port()), "--node-config", f'data="{data}"'),
    ]
    supervisor.start(
        f"silo {name}", command, log=silo / "node.log", env=child_environment(home=silo / "flwr")
    )


def copy_app(folder: Path) -> None:
    """Copy the app that stock Flower runs."""
    shutil.copytree(_STOCK_APP, folder, ignore=shutil.ignore_patterns("__pycache__"))


def _submit(
    folder: Path, address: str, authority: Authority, marks: Path, rounds: int, silos: int
) -> None:
    app, home = folder / "app", folder / "user"
    copy_app(app)
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\naddress = "{address}"\n'
        f'root-certificates = "{authority.ca_certificate}"\n'
    )
    settings = (
        f"rounds={rounds} silos={silos} steps={STEPS} batch-size={BATCH} lr={LR} "
        f'momentum={MOMENTUM} marks="{marks}"'
    )
    done = subprocess.run(
        ["flwr", "run", str(app), "stock", "--run-config", settings, "--format", "json"],
        env=child_environment(home=home),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0 or not json.loads(done.stdout).get("success", False):
        raise ServiceFailed(f"flwr run refused the app: {done.stdout}{done.stderr}")


def _stock_rounds(marks: Path, rounds: int, services: Sequence[Service]) -> Cost:
    """Follow the marks that the server app leaves at the end of each round."""
    roots = [each.pid for each in services]
    at: list[float] = []
    cpu_s: list[float] = []
    slowest_s: list[float] = []
    deadline = time.monotonic() + _ROUND_S
    while len(at) < rounds + 2:  # one mark before the first round
        lines = marks.read_text().splitlines()
        if len(lines) > len(at):
            at.append(time.perf_counter())
            cpu_s.append(cpu_seconds(roots))
            slowest_s.append(json.loads(lines[len(at) - 1])["slowest_s"])
            say(f"stock: {len(at) - 1} of {rounds + 1} rounds")
            deadline = time.monotonic() + _ROUND_S
        elif time.monotonic() > deadline:
            raise ServiceFailed(f"stock Flower: no round in {_ROUND_S:.0f} s; log: {marks.parent}")
        time.sleep(0.05)
    wall_s = list(np.diff(at)[1:])
    overhead_s = [wall - own for wall, own in zip(wall_s, slowest_s[2:], strict=True)]
    return Cost(wall_s, overhead_s, cpu_s[-1] - cpu_s[1])


def write_arrays(hospital: Hospital, path: Path) -> None:
    """Write what a stock client trains on, as ``features`` and ``labels``."""
    np.savez(path, **arrays_of(hospital))


def arrays_of(hospital: Hospital) -> dict[str, np.ndarray[Any, Any]]:
    """Return a silo's rows as a stock client has them."""
    contract, job = Contract.load("breast_cancer@1"), job_of(1, SILOS)
    encoding = Encoding.plan(contract, job)
    raw = encoding.raw_numeric(hospital.rows)
    features = encoding.features(hospital.rows, Scale.of_moments(raw.mean(0), raw.var(0)))
    return {"features": features, "labels": encoding.target(hospital.rows)}


def measure(folder: Path, chosen: argparse.Namespace, load: float) -> Report:
    """Return the report; everything that is started is stopped again."""
    silos, our_rounds, stock_rounds = sized(
        chosen, full=(SILOS, 10, 3), quick=(SILOS, 3, 1), smoke=(1, 1, 1)
    )
    hospitals = write_hospitals(folder / "silos", count=SILOS + 1, seed=0)
    good = [each for each in hospitals if not each.broken][:silos]
    (folder / "ours").mkdir()
    (folder / "stock").mkdir()
    mine = ours(folder / "ours", good, our_rounds).figures()
    if chosen.ours_only:
        why = "--ours-only"
        left_out = {f"stock_{name}": why for name in mine} | dict.fromkeys(_RATIOS, why)
        return Report("rounds", chosen.size, load, mine, {}, left_out)
    theirs = stock(folder / "stock", good, stock_rounds).figures()
    ratios = {name: theirs[figure] / mine[figure] for name, figure in _RATIOS.items()}
    figures = {**mine, **{f"stock_{name}": value for name, value in theirs.items()}}
    return Report("rounds", chosen.size, load, figures, ratios)


_RATIOS = {
    "overhead_vs_stock_flower": "overhead_s_per_round",
    "cpu_vs_stock_flower": "cpu_s_per_round",
}


def table_of(report: Report) -> str:
    """Return the report as a table."""
    rows = [("per round", "consilo", "stock Flower", "ratio")]
    for label, name in (
        ("wall, s", "s_per_round"),
        ("wall less the slowest silo, s", "overhead_s_per_round"),
        ("CPU of all processes, s", "cpu_s_per_round"),
    ):
        mine, theirs = report.figures[name], report.figures.get(f"stock_{name}")
        compared = ("", "") if theirs is None else (f"{theirs:.2f}", f"{theirs / mine:.1f}")
        rows.append((label, f"{mine:.3f}", *compared))
    return columns(rows)


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--ours-only", action="store_true", help="leave stock Flower out")
    chosen = parser.parse_args()
    load = load_now()
    try:
        with tempfile.TemporaryDirectory(prefix="consilo-rounds-") as folder:
            report = measure(Path(folder), chosen, load)
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    report.show(as_json=chosen.json, table=table_of(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
