"""A round of a large model over the Flower transport: time, CPU and peak memory of every part.

Three silos on this machine, each its own processes, directory and keys, with TLS and node
authentication. First the parcels alone (every silo sends back what it got), then FedAvg of a
perceptron of the same size, one step a round. The first round of each is left out.

    model_mib                     size of the parameters
    echo_s_per_round              wall time of an exchange, nothing computed
    s_per_round                   wall time of a training round
    silo_s_per_round              of which the slowest silo's own computing
    flow_cpu_s, superlink_cpu_s, silos_cpu_s
                                  CPU of a training round
    echo_flow_cpu_s, echo_superlink_cpu_s, echo_silos_cpu_s
                                  CPU of an exchange
    peak_models                   growth of the flow's peak memory over the process before the run
    peak_models_first             the same after the first round
    superlink_peak_mib, node_peak_mib, warm_peak_mib
                                  the most that a process held
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import yaml
from report import Report, load_now, options, say, sized
from rounds import ALONE
from trees import cpu_seconds, peak_bytes, reset_peak

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, ServiceFailed
from consilo.jobs.job import Job
from consilo.machine.environment import quieten
from consilo.machine.processes import Supervisor
from consilo.machine.reaper import descendants
from consilo.membership.keys import load_or_create_signing_key
from consilo.wire.parcel import Parcel

quieten()

from consilo.runs.horizontal import Run  # noqa: E402
from consilo.transports.flower.bundle import build_bundle, bundle_hash  # noqa: E402
from consilo.transports.flower.transport import FlowerTransport  # noqa: E402
from flows.demo.demo_data import write_hospitals  # noqa: E402
from flows.services.federation import parties_of, start_node, start_silos, wait_online  # noqa: E402
from flows.services.place import settle_place  # noqa: E402
from silos.gate.bundles import approve  # noqa: E402
from silos.gate.policy import TEMPLATE  # noqa: E402
from silos.membership.enrol import enrol_here  # noqa: E402
from silos.node.warm_up import warm  # noqa: E402
from silos.node_config import PRELOAD  # noqa: E402

SILOS = 3
MIB = 1024 * 1024
_ECHO = """
def answerer(silo, bundle, elsewhere=None):
    return lambda parcel: parcel
