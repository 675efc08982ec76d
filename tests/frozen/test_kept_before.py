"""What a former release has left on disk opens with today's code, and is of use to it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joint
import pandas as pd
import pytest
import yaml
from agreed import agree
from typer.testing import CliRunner

from consilo.cli import build
from consilo.config import parse
from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.kernel.loop import Party
from consilo.membership.coordinator import Coordinator
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import verify
from consilo.runs.horizontal import Run, run_all
from consilo.runs.vertical import VerticalRun, run_vertical
from consilo.transports.local import LocalTransport
from silos.gate.partners import pinned
from silos.gate.policy import Policy
from silos.kept.ledger import Ledger
from silos.kept.matches import read_match
from silos.kept.model_parts import read_part
from silos.silo import Silo

KEPT = sorted(Path(__file__).parent.glob("kept-*.zip"))
EVERYBODY = ("bank", "shop", "telecom")

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module", params=KEPT, ids=lambda file: file.stem)
def unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("kept")
    with zipfile.ZipFile(request.param) as packed:
        packed.extractall(place)
    for each in place.rglob("*"):
        each.chmod(0o700 if each.is_dir() else 0o600)
    return place


@pytest.fixture
def kept(unpacked: Path, tmp_path: Path) -> Path:
    """A copy of one test's own."""
    return shutil.copytree(unpacked, tmp_path / "kept")


def settings(kept: Path, run_id: str, names: tuple[str, ...]) -> dict[str, Any]:
    """A run over silos that hold the key of their coordinator and those of their partners.

    Their people have confirmed the contracts since, which releases of then did not ask for.
    """
    for name in names:
        for ref in ("risk@1",) if name == "lender" else ("joint@1", "people@1"):
            agree(kept / "silos" / name, Contract.load(ref, search=[kept / "silos"]))
    hosts = {
        name: Silo.open(kept / "silos" / name, search_path=(kept / "silos",)) for name in names
    }
    with Coordinator(kept / "coordinator") as coordinator:
        key = coordinator.signing_key
    return {
        "transport": LocalTransport({name: answerer(host) for name, host in hosts.items()}),
        "silos": names,
        "directory": kept / "coordinator" / "runs" / run_id,
        "run_id": run_id,
        "key": key,
        "parties": {name: Party(host.signing_key) for name, host in hosts.items()},
        "search_path": [kept / "silos"],
    }


def told(*words: str) -> str:
    ended = CliRunner().invoke(build(), list(words))
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@pytest.fixture
def contract(kept: Path) -> Iterator[Contract]:
    return Contract.load("risk@1", search=[kept / "silos"])


def test_a_release_is_kept() -> None:
    assert KEPT


def test_a_silo_opens_and_its_rows_keep_their_contract(kept: Path, contract: Contract) -> None:
    silo = Silo.open(kept / "silos" / "lender", search_path=(kept / "silos",))
    assert silo.rows.check(contract, purpose="unstated").verdict == "passed"
    assert len(silo.rows.frame(contract, purpose="unstated")) > 50
    assert set(pinned(kept / "silos" / "lender")) == set(EVERYBODY)


def test_the_policys_template_of_then_is_a_policy(kept: Path) -> None:
    written = yaml.safe_load((kept / "policy.template.yaml").read_text())
    policy = parse(Policy, written, where="policy.template.yaml")
    assert set(policy.disclosures) == {"metric", "statistic", "update"}


def test_ledger_and_audit_log_are_whole_and_tell_what_the_record_tells(kept: Path) -> None:
    lender, runs = kept / "silos" / "lender", kept / "coordinator" / "runs"
    assert len(Ledger(lender / "ledger.db").entries()) >= 2
    assert "epsilon" in told("silo", "ledger", "--json", "--dir", str(lender))
    record = str(runs / "risk-1" / "record.jsonl")
    said = told("silo", "audit", "verify", "--json", "--record", record, "--dir", str(lender))
    assert json.loads(said)["findings"] == []


def test_records_are_whole(kept: Path) -> None:
    runs = kept / "coordinator" / "runs"
    with Coordinator(kept / "coordinator") as coordinator:
        public = coordinator.signing_key.public_key().public_bytes_raw()
    for name in ("risk-1", "first"):
        assert verify(runs / name / "record.jsonl", public)["status"] == "complete"
        told("run", "verify", str(runs / name))


def test_the_list_of_members_is_read(kept: Path) -> None:
    with Coordinator(kept / "coordinator") as coordinator:
        assert set(coordinator.members.admitted()) == {*EVERYBODY, "lender"}


def test_match_and_parts_are_used_to_score(kept: Path) -> None:
    for name in EVERYBODY:
        assert len(read_match(kept / "silos" / name, "customers").rows) > 20
        assert read_part(kept / "silos" / name, "first")
    job = joint.job_of(
        name="joint-scores",
        kind="scoring",
        protocol={"name": "vertical_score", "rounds": 1},
        args={"model": "first", "match": "customers"},
        match=None,
    )
    both = Contract.load("joint@1", search=[kept / "silos"])
    result = run_vertical(VerticalRun(job, both, **settings(kept, "again", EVERYBODY)))
    assert result.status == "complete", result.reason
    scores = pd.read_csv(kept / "silos" / "bank" / "scores" / "again.csv")
    assert scores["probability"].between(0, 1).all()


def test_a_silo_that_has_paid_before_pays_on(kept: Path, contract: Contract) -> None:
    ledger = Ledger(kept / "silos" / "lender" / "ledger.db")
    before = len(ledger.entries())
    then = Job.from_json(opened(kept / "coordinator" / "runs" / "risk-1")["job"])
    # With a budget no exact moments leave any more.
    job = then.changed(features={"standardize": "contract"})
    result = run_all(Run(job, contract, **settings(kept, "risk-3", ("lender",))))
    assert result.status == "complete", result.reason
    assert len(ledger.entries()) > before


def test_a_run_that_died_goes_on_from_its_checkpoint(kept: Path, contract: Contract) -> None:
    job = Job.from_json(opened(kept / "coordinator" / "runs" / "risk-2")["job"])
    run = Run(job, contract, resume=True, **settings(kept, "risk-2", ("lender",)))
    result = run_all(run)
    assert result.status == "complete", result.reason
    assert verify(Path(result.record))["status"] == "complete"


def test_a_registered_model_answers_as_it_did(kept: Path) -> None:
    from flows.registry import registry

    model = registry.pyfunc().load_model(str(kept / "models" / "risk" / "saved"))
    said = model.predict(pd.read_csv(kept / "models" / "risk" / "rows.csv"))
    expected = pd.read_csv(kept / "models" / "risk" / "said.csv")
    assert list(said.columns) == list(expected.columns)
    assert said.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-6)


def test_the_entry_of_a_vertical_model_says_where_its_parts_lie(kept: Path) -> None:
    from mlflow.exceptions import MlflowException

    from flows.registry import registry

    model = registry.pyfunc().load_model(str(kept / "models" / "joint" / "saved"))
    rows = pd.DataFrame({name: [0.0] for name in joint.NAMES})
    with pytest.raises(MlflowException, match="bank, shop, telecom"):
        model.predict(rows)


def opened(run: Path) -> dict[str, Any]:
    """The first line of a run's record."""
    with (run / "record.jsonl").open() as lines:
        body: dict[str, Any] = json.loads(next(lines))["body"]
        return body
