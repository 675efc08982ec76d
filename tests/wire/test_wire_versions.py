"""Neighbouring wire versions work together; anything else is told what to upgrade."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import clinic
import pytest
import yaml
from agreed import agree
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from frozen import COORDINATOR, SILO, Frozen, decoded, encoded

from consilo.jobs.job import Job
from consilo.kernel.headers import WIRE_VERSION, WIRE_VERSIONS, Header
from consilo.kernel.loop import Party
from consilo.membership.keys import load_or_create_signing_key
from consilo.protocols.dispatch import answerer
from consilo.runs.analytics import AnalyticsRun, run_analytics
from consilo.runs.horizontal import Run, RunResult, run_all
from consilo.runs.match import run_match
from consilo.transports.local import LocalTransport
from consilo.wire.signing import public_hex
from silos.gate.partners import Partner
from silos.gate.policy import TEMPLATE
from silos.silo import Silo

KEY = Ed25519PrivateKey.generate()
MATCHING = yaml.safe_dump(
    {
        "allow": [{"jobs": ["*"]}],
        "disclosures": {"statistic": True, "sealed": True, "match": True},
        "matching": {"min_set_size": 5, "min_intersection": 5},
    }
)
OLD_POLICY = "jobs: ['*']\ndisclosures: [metric, statistic, update]\n"


def write_rows(path: Path, seed: int) -> None:
    path.mkdir(parents=True)
    clinic.frame(40, seed).to_csv(path / "rows.csv", index=False)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frozen]:
    """A silo of wire version 1, which does not sign: its own files, its own code."""
    path = tmp_path_factory.mktemp("frozen") / "old"
    write_rows(path, 0)
    source = {"type": "csv", "path": "rows.csv"}
    (path / "silo.yaml").write_text(yaml.safe_dump({"name": "old", "source": source}))
    (path / "policy.yaml").write_text(OLD_POLICY)
    process = Frozen("wire-1", SILO, path)
    yield process
    process.close()


def second_silo(path: Path, partners: dict[str, str], policy: str = TEMPLATE) -> tuple[Frozen, str]:
    """Return a silo of wire version 2, and what it signs with."""
    write_rows(path, 0)
    config = {"name": "old", "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    # Its policy knows no limit of threads and no wall.
    known = re.sub(r"^( *threads|sandbox):.*\n", "", policy, flags=re.MULTILINE)
    (path / "policy.yaml").write_text(known)
    pinned = {name: {"signing_key": key} for name, key in partners.items()}
    (path / "partners.yaml").write_text(yaml.safe_dump(pinned))
    (path / "coordinator.yaml").write_text(yaml.safe_dump({"signing_keys": [public_hex(KEY)]}))
    key = public_hex(load_or_create_signing_key(path / "signing.key"))
    return Frozen("wire-2", SILO, path), key


def today(path: Path, name: str, *, policy: str = TEMPLATE) -> Silo:
    write_rows(path / name, 1)
    config = {"name": name, "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / name / "silo.yaml").write_text(yaml.safe_dump(config))
    (path / name / "policy.yaml").write_text(policy)
    agree(path / name, clinic.contract())
    return Silo.open(path / name, signing_keys=(public_hex(KEY),), partners={})


def together(
    folder: Path, first: Frozen | None, *, policy: str = TEMPLATE, **changes: object
) -> RunResult:
    """Run a job of today over two silos of today and one of a former release.

    Args:
        folder: for all files.
        first: a silo of wire version 1; None makes one of version 2.
        policy: of the silos of today.
        changes: of the job.
    """
    new, newer = (today(folder, name, policy=policy) for name in ("new", "newer"))
    keys = {each.name: each.signing_key for each in (new, newer)}
    old, party = first, Party(wire=1)
    if old is None:
        old, key = second_silo(folder / "old", keys)
        keys["old"], party = key, Party(key, wire=2)
    for each in (new, newer):
        partners = {n: Partner(signing_key=key) for n, key in keys.items() if n != each.name}
        each.letters.partners = partners
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
            "old": party,
            "new": Party(new.signing_key),
            "newer": Party(newer.signing_key),
        },
    )
    try:
        return run_all(run)
    finally:
        if first is None:
            old.close()


def test_each_former_wire_version_is_frozen() -> None:
    assert WIRE_VERSIONS[-1] == WIRE_VERSION
    for version in WIRE_VERSIONS[:-1]:
        assert (Path(__file__).parents[1] / "frozen" / f"wire-{version}.zip").exists()


def test_a_silo_of_the_first_release_takes_part(first: Frozen, tmp_path: Path) -> None:
    result = together(tmp_path / "a", first)
    assert result.status == "complete", result.reason
    assert result.silos["old"].rounds == (1, 2, 3)


def test_a_silo_of_the_release_before_takes_part(tmp_path: Path) -> None:
    result = together(tmp_path / "a", None)
    assert result.status == "complete", result.reason
    assert result.silos["old"].rounds == (1, 2, 3)
    briefed = [each.silo for each in result.exchanges if each.verb == "brief"]
    assert sorted(briefed) == ["new", "newer"]


@pytest.mark.parametrize("young", [{"purpose": "research"}, {"local": {"threads": 2}}])
def test_it_is_not_asked_for_what_it_does_not_know(
    first: Frozen, tmp_path: Path, young: dict[str, object]
) -> None:
    policy = TEMPLATE.replace("  threads: 1 ", "  threads: 2 ")
    result = together(tmp_path / "b", first, policy=policy, **young)
    assert result.status == "degraded"
    assert "upgrade Consilo there" in result.silos["old"].reason
    assert result.silos["new"].rounds == (1, 2, 3)


def test_a_silo_of_the_release_before_is_not_matched_and_it_is_said_why(
    tmp_path: Path,
) -> None:
    """It sends tags without having committed to any: its partner could not tell them from its own.

    That it signs the same question shows by how far they come; a match was asked by a horizontal
    job before there was a kind for it.
    """
    new = today(tmp_path, "new", policy=MATCHING)
    clinic.frame(40, 0).to_csv(tmp_path / "new" / "rows.csv", index=False)  # as the old one's
    old, key = second_silo(tmp_path / "old", {"new": new.signing_key}, MATCHING)
    new.letters.partners = {"old": Partner(signing_key=key)}
    recipe = {"keys": [{"parts": [{"column": "age"}]}]}
    job = Job.from_json(
        {"name": "people", "kind": "match", "contract": "clinic@1", "match": {"recipe": recipe}}
    )
    try:
        told = run_match(
            job,
            clinic.contract(),
            LocalTransport({"old": old.answer, "new": answerer(new)}),
            silos=("old", "new"),
            directory=tmp_path / "run",
            run_id="match",
            key=KEY,
            parties={"old": Party(key, wire=2), "new": Party(new.signing_key)},
        )
    finally:
        old.close()
    assert told["status"] == "failed"
    assert "'old' matches by an older or newer way than this silo" in told["reason"]
    assert not (tmp_path / "new" / "matches" / "people").exists()


def test_a_silo_of_the_release_before_is_not_asked_what_its_columns_are(tmp_path: Path) -> None:
    job = Job.from_json({"name": "spread", "kind": "analytics", "contract": "clinic@1"})
    new = today(tmp_path, "new", policy=TEMPLATE.replace("min_cohort: 2", "min_cohort: 1"))
    run = AnalyticsRun(
        job.changed(quorum={"min_silos": 1}),
        clinic.contract(),
        LocalTransport({"new": answerer(new), "old": answerer(new)}),
        silos=("new", "old"),
        directory=tmp_path / "run",
        run_id="spread",
        key=KEY,
        parties={"new": Party(new.signing_key), "old": Party(new.signing_key, wire=2)},
    )
    result = run_analytics(run)
    assert result.status == "degraded"
    assert "'kind', which the silo's release does not know" in result.silos["old"].reason
    assert result.silos["new"].status == "answered"


def told_by(release: str, tmp_path: Path, silos: dict[str, Silo], **order: object) -> dict:
    """Return how a run of a former release's coordinator over silos of today ends."""
    answers = {name: answerer(each) for name, each in silos.items()}
    (tmp_path / "run").mkdir()
    process = Frozen(release, COORDINATOR, tmp_path / "run")
    asked = {"job": clinic.job().to_json(), "contract": clinic.contract().to_json()}
    process.write({**asked, "silos": list(silos), **order})
    while isinstance(said := process.read(), list):
        silo, *parcel = said
        process.write(encoded(answers[silo](decoded(parcel))))
    process.close()
    return said


