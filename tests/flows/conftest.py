"""A Prefect server for the module, and federations of silos in memory over the local transport."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport, Counts, Finding
from consilo.errors import CoordinatorUnreachable
from consilo.machine.environment import quieten
from consilo.machine.processes import Supervisor
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Answer, Arrival, Parcel
from flows.services.connection import Connect
from flows.services.order import Connection, Order
from flows.services.services import prepare_prefect, start_mlflow, start_prefect
from silos.simulation.in_memory import InMemorySilo

quieten()

# Silos train in this process here, and torch bears no training while a thread imports this.
importlib.import_module("torch.export")

IGNORED = (
    # MLflow 3.17 prepares an input example with what pandas 4 will read otherwise.
    "ignore:Operation with range is deprecated:pandas.errors.Pandas4Warning",
)
"""Warnings that third parties raise in their own code; everything else is an error."""

HERE = Path(__file__).parent
KEY = Ed25519PrivateKey.generate()
"""Signs every run of these federations, so that one may be gone on with."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            for each in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(each))


SENTINEL = 5550123.25
"""A value that some rows hold; it must turn up nowhere outside its silo."""

CONTRACT = """
name: toy
version: 1
columns:
  record: {type: string, role: id}
  weight: {type: float, unit: kg, range: {min: 0, max: 10000000}}
  visits: {type: integer, range: {min: 0, max: 100}, nullable_share: 0.2}
  smoker: {type: boolean}
  stage: {type: category, allowed: [early, late]}
  ill: {type: category, allowed: ['no', 'yes'], role: target}
"""

JOB = """
name: toy-model
contract: contract.yaml
task: binary
model: {name: "consilo.learners.tabular:MLP", args: {hidden: [4]}}
features: {missing: indicator}
protocol: {name: fedavg, rounds: 2}
local: {batch_size: 8, steps: 4, lr: 0.1}
privacy: {epsilon: 8.0, delta: 1.0e-3, reproducible: true}
quorum: {min_silos: 2, deadline: 30}
seed: 7
"""


def toy_rows(seed: int, num_rows: int = 40) -> pd.DataFrame:
    """Return canonical rows of the toy contract; a few hold the sentinel."""
    rng = np.random.default_rng(seed)
    ill = rng.integers(0, 2, num_rows)
    weight = rng.normal(70 + 10 * ill, 8)
    weight[:2] = SENTINEL
    visits = pd.array(rng.integers(0, 9, num_rows), dtype="Int64")
    visits[3] = pd.NA
    return pd.DataFrame(
        {
            "record": [f"patient-{SENTINEL}-{each}" for each in range(num_rows)],
            "weight": weight,
            "visits": visits,
            "smoker": pd.array(rng.integers(0, 2, num_rows).astype(bool), dtype="boolean"),
            "stage": pd.Categorical.from_codes(rng.integers(0, 2, num_rows), ["early", "late"]),
            "ill": pd.Categorical.from_codes(ill, ["no", "yes"]),
        }
    )


def toy_report(*, broken: bool = False) -> CheckReport:
    """Return what a silo's contract check says."""
    contract = Contract.parse(yaml.safe_load(CONTRACT), where="contract.yaml")
    finding = Finding(
        rule="range",
        column="weight",
        verdict="fail" if broken else "pass",
        severity="error",
        counts=Counts(rows=40, failed=5 if broken else 0, nulls=0),
    )
    return CheckReport(
        contract=contract.ref,
        contract_digest=contract.digest,
        verdict="failed" if broken else "passed",
        findings=(finding,),
    )


class Outages(LocalTransport):
    """A transport that fails the first ``count`` times that training is asked for.

    Silos that are ``absent`` when somebody looks are not there.
    """

    def __init__(
        self, answers: Mapping[str, Answer], count: int, absent: Callable[[], tuple[str, ...]]
    ) -> None:
        super().__init__(answers)
        self.count = count
        self.absent = absent

    def online(self) -> tuple[str, ...]:
        return tuple(name for name in super().online() if name not in self.absent())

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        for parcel in parcels.values():
            if self.count and b'"verb":"train"' in parcel.header:
                self.count -= 1
                raise CoordinatorUnreachable("the SuperLink is away")
        return super().exchange(parcels, deadline_s=deadline_s)


@dataclass
class Federation:
    """Silos in memory, a job file and an MLflow store: what one test's flows connect to."""

    home: Path
    job: Path
    tracking_uri: str
    silos: dict[str, InMemorySilo]
    finished: list[tuple[bool, str]] = field(default_factory=list)
    answer_s: float = 0.0
    absent: tuple[str, ...] = ()
    outages: int = 0
    key: Ed25519PrivateKey = KEY

    def break_contract(self, silo: str) -> None:
        """Let a silo's rows keep its contract no longer."""
        self.silos[silo].report = toy_report(broken=True)

    def connect(self) -> Connect:
        @contextmanager
        def opened(order: Order) -> Iterator[Connection]:
            transport = Outages(self._answers(), self.outages, lambda: self.absent)
            yield Connection(
                transport=transport,
                silos=tuple(sorted(self.silos)),
                bundle="b" * 64,
                signing_key=self.key,
                tracking_uri=self.tracking_uri,
                home=self.home,
                finish=lambda ok, detail: self.finished.append((ok, detail)),
            )
            transport.close()

        return opened

    def _answers(self) -> Mapping[str, Answer]:
        return {name: self._slow(answerer(silo)) for name, silo in self.silos.items()}

    def _slow(self, answer: Answer) -> Answer:
        def slow(parcel: Parcel) -> Parcel:
            time.sleep(self.answer_s)
            return answer(parcel)

        return slow


@dataclass(frozen=True)
class Services:
    """Where the servers of this test session answer."""

    prefect_api: str
    tracking_uri: str
    home: Path
    supervisor: Supervisor


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """One Prefect server and one MLflow server, as the coordinator starts them."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    home = tmp_path_factory.mktemp("services")
    with Supervisor() as supervisor:
        prefect, mlflow = start_prefect(supervisor, home), start_mlflow(supervisor, home)
        api, uri = prefect.wait(), mlflow.wait()
        with temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: home / "prefect"}):
            prepare_prefect(api)
            yield Services(api, uri, home, supervisor)
            # What still waits to be sent would be retried for a minute once the server is gone.
            APILogWorker.drain_all(timeout=10)
            EventsWorker.drain_all(timeout=10)


Make = Callable[[str], Federation]


@pytest.fixture(scope="session")
def make_federation(tmp_path_factory: pytest.TempPathFactory, services: Services) -> Make:
    """Return what makes three silos that keep the contract; the job is called after ``name``."""

    def make(name: str) -> Federation:
        folder = tmp_path_factory.mktemp(name)
        (folder / "contract.yaml").write_text(CONTRACT)
        (folder / "job.yaml").write_text(JOB.replace("toy-model", f"{name}-model"))
        return Federation(
            home=folder / "home",
            job=folder / "job.yaml",
            tracking_uri=services.tracking_uri,
            silos={
                name: InMemorySilo(name, toy_rows(seed), report=toy_report())
                for seed, name in enumerate(("anna", "berta", "clara"))
            },
        )

    return make


@pytest.fixture
def federation(make_federation: Make) -> Federation:
    """Three silos that keep the contract."""
    return make_federation("toy")


@pytest.fixture(scope="session")
def sentinel() -> float:
    """A value that some rows hold."""
    return SENTINEL
