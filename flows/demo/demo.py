"""``consilo demo``: a whole federation on this machine, end to end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.contracts.contract import SHIPPED
from consilo.errors import ConfigInvalid, ServiceFailed
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.machine.environment import child_environment, quieten
from consilo.machine.files import write_atomic
from consilo.machine.processes import Service, Supervisor
from consilo.yaml_text import to_yaml
from flows.demo.demo_data import Hospital, write_hospitals
from flows.registry.figures import log_baselines
from flows.services.federation import Addresses, job_bundle, rise
from flows.services.launch import launch
from flows.services.place import Say, workplace
from flows.services.watch import Watch
from silos.gate.bundles import approve


@dataclass(frozen=True)
class DemoOptions:
    """What the command line may choose.

    Args:
        directory: a fresh one; see `work_directory`.
        silos: how many, the broken one included.
        rounds: of training; None keeps the job's.
        epsilon: of differential privacy; None keeps the job's.
        private: False trains without differential privacy.
        seed: of data and job.
    """

    directory: Path
    silos: int = 4
    rounds: int | None = None
    epsilon: float | None = None
    private: bool = True
    seed: int = 0


def run_demo(
    supervisor: Supervisor, options: DemoOptions, say: Say
) -> tuple[dict[str, Any], Addresses]:
    """Run the demo and return its summary, and where its services answer while they are up.

    Raises:
        ConfigInvalid: where an option makes no sense.
        ServiceFailed: where something does not come up.
    """
    quieten()
    home = options.directory
    say(f"work directory {home}")
    job, job_file = _write_job(home, options)
    hospitals = write_hospitals(home / "silos", count=options.silos, seed=options.seed)
    from consilo.transports.flower.bundle import bundle_hash

    digest = bundle_hash(job_bundle(job, (job_file.parent,)))
    for hospital in hospitals:
        approve(hospital.directory, digest)
    say(f"{len(hospitals)} hospitals; each approves bundle {digest[:12]}")
    silos = {hospital.name: hospital.directory for hospital in hospitals}
    rising = rise(supervisor, home, silos, say=say)
    running = launch(supervisor, home, job, {"job": str(job_file)})
    comparing, figures = _compare(supervisor, home, job_file, options)
    addresses = rising.wait()
    summary = running.wait(say, Watch(home, supervisor, say).look)
    if summary.get("status") != "failed":
        summary |= _baselines(comparing, figures, say)
        if job.privacy is not None:
            summary["judged_exactly"] = _judged(job, hospitals, Path(summary["record"]).parent)
        log_baselines(summary)
    write_atomic(home / "summary.json", json.dumps(summary, indent=1).encode())
    return summary, addresses


@contextmanager
def work_directory(directory: Path | None) -> Iterator[Path]:
    """Yield a fresh work directory: the one asked for, or one in the system's temporary place.

    Raises:
        ConfigInvalid: where it is not empty.
    """
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise ConfigInvalid(
            "--dir", [f"{directory} is not empty; the demo wants a fresh directory"]
        )
    with workplace(directory, "consilo-demo-") as place:
        place.mkdir(parents=True, exist_ok=True)
        yield place


def _write_job(home: Path, options: DemoOptions) -> tuple[Job, Path]:
    job = Job.load(SHIPPED / "jobs" / "breast_cancer.yaml")
    changes: dict[str, Any] = {"seed": options.seed}
    if options.rounds is not None:
        changes["protocol"] = {"rounds": options.rounds}
    if not options.private:
        changes["privacy"] = None
    elif options.epsilon is not None:
        changes["privacy"] = {
            "epsilon": options.epsilon,
            "metrics_epsilon": options.epsilon / 4,
        }
    job = job.changed(**changes)
    path = home / "jobs" / "breast-cancer.yaml"
    write_atomic(path, to_yaml(job.to_json()).encode())
    return job, path


def _compare(
    supervisor: Supervisor, home: Path, job_file: Path, options: DemoOptions
) -> tuple[Service, Path]:
    result = home / "results" / "baselines.json"
    argv = [sys.executable, "-m", "flows.demo.baselines", "--job", str(job_file)]
    argv += ["--silos", str(options.silos), "--seed", str(options.seed), "--result", str(result)]
    log = home / "logs" / "baselines.log"
    environment = child_environment(OMP_NUM_THREADS="1")
    return supervisor.start("baselines", argv, log=log, env=environment), result


def _judged(job: Job, hospitals: list[Hospital], run: Path) -> dict[str, float]:
    """Return the model's exact figures: the demo made the rows, and may look at all of them."""
    from consilo.contracts.contract import Contract
    from flows.demo.baselines import judged_exactly

    silos = {each.name: each.directory for each in hospitals if not each.broken}
    return judged_exactly(ModelJob.of(job), Contract.load(job.contract), silos, run)


def _baselines(service: Service, result: Path, say: Say) -> Mapping[str, Any]:
    import time

    if service.returncode is None:
        say("training the same model on pooled rows and on each hospital's alone")
    while service.returncode is None:
        time.sleep(0.1)
    if not result.exists():
        raise ServiceFailed(f"the baselines failed; the end of their log:\n{service.last_lines()}")
    figures: dict[str, Any] = json.loads(result.read_text())
    return figures
