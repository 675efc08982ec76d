"""An author signs a job's code apart from the coordinator, who carries it as it is."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import clinic
import joint
import pytest
import yaml
from typer.testing import CliRunner

from consilo.cli import build
from consilo.errors import BundleNotApproved, ConfigInvalid
from consilo.jobs.job import Job
from consilo.membership.keys import load_or_create_signing_key
from consilo.transports.flower.bundle import bundle_hash, read_label
from consilo.wire.signing import public_hex
from flows.match import match
from flows.services.connection import connecting
from flows.services.federation import carried_bundle, job_bundle
from flows.services.order import Order
from silos.gate.bundles import approve, require_approved

PAGE = (Path(__file__).parents[3] / "docs" / "jobs.md").read_text()
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, features):
        return self.layer(features)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "study"
    study.mkdir()
    (study / "net.py").write_text(NET)
    (study / "job.yaml").write_text(yaml.safe_dump(clinic.job(model="net:Net").to_json()))
    return tmp_path


def types(line: str) -> str:
    result = CliRunner().invoke(build(), shlex.split(line)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def lines_of_the_page() -> list[str]:
    found = re.findall(r"^(consilo job (?:bundle|run) .*study\.bundle)", PAGE, re.MULTILINE)
    assert len(found) == 2
    return found


def silo(place: Path) -> Path:
    """A silo that wants code from others than the coordinator."""
    folder = place / "north"
    folder.mkdir()
    coordinator = load_or_create_signing_key(place / "coordinator" / "keys" / "record.key")
    (folder / "coordinator.yaml").write_text(f"signing_keys: [{public_hex(coordinator)}]\n")
    (folder / "bundles.yaml").write_text("signers: others\n")
    return folder


def test_an_authors_bundle_runs_where_the_coordinators_own_does_not(place: Path) -> None:
    said = types(lines_of_the_page()[0])
    author = public_hex(load_or_create_signing_key(place / "author.key"))
    assert author in said
    job, path = Job.load(place / "study" / "job.yaml"), (place / "study",)
    north = silo(place)
    carried = carried_bundle(place / "study.bundle", job, path)
    assert carried == (place / "study.bundle").read_bytes()
    label = read_label(carried)
    assert label is not None
    assert label.signer == author
    key = load_or_create_signing_key(place / "coordinator" / "keys" / "record.key")
    own = job_bundle(job, path, key)
    for content in (carried, own):
        approve(north, bundle_hash(content))
    kept = require_approved(north, bundle_hash(carried), lambda: carried)
    assert kept.read_bytes() == carried
    with pytest.raises(BundleNotApproved, match="signed by the coordinator itself"):
        require_approved(north, bundle_hash(own), lambda: own)
    assert f"signed by {author[:16]}" in types(f"consilo silo bundles --dir {north}")


def test_what_is_carried_is_the_code_beside_the_job(place: Path) -> None:
    told = json.loads(types(f"{lines_of_the_page()[0]} --json"))
    assert told["files"] == ["net.py"]
    job, path = Job.load(place / "study" / "job.yaml"), (place / "study",)
    (place / "study" / "net.py").write_text(NET + "\n# of today\n")
    with pytest.raises(ConfigInvalid, match=r"net\.py: not the same"):
        carried_bundle(place / "study.bundle", job, path)
    (place / "study.bundle").write_bytes(b"PK")
    with pytest.raises(ConfigInvalid, match="no bundle that can be read"):
        carried_bundle(place / "study.bundle", job, path)


def test_a_job_without_code_has_nothing_to_sign(place: Path) -> None:
    (place / "plain.yaml").write_text(yaml.safe_dump(clinic.job().to_json()))
    line = ["job", "bundle", "plain.yaml", "--sign-key", "author.key", "--out", "x"]
    result = CliRunner().invoke(build(), line)
    assert isinstance(result.exception, ConfigInvalid)
    assert "no code to sign" in str(result.exception)


class Reached(Exception):
    """The federation would be opened now."""


@pytest.fixture
def carried() -> Iterator[list[bytes]]:
    """What a federation that is up would carry to the silos, taken where it would be opened."""
    found: list[bytes] = []

    def connect(order: Order) -> NoReturn:
        assert order.bundle is not None
        found.append(carried_bundle(order.bundle, order.job, order.search_path))
        raise Reached

    with connecting(connect):
        yield found


def joint_study(place: Path) -> None:
    """A vertical job whose model is the author's, with the contracts that it needs."""
    study = place / "joint"
    study.mkdir()
    (study / "net.py").write_text(NET)
    (study / "joint.yaml").write_text(yaml.safe_dump(joint.JOINT))
    (study / "people.yaml").write_text(yaml.safe_dump(joint.PEOPLE))
    split = {"name": "vertical_split"}
    job = joint.job_of(model="net:Net", protocol=split).to_json()
    (study / "job.yaml").write_text(yaml.safe_dump(job))


@pytest.mark.parametrize("command", ["job plan", "match run"])
def test_who_plans_or_matches_carries_the_authors_bundle_too(
    command: str, place: Path, carried: list[bytes]
) -> None:
    joint_study(place)
    types("consilo job bundle joint/job.yaml --sign-key author.key --out joint.bundle")
    words = [*command.split(), "joint/job.yaml", "--dir", "coordinator", "--bundle", "joint.bundle"]
    assert isinstance(CliRunner().invoke(build(), words).exception, Reached)
    assert carried == [(place / "joint.bundle").read_bytes()]
    (place / "joint" / "net.py").write_text(NET + "\n# of today\n")
    changed = CliRunner().invoke(build(), words).exception
    assert isinstance(changed, ConfigInvalid)
    assert "net.py: not the same" in str(changed)


@pytest.mark.parametrize("command", ["job plan", "match run"])
def test_no_bundle_is_carried_within_this_process(command: str, place: Path) -> None:
    joint_study(place)
    words = [*command.split(), "joint/job.yaml", "--silos", "silos", "--bundle", "joint.bundle"]
    found = CliRunner().invoke(build(), words).exception
    assert isinstance(found, ConfigInvalid)
    assert "no bundle travels within this process" in str(found)


def test_the_flow_that_matches_carries_it_as_the_pipeline_does(
    place: Path, carried: list[bytes]
) -> None:
    joint_study(place)
    types("consilo job bundle joint/job.yaml --sign-key author.key --out joint.bundle")
    with pytest.raises(Reached):
        match.fn("joint/job.yaml", bundle="joint.bundle", home=str(place))
    assert carried == [(place / "joint.bundle").read_bytes()]
