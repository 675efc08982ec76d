"""Neighbouring wire versions work together; anything else is told what to upgrade."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import clinic
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from frozen import COORDINATOR, SILO, Frozen, decoded, encoded

from consilo.dispatch import answerer
from consilo.headers import WIRE_VERSION, WIRE_VERSIONS, Header
from consilo.kernel import Party
from consilo.run import Run, RunResult, run_all
from consilo.signing import public_hex
from consilo.transports.local import LocalTransport
from silos.partners import Partner
from silos.policy import TEMPLATE
from silos.silo import Silo

KEY = Ed25519PrivateKey.generate()
OLD_POLICY = "jobs: ['*']\ndisclosures: [metric, statistic, update]\n"


def write_rows(path: Path, seed: int) -> None:
    path.mkdir(parents=True)
    clinic.frame(40, seed).to_csv(path / "rows.csv", index=False)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frozen]:
    """A silo of the release before: its own files, its own code."""
    path = tmp_path_factory.mktemp("frozen") / "old"
    write_rows(path, 0)
    source = {"type": "csv", "path": "rows.csv"}
    (path / "silo.yaml").write_text(yaml.safe_dump({"name": "old", "source": source}))
    (path / "policy.yaml").write_text(OLD_POLICY)
    process = Frozen("wire-1", SILO, path)
    yield process
    process.close()


def today(path: Path, name: str, *, policy: str = TEMPLATE) -> Silo:
    write_rows(path / name, 1)
    config = {"name": name, "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / name / "silo.yaml").write_text(yaml.safe_dump(config))
    (path / name / "policy.yaml").write_text(policy)
    return Silo.open(path / name, signing_keys=(public_hex(KEY),), partners={})


def together(folder: Path, old: Frozen, *, policy: str = TEMPLATE, **changes: object) -> RunResult:
    """Run a job of today over a silo of each release."""
    new, newer = (today(folder, name, policy=policy) for name in ("new", "newer"))
    for one, other in ((new, newer), (newer, new)):
        one._guard.partners = {other.name: Partner(signing_key=other.signing_key)}
    answers = {"old": old.answer, "new": answerer(new), "newer": answerer(newer)}
    run = Run(
        clinic.job(quorum={"min_silos": 2}, **changes),
        clinic.contract(),
        LocalTransport(answers),
        silos=tuple(answers),
        directory=folder / "run",
        run_id=folder.name,
        key=KEY,
        parties={
            "old": Party(wire=1),
            "new": Party(new.signing_key),
            "newer": Party(newer.signing_key),
        },
    )
    return run_all(run)


def test_the_frozen_release_is_the_one_before() -> None:
    assert WIRE_VERSIONS == (WIRE_VERSION - 1, WIRE_VERSION)
    assert (Path(__file__).parents[1] / "frozen" / f"wire-{WIRE_VERSION - 1}.zip").exists()


def test_a_silo_of_the_release_before_takes_part(old: Frozen, tmp_path: Path) -> None:
    result = together(tmp_path / "a", old)
    assert result.status == "complete", result.reason
    assert result.silos["old"].rounds == (1, 2, 3)


@pytest.mark.parametrize("young", [{"purpose": "research"}, {"local": {"threads": 2}}])
def test_it_is_not_asked_for_what_it_does_not_know(
    old: Frozen, tmp_path: Path, young: dict[str, object]
) -> None:
    policy = TEMPLATE.replace("  threads: 1 ", "  threads: 2 ")
    result = together(tmp_path / "b", old, policy=policy, **young)
    assert result.status == "degraded"
    assert "upgrade Consilo there" in result.silos["old"].reason
    assert result.silos["new"].rounds == (1, 2, 3)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_coordinator_of_the_release_before_is_served_where_the_silo_allows_it(
    tmp_path: Path, allowed: bool
) -> None:
    policy = TEMPLATE.replace("min_cohort: 2", "min_cohort: 1")
    policy += "\nallow_unsigned: yes\n" if allowed else ""
    silos = {name: today(tmp_path, name, policy=policy) for name in ("a", "b")}
    answers = {name: answerer(each) for name, each in silos.items()}
    (tmp_path / "run").mkdir()
    process = Frozen("wire-1", COORDINATOR, tmp_path / "run")
    process.write(
        {
            "job": clinic.job().to_json(),
            "contract": clinic.contract().to_json(),
            "silos": list(silos),
        }
    )
    while isinstance(said := process.read(), list):
        silo, *parcel = said
        process.write(encoded(answers[silo](decoded(parcel))))
    process.close()
    if allowed:
        assert said == {"status": "complete", "reason": ""}
    else:
        assert said["status"] == "failed"
        assert "upgrade Consilo at the coordinator" in said["reason"]


@pytest.mark.parametrize(("wire", "where"), [(0, "at the coordinator"), (99, "in the silo")])
def test_any_other_version_is_told_what_to_upgrade(tmp_path: Path, wire: int, where: str) -> None:
    header = Header("r", "0/0/check", "c", 0, "new", "contract_check", "check", ("new",), wire=wire)
    from consilo.headers import ReplyHeader
    from consilo.parcel import Parcel

    reply = ReplyHeader.decode(
        answerer(today(tmp_path, "new"))(Parcel(header.encode(), b"")).header
    )
    assert reply.code == "version"
    assert f"upgrade Consilo {where}" in reply.reason