def test_a_coordinator_of_the_release_before_is_served(tmp_path: Path) -> None:
    silos = {name: today(tmp_path, name) for name in ("a", "b")}
    keys = {name: each.signing_key for name, each in silos.items()}
    for name, each in silos.items():
        others = {n: Partner(signing_key=key) for n, key in keys.items() if n != name}
        each.letters.partners = others
    said = told_by("wire-2", tmp_path, silos, signing_keys=keys, key=KEY.private_bytes_raw().hex())
    assert said == {"status": "complete", "reason": ""}


@pytest.mark.parametrize("allowed", [True, False])
def test_a_coordinator_of_the_first_release_is_served_where_the_silo_allows_it(
    tmp_path: Path, allowed: bool
) -> None:
    policy = TEMPLATE.replace("min_cohort: 2", "min_cohort: 1")
    policy += "\nallow_unsigned: yes\n" if allowed else ""
    silos = {name: today(tmp_path, name, policy=policy) for name in ("a", "b")}
    said = told_by("wire-1", tmp_path, silos)
    if allowed:
        assert said == {"status": "complete", "reason": ""}
    else:
        assert said["status"] == "failed"
        assert "upgrade Consilo at the coordinator" in said["reason"]


@pytest.mark.parametrize(("wire", "where"), [(0, "at the coordinator"), (99, "in the silo")])
def test_any_other_version_is_told_what_to_upgrade(tmp_path: Path, wire: int, where: str) -> None:
    header = Header("r", "0/0/check", "c", 0, "new", "contract_check", "check", ("new",), wire=wire)
    from consilo.kernel.headers import ReplyHeader
    from consilo.wire.parcel import Parcel

    reply = ReplyHeader.decode(
        answerer(today(tmp_path, "new"))(Parcel(header.encode(), b"")).header
    )
    assert reply.code == "version"
    assert f"upgrade Consilo {where}" in reply.reason
