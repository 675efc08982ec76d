"""What is approved was not what ran: byte code beside a text, a frame outside the label.

Now a bundle is source text and a known frame, and is compiled from the very file that was approved.
"""

from __future__ import annotations

import importlib.util
import io
import json
import marshal
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import BundleNotApproved, ConfigInvalid, JobInvalid, Refused
from consilo.kernel.verbs import Disclosure
from consilo.learners.modules import resolve
from consilo.transports.flower.bundle import (
    Label,
    build_bundle,
    bundle_hash,
    keep_bundle,
    read_label,
)
from consilo.wire.payload import canonical_json
from consilo.wire.signing import public_hex
from silos.gate.bundles import (
    Decisions,
    approve,
    bundles,
    declared,
    reject,
    require_approved,
)

AUTHOR, COORDINATOR = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
CLASSES = (Disclosure.METRIC, Disclosure.UPDATE)
NET = b"from torch import nn\n\n\nclass Net(nn.Module):\n    pass\n"
GOOD = build_bundle({"net.py": NET}, disclosures=CLASSES, signer=AUTHOR)


def repacked(content: bytes, changes: dict[str, bytes | None], *, twice: str = "") -> bytes:
    """The bundle with files replaced, added or left out, and a label that names what is there."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        files = {name: old.read(name) for name in old.namelist()} | changes
    files = {name: data for name, data in files.items() if data is not None}
    frame = {"pyproject.toml", "consilo_bundle.py", "BUNDLE.json"}
    modules = {name: data for name, data in files.items() if name not in frame}
    if modules:
        label = Label.of(modules, CLASSES, AUTHOR)
        files["BUNDLE.json"] = canonical_json(vars(label) | {"files": dict(label.files)})
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as new:
        for name, data in files.items():
            new.writestr(name, data)
        if twice:
            new.writestr(twice, b"raise SystemExit('the second of one name')\n")
    return target.getvalue()


def admit(folder: Path, content: bytes) -> Path:
    return require_approved(folder, bundle_hash(content), lambda: content)


@pytest.fixture
def silo(tmp_path: Path) -> Path:
    """A silo whose operator has read ``net.py`` and trusts its author ever after."""
    with pytest.raises(BundleNotApproved):
        admit(tmp_path, GOOD)
    approve(tmp_path, bundle_hash(GOOD), always=True)
    return tmp_path


def code_that_writes(place: Path) -> bytes:
    """Byte code that Python takes for that of ``net.py`` without a look at the text."""
    code = compile(f"open({str(place)!r}, 'w').write('ran')", "net.py", "exec")
    head = importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + b"\0" * 8
    return head + marshal.dumps(code)


@pytest.mark.parametrize(
    "changes",
    [
        {"consilo_bundle.py": b"print('evil')\n"},
        {"consilo_bundle.py": None},
        {"pyproject.toml": b"[project]\n"},
        {"pyproject.toml": b'[build-system]\nrequires = ["evil"]\n'},
        {"__pycache__/net.cpython-311.pyc": code_that_writes(Path("x"))},
        {"package/__pycache__/net.cpython-311.pyc": code_that_writes(Path("x"))},
        {"net.pyc": code_that_writes(Path("x"))},
        {"net.cpython-311-x86_64-linux-gnu.so": b"\x7fELF"},
        {"evil.pth": b"import os\n"},
        {"data.bin": b"weights"},
        {"README.md": b"words"},
        {"sitecustomize.py": b"", "usercustomize.pyw": b""},
        {"torch.py": b""},
        {"numpy/__init__.py": b""},
        {"consilo/protocols/names.py": b""},
        {"json.py": b""},
        {"NET.py": b""},
        {"other-name.py": b""},
        {"1.py": b""},
        {"a b/c.py": b""},
        {"/net2.py": b""},
        {"../net2.py": b""},
        {"folder/": b""},
        {"net2.py": b"# -*- coding: utf-7 -*-\n\xff"},
        {"net2.py": b"x = 1 # \r raise SystemExit\n"},
        {"net2.py": "x = 1  # \u202e }\u2066if admin\u2069 \u2066 begin\n".encode()},
        {"net2.py": b"x = 1\x1b[8m\n"},
        {"net2.py": "def approve\u3164():\n    pass\n".encode()},
        {"net2.py": "x\ufe0f = 1\n".encode()},
        {"net2.py": "word = 'a\u00adb\U000e0041'\n".encode()},
        {"net2.py": "\U0001d4eeval('1')\n".encode()},
        {"net2.py": "x = f\"{\uff45val('1')}\"\n".encode()},
        {"net.py": None},
    ],
    ids="+".join,
)
def test_nothing_but_source_and_a_known_frame_is_a_bundle(silo, changes) -> None:
    """Whatever its label says and whoever has signed it, and whoever approves it."""
    content = repacked(GOOD, changes)
    with pytest.raises(BundleNotApproved):
        admit(silo, content)
    approve(silo, bundle_hash(content))
    with pytest.raises(BundleNotApproved):
        admit(silo, content)
    with pytest.raises(Refused):
        keep_bundle(content, silo / "elsewhere")


def test_words_and_names_of_any_language_are_text(silo: Path) -> None:
    """Greek letters are names of mathematics; superscripts and ligatures stand in words for people.

    What is no Python cannot run, and is text where its words read as they are.
    """
    text = "σ = 1  # σ² \ufb01ts; größe\nµm = 'm² ½'\n".replace("µ", "μ")
    assert read_label(build_bundle({"net.py": text.encode()})) is not None
    assert read_label(build_bundle({"net.py": "σ = (\n".encode()})) is not None
    with pytest.raises(JobInvalid, match="not plain text"):
        build_bundle({"net.py": "x = (\n\uff45val\n".encode()})


@pytest.mark.parametrize(
    "changes",
    [
        {"disclosures": [["metric"]]},
        {"disclosures": [None]},
        {"signer": 0},
        {"signer": ["a"]},
        {"signature": {}},
        {"files": ["net.py"]},
        {"package": None},
    ],
    ids=str,
)
def test_a_label_of_any_types_is_refused_and_listed(silo: Path, changes) -> None:
    """One such bundle, which anybody may send, and the operator saw no bundle any more."""
    label = Label.of({"net.py": NET}, CLASSES, None)
    told = vars(label) | {"files": dict(label.files), "disclosures": sorted(label.disclosures)}
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            said = json.dumps(told | changes).encode()
            new.writestr(name, said if name == "BUNDLE.json" else old.read(name))
    content = target.getvalue()
    with pytest.raises(BundleNotApproved, match="label"):
        admit(silo, content)
    (listed,) = [each for each in bundles(silo) if each.digest == bundle_hash(content)]
    assert "label" in listed.fault


def test_a_changed_frame_alone_is_nobodys(silo: Path) -> None:
    """Without modules it was listed as Consilo's own frame, and declared nothing."""
    content = repacked(build_bundle(), {"consilo_bundle.py": b"import os\n"})
    with pytest.raises(Refused, match="frame"):
        read_label(content)
    assert read_label(build_bundle(version="0.2.0")) is None
    with pytest.raises(Refused, match="frame"):
        read_label(build_bundle(version='1"\nx = "1'))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["net.py", "BUNDLE.json", "consilo_bundle.py"])
