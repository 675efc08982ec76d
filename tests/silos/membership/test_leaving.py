from __future__ import annotations

import json
from pathlib import Path

import clinic
import pytest
from three_silos import KEY, run_of, silos_in

from consilo.errors import ConsiloError, RecordTampered
from consilo.kernel.loop import Party
from consilo.protocols.dispatch import answerer
from consilo.record import chain
from consilo.record.traces import traces_of
from consilo.runs.horizontal import Run, run_all
from consilo.transports.local import LocalTransport
from silos.membership.leaving import alone, leave, verify_departure
from silos.silo import Silo


@pytest.fixture
def left(tmp_path: Path) -> tuple[Path, Path]:
    """A silo that took part in a run and has left; its directory and its certificate."""
    silos = silos_in(tmp_path)
    assert run_all(run_of(tmp_path / "run", silos)).status == "complete"
    directory = silos["north"].directory
    silos["north"].secrets.secret("run")  # what keys the noise of a private run
    statement = {"statement": {"name": "north", "state": "removed"}, "signature": "00"}
    return directory, leave(directory, lambda: statement)


def test_copies_and_keys_are_gone_and_the_organisations_own_stays(left) -> None:
    directory, certificate = left
    here = {path.name for path in directory.iterdir()}
    assert here == {
        "rows.csv",
        "silo.yaml",
        "policy.yaml",
        "mappings",
        "coordinator.yaml",
        "audit.jsonl",
        "ledger.db",
        "signing.key.pub",
        ".node.lock",
        certificate.name,
    } - ({"ledger.db"} - here)
    assert certificate.stat().st_mode & 0o777 == 0o600


def test_the_certificate_lists_what_was_deleted_and_is_signed(left) -> None:
    directory, certificate = left
    said = verify_departure(certificate)
    deleted = {each["file"].split("/")[0] for each in said["deleted"]}
    assert {"cache", "state.db", "secrets"} <= deleted
    assert all(each["bytes"] >= 0 for each in said["deleted"])
    assert not any("sha256" in e for e in said["deleted"] if e["file"].startswith("secrets/"))
    assert "signing.key" in said["keys_deleted"]
    assert said["coordinator"]["statement"]["state"] == "removed"
    assert chain.verify(directory / "audit.jsonl")[-1]["hash"] == said["audit_head"]
    changed = json.loads(certificate.read_text())
    changed["deleted"] = []
    certificate.write_text(json.dumps(changed))
    with pytest.raises(RecordTampered, match="not a certificate"):
        verify_departure(certificate)
    certificate.write_text("[]")
    with pytest.raises(RecordTampered):
        verify_departure(certificate)


def test_a_silo_that_left_starts_anew_with_other_keys(left) -> None:
    directory, certificate = left
    old = json.loads(certificate.read_text())["signing_key"]
    assert Silo.open(directory).signing_key != old


def test_a_running_node_is_not_taken_apart(tmp_path: Path) -> None:
    silos = silos_in(tmp_path)
    directory = silos["north"].directory
    before = {path.name for path in directory.iterdir()}
    told: list[str] = []
    with alone(directory), pytest.raises(ConsiloError, match="stop it first"):
        leave(directory, lambda: {"told": told.append("struck off")})
    assert told == []  # the coordinator does not hear of it either
    assert before <= {path.name for path in directory.iterdir()}


def test_the_records_know_which_models_contain_a_silo(tmp_path: Path) -> None:
    silos = silos_in(tmp_path)
    run = run_of(tmp_path / "runs" / "one", silos)
    for name in run.silos:
        run.check(name)
    run.admit()
    run.standardize()
    while run.rounds_left:
        run.train_round()
    run.evaluate()
    run.close(model={"name": "clinic", "version": "7"})
    without = run_of(tmp_path / "runs" / "two", {n: s for n, s in silos.items() if n != "north"})
    run_all(without)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "record.jsonl").write_text("{}\n")
    found = traces_of("north", tmp_path / "runs")
    assert found.to_json() == {
        "models": [
            {
                "name": "clinic",
                "version": "7",
                "run_id": "one",
                "rounds": 2,
                "num_examples": found.models[0].num_examples,
            }
        ],
        "unreadable_runs": ["broken"],
    }
    assert found.models[0].num_examples > 20
    assert traces_of("nobody", tmp_path / "runs").models == ()


def test_a_job_can_leave_a_silo_out(tmp_path: Path) -> None:
    silos = silos_in(tmp_path)
    for each in silos.values():
        each.gate.policy = each.policy.model_copy(update={"min_cohort": 2})
    run = Run(
        clinic.job(exclude=["north"], quorum={"min_silos": 2}),
        clinic.contract(),
        LocalTransport({name: answerer(each) for name, each in silos.items()}),
        silos=tuple(silos),
        directory=tmp_path / "without",
        run_id="without",
        key=KEY,
        parties={name: Party(each.signing_key) for name, each in silos.items()},
    )
    result = run_all(run)
    assert result.status == "complete", result.reason
    assert set(result.silos) == {"east", "south"}
    assert chain.read(run.record.path)[0]["body"]["excluded"] == ["north"]
    assert not (silos["north"].directory / "audit.jsonl").exists()
