"""A card's folder is checked offline: what fits passes, and one byte that is another fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from carded import card_folder, registered_run
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from three_silos import KEY

from consilo.cards.pack import write_zip
from consilo.cards.verify import verify
from consilo.membership.keys import public_pem

STATED = {
    "purpose": "Tells who may be ill.",
    "license": "Apache-2.0",
    "limits": ["Adults only."],
    "risks": ["May miss the young."],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("carded")
    record, model = registered_run(place, card=STATED)
    return card_folder(record, model, place / "card")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "card")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "coordinator.pub"
    path.write_bytes(public_pem(KEY))
    return path


def faults(verdict):
    return [each.found for each in verdict.checks if not each.passed]


def test_a_folder_that_was_not_touched_passes(folder, key):
    verdict = verify(folder, [key])
    assert verdict.passed, faults(verdict)
    assert len(verdict.checks) == 9
    assert verdict.about == {"model": "clinic", "version": "3", "run": "clinic-1"}
    assert not verdict.notes


def test_without_a_key_from_elsewhere_it_says_so(folder):
    verdict = verify(folder)
    assert verdict.passed
    assert "give --key" in verdict.notes[0]


def test_a_zip_of_it_passes_and_is_the_same_twice(folder, key, tmp_path):
    for name in ("one.zip", "two.zip"):
        write_zip(folder, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert verify(tmp_path / "one.zip", [key]).passed


EACH = (
    "record.jsonl",
    "card.md",
    "card.html",
    "bom.json",
    "statement.json",
    "keys/coordinator.pub",
    "keys/silos.json",
    "model/model.pt2",
    "model/scoring.py",
    "model/contract.json",
    "model/job.json",
)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("part", [0.0, 0.31, 0.77, 1.0])
def test_one_byte_that_is_another_fails_and_says_where(folder, key, name, part):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[min(int(part * len(content)), len(content) - 1)] ^= 1
    path.write_bytes(content)
    verdict = verify(folder, [key])
    assert not verdict.passed
    assert any(name in each for each in faults(verdict)), faults(verdict)


def test_a_line_of_the_record_is_named(folder, key):
    path = folder / "record.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b'"ok"', b'"OK"', 1)
    path.write_bytes(b"\n".join(lines))
    assert any("record.jsonl, line 5" in each for each in faults(verify(folder, [key])))


def test_the_place_in_a_card_is_named(folder, key):
    path = folder / "card.md"
    text = path.read_text()
    path.write_text(text.replace("Adults only.", "Adults, only.", 1))
    line = text[: text.index("Adults only.")].count("\n") + 1
    assert any(f"card.md, line {line}, byte" in each for each in faults(verify(folder, [key])))


@pytest.mark.parametrize("name", EACH)
def test_a_file_that_is_missing_is_named(folder, key, name):
    (folder / name).unlink()
    assert any(f"{name}: the file is missing" in each for each in faults(verify(folder, [key])))


@pytest.mark.parametrize("name", ["model/__pycache__/scoring.cpython-311.pyc", "more.txt"])
def test_a_file_too_many_fails(folder, key, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert any(f"{name}: a file that the statement" in e for e in faults(verify(folder, [key])))


def test_a_link_fails(folder, key):
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to("/etc/hostname")
    assert any("card.md: a link" in each for each in faults(verify(folder, [key])))


def test_a_zip_with_a_path_out_of_it_fails(tmp_path, key):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr("../card.md", "x")
    assert any("no path of a card's folder" in e for e in faults(verify(tmp_path / "odd.zip")))


def test_a_forger_with_a_key_of_their_own_is_found_by_the_key_that_was_given(folder, key):
    """They sign everything anew, as a coordinator would: only the key tells."""
    forger = Ed25519PrivateKey.generate()
    from consilo.cards.model_files import digests_in
    from consilo.cards.pack import COORDINATOR, STATEMENT
    from consilo.cards.statement import sealed, unsealed
    from consilo.wire.signing import public_hex

    said = unsealed((folder / STATEMENT).read_bytes(), [public_hex(KEY)], STATEMENT)
    (folder / STATEMENT).unlink()
    (folder / COORDINATOR).write_bytes(public_pem(forger))
    said["subject"] = [
        {"name": name, "digest": {"sha256": each}} for name, each in digests_in(folder).items()
    ]
    (folder / STATEMENT).write_bytes(sealed(said, forger))
    found = faults(verify(folder, [key]))
    assert any("keys/coordinator.pub" in each for each in found)
    # With the forger's own key the record is still the coordinator's.
    assert any("record.jsonl: signed by the key" in each for each in faults(verify(folder)))


def test_a_coordinator_that_binds_another_record_is_found(folder, key):
    """The key is right and the signature too: what is stated is not what the record says."""
    from consilo.cards.pack import STATEMENT
    from consilo.cards.statement import sealed, unsealed
    from consilo.wire.signing import public_hex

    said = unsealed((folder / STATEMENT).read_bytes(), [public_hex(KEY)], STATEMENT)
    said["predicate"]["model"]["params"] = "0" * 64
    (folder / STATEMENT).write_bytes(sealed(said, KEY))
    found = faults(verify(folder, [key]))
    assert any("parameters is 000" in each for each in found), found


def test_another_silos_key_than_the_one_that_was_given_is_found(folder, tmp_path):
    keys = tmp_path / "trusted"
    shutil.copytree(folder / "keys", keys)
    assert verify(folder, [keys]).passed
    silos = json.loads((keys / "silos.json").read_bytes())
    (keys / "silos.json").write_text(json.dumps({**silos, "north": "0" * 64}))
    assert any("the key of silo north" in each for each in faults(verify(folder, [keys])))


ALONE = """
import sys

class Away:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {away}:
            raise ImportError(name)

sys.meta_path.insert(0, Away())
from pathlib import Path
from consilo.cards.verify import verify

verdict = verify(Path(sys.argv[1]), [Path(sys.argv[2])])
print(verdict.passed, len(verdict.checks))
"""
HEAVY = ("mlflow", "prefect", "flwr", "torch", "opacus", "jinja2", "cyclonedx", "starlette")


def test_it_needs_none_of_what_trained_the_model(folder, key):
    code = ALONE.format(away=HEAVY)
    asked = [sys.executable, "-c", code, str(folder), str(key)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "9"], done.stderr