def test_two_entries_of_one_name_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="two entries"):
        read_label(repacked(GOOD, {}, twice=name))


def test_a_link_is_no_file() -> None:
    target = io.BytesIO(repacked(GOOD, {}))
    with zipfile.ZipFile(target, "a") as archive:
        entry = zipfile.ZipInfo("link.py")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(Refused, match="no plain file"):
        read_label(target.getvalue())


@pytest.mark.parametrize("name", ["torch.py", "json.py", "silos/x.py", "net.pyc", "a/b.so"])
def test_such_a_bundle_is_not_built_either(name: str) -> None:
    with pytest.raises(JobInvalid):
        build_bundle({name: b""})


def test_code_is_compiled_from_the_approved_text(silo: Path) -> None:
    """Byte code that lies where Python looks for it, put there by whoever came before."""
    place = admit(silo, GOOD)
    ran = silo / "RAN"
    for folder in (place.parent / "__pycache__", silo / "__pycache__", place / "x"):
        if folder.parent.is_dir():
            folder.mkdir(exist_ok=True)
            (folder / "net.cpython-311.pyc").write_bytes(code_that_writes(ran))
    assert resolve("net:Net", [place], what="model").__name__ == "Net"
    assert not ran.exists()
    folder = silo / "beside_a_job"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "net.py").write_bytes(NET)
    (folder / "__pycache__" / "net.cpython-311.pyc").write_bytes(code_that_writes(ran))
    assert resolve("net:Net", [folder], what="model").__name__ == "Net"
    assert not ran.exists()


def test_the_frame_is_never_imported(silo: Path) -> None:
    with pytest.raises(JobInvalid, match="was not found"):
        resolve("consilo_bundle:client", [admit(silo, GOOD)], what="protocol")


def test_bytes_that_changed_since_are_not_loaded(silo: Path) -> None:
    place = admit(silo, GOOD)
    other = build_bundle({"net.py": b"raise SystemExit\n"}, disclosures=CLASSES, signer=AUTHOR)
    place.write_bytes(other)
    with pytest.raises(Refused, match="not the one that was approved"):
        resolve("net:Net", [place], what="model")
    with pytest.raises(Refused, match="not the one that was approved"):
        declared(place)
    assert admit(silo, GOOD) == place  # what was changed here is fetched again
    assert place.read_bytes() == GOOD


def test_a_rejected_bundle_is_deleted(silo: Path) -> None:
    place = admit(silo, GOOD)
    former = silo / "bundles" / bundle_hash(GOOD)
    former.mkdir()
    (former / "net.py").write_bytes(NET)
    assert reject(silo, bundle_hash(GOOD))
    assert not place.exists()
    assert not former.exists()
    with pytest.raises(BundleNotApproved, match="rejected"):
        admit(silo, GOOD)
    assert not place.exists()


def test_signer_and_coordinator_are_others_where_the_operator_says_so(tmp_path: Path) -> None:
    (tmp_path / "coordinator.yaml").write_text(f"signing_keys: [{public_hex(COORDINATOR)}]\n")
    (tmp_path / "bundles.yaml").write_text("signers: others\n")
    by = {
        who: build_bundle({"net.py": NET}, disclosures=CLASSES, signer=key)
        for who, key in (("author", AUTHOR), ("coordinator", COORDINATOR), ("nobody", None))
    }
    for content in by.values():
        approve(tmp_path, bundle_hash(content))
    assert Decisions.load(tmp_path).signers == "others"
    assert admit(tmp_path, by["author"]).is_file()
    for who in ("coordinator", "nobody"):
        with pytest.raises(BundleNotApproved, match=f"signed by (the )?{who}"):
            admit(tmp_path, by[who])
    plain = build_bundle()
    approve(tmp_path, bundle_hash(plain))
    assert admit(tmp_path, plain).is_file()
    (tmp_path / "bundles.yaml").write_text("signers: other\n")
    with pytest.raises(ConfigInvalid):
        admit(tmp_path, plain)