"""


def job_of(width: int, rounds: int, silos: int) -> Job:
    """Return a job between silos whose perceptron has two hidden layers of ``width``."""
    return Job.from_json(
        {
            "name": "large",
            "contract": "breast_cancer@1",
            "model": {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [width, width]}},
            "outputs": 2,
            "protocol": {"name": "fedavg", "rounds": rounds},
            "local": {"batch_size": 5, "steps": 1, "optimizer": "sgd", "lr": 0.001},
            "quorum": {"min_silos": silos, "deadline": 600.0},
        }
    )


def peaks(roots: Sequence[int]) -> dict[int, int]:
    """Return the most that each process below ``roots`` has held, in bytes."""
    found = {}
    for pid in {each for root in roots for each in (root, *descendants(root))}:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        line = next((each for each in status.splitlines() if each.startswith("VmHWM")), "x 0")
        found[pid] = int(line.split()[1]) * 1024
    return found


def measure(folder: Path, silos: int, width: int, rounds: int) -> dict[str, float]:
    """Return the figures; everything that is started is stopped again."""
    hospitals = write_hospitals(folder, count=SILOS + 1, seed=0)[:silos]
    directories = {each.name: each.directory for each in hospitals}
    contract = Contract.load("breast_cancer@1")
    job, bundle = job_of(width, rounds + 1, silos), build_bundle()
    figures: dict[str, float] = {}
    (folder / "library").mkdir()
    (folder / "library" / "echo_answerer.py").write_text(_ECHO)
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
    from isolated import interpreter  # nodes take code from no variable

    sys.executable = interpreter(folder / "python", folder / "library")
    with Supervisor() as supervisor:
        for directory in directories.values():
            policy = ALONE if silos == 1 else TEMPLATE
            policy = policy.replace("memory_mib: 4096", "memory_mib: 8192")
            (directory / "policy.yaml").write_text(policy)
            approve(directory, bundle_hash(bundle))
        place = settle_place(folder)
        for name, directory in directories.items():
            enrol_here(folder, directory, address=place.address, name=name)
        address, said_certificate = start_silos(supervisor, folder, {}, say, place)
        certificate = Path(said_certificate)
        (link,) = supervisor.services

        def start(*options: str, preload: list[str]) -> None:
            for name, directory in directories.items():
                path = directory / "node.yaml"
                said = {**yaml.safe_load(path.read_text()), "preload": preload}
                path.write_text(yaml.safe_dump(said))
                start_node(supervisor, name, directory, *options)
            wait_online(address, certificate, directories, supervisor.services)

        def cpu() -> dict[str, float]:
            found = {"flow": time.process_time()}
            for each in supervisor.services:
                name = "superlink" if each.name == link.name else "silos"
                found[name] = found.get(name, 0.0) + cpu_seconds([each.pid])
            return found

        start("--answerer", "echo_answerer:answerer", preload=[])
        body = os.urandom(4 * width * width)
        figures["model_mib"] = len(body) / MIB
        with FlowerTransport.open(
            address, certificate, bundle, home=folder / "superlink"
        ) as transport:
            seconds = []
            for number in range(rounds + 1):
                if number == 1:
                    before = cpu()
                began = time.perf_counter()
                sent = {name: Parcel(f"{name} {number}".encode(), body) for name in directories}
                for arrival in transport.exchange(sent, deadline_s=600.0):
                    if arrival.parcel != sent[arrival.silo]:
                        raise ServiceFailed(f"{arrival.silo}: {arrival.fault}")
                    del arrival
                seconds.append(time.perf_counter() - began)
            after = cpu()
        figures["echo_s_per_round"] = median(seconds[1:])
        for name in after:
            figures[f"echo_{name}_cpu_s"] = (after[name] - before[name]) / rounds
        for service in [each for each in supervisor.services if each.name != link.name]:
            service.stop()
        say(f"echo: {figures['echo_s_per_round']:.2f} s a round")

        start(preload=list(PRELOAD))
        warm()
        del body, sent
        gc.collect()
        base = reset_peak()
        with FlowerTransport.open(
            address, certificate, bundle, home=folder / "superlink"
        ) as transport:
            run = Run(
                job,
                contract,
                transport,
                silos=tuple(directories),
                directory=folder / "run",
                run_id="large",
                key=load_or_create_signing_key(folder / "keys" / "record.key"),
                parties=parties_of(directories),
                bundle=bundle_hash(bundle),
            )
            for name in directories:
                run.check(name)
            run.admit()
            run.standardize()
            seconds, own = [], []
            for number in range(rounds + 1):
                if number == 1:
                    before = cpu()
                    figures["peak_models_first"] = (peak_bytes() - base) / (4 * width * width)
                began = time.perf_counter()
                report = run.train_round()
                seconds.append(time.perf_counter() - began)
                own.append(max(each["seconds"] for each in report["silos"].values()))
                say(f"round {number}: {seconds[-1]:.2f} s, slowest silo {own[-1]:.2f} s")
            after = cpu()
            run.close()
        figures["s_per_round"] = median(seconds[1:])
        figures["silo_s_per_round"] = median(own[1:])
        for name in after:
            figures[f"{name}_cpu_s"] = (after[name] - before[name]) / rounds
        figures["peak_models"] = (peak_bytes() - base) / (4 * width * width)
        held = peaks([link.pid])
        figures["superlink_peak_mib"] = max(held.values()) / MIB
        nodes = peaks([each.pid for each in supervisor.services if each.name != link.name])
        for pid, most in nodes.items():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            for kind in ("silos.node", "silos.node.warm"):
                if kind.encode() in command and b"consilo.machine.reaper" not in command:
                    key = f"{kind.rpartition('.')[2]}_peak_mib"
                    figures[key] = max(figures.get(key, 0.0), most / MIB)
    return figures


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--width", type=int, help="of the hidden layers; 11450 makes 500 MB")
    parser.add_argument("--rounds", type=int, help="that are measured")
    chosen = parser.parse_args()
    load = load_now()
    silos, width, rounds = sized(
        chosen, full=(SILOS, 5000, 3), quick=(SILOS, 1600, 1), smoke=(1, 32, 1)
    )
    try:
        with tempfile.TemporaryDirectory(prefix="consilo-large-") as folder:
            figures = measure(Path(folder), silos, chosen.width or width, chosen.rounds or rounds)
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    Report("large", chosen.size, load, figures).show(as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
