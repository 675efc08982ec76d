"""Which code runs in a silo: by its operator's word, or by a rule of theirs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import BundleNotApproved, ConfigInvalid, Refused
from consilo.kernel.verbs import Disclosure
from consilo.record.chain import verify
from consilo.transports.flower.bundle import (
    build_bundle,
    bundle_hash,
    keep_bundle,
    read_label,
)
from consilo.wire.signing import public_hex
from silos.gate.bundle_source import difference
from silos.gate.bundles import (
    Decisions,
    approve,
    bundles,
    declared,
    reject,
    require_approved,
    resolve,
)

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
CLASSES = (Disclosure.METRIC, Disclosure.UPDATE)
SOURCE = "raise SystemExit('imported before it was approved')\nWIDTH = {width}\n"


def bundle(width: int = 1, *, name: str = "net", signer=KEY, disclosures=CLASSES) -> bytes:
    modules = {f"{name}.py": SOURCE.format(width=width).encode()}
    return build_bundle(modules, signer=signer, disclosures=disclosures)


def ask(folder: Path, content: bytes) -> str:
    """What becomes of a run with this code: ``runs``, or the refusal's words."""
    try:
        require_approved(folder, bundle_hash(content), lambda: content)
    except BundleNotApproved as cause:
        return str(cause)
    return "runs"


def decisions(folder: Path) -> list[str]:
    return [each["body"]["decision"] for each in verify(folder / "audit.jsonl")]


def test_an_unknown_bundle_waits_until_it_is_approved(tmp_path: Path) -> None:
    content = bundle()
    digest = bundle_hash(content)
    assert "waits there for a decision" in ask(tmp_path, content)
    (waiting,) = bundles(tmp_path)
    assert (waiting.digest, waiting.state, waiting.size) == (digest, "pending", len(content))
    assert waiting.label.package == "net"
    assert waiting.label.signer == public_hex(KEY)
    assert approve(tmp_path, digest)
    assert not approve(tmp_path, digest)
    assert ask(tmp_path, content) == "runs"
    assert decisions(tmp_path) == ["refused", "approved"]


def test_an_approved_bundle_is_fetched_once(tmp_path: Path) -> None:
    content = build_bundle()
    approve(tmp_path, bundle_hash(content))
    assert ask(tmp_path, content) == "runs"

    def fetch() -> bytes:
        raise AssertionError("fetched")

    require_approved(tmp_path, bundle_hash(content), fetch)


def test_a_rejected_bundle_stays_out_whatever_a_rule_says(tmp_path: Path) -> None:
    content = bundle()
    ask(tmp_path, content)
    approve(tmp_path, bundle_hash(content), always=True)
    newer = bundle(2)
    assert reject(tmp_path, bundle_hash(newer))
    assert not reject(tmp_path, bundle_hash(newer))
    assert "rejected" in ask(tmp_path, newer)
    assert reject(tmp_path, bundle_hash(content))
    assert "rejected" in ask(tmp_path, content)
    approve(tmp_path, bundle_hash(newer))
    assert ask(tmp_path, newer) == "runs"


@pytest.mark.parametrize(
    ("content", "runs"),
    [
        (bundle(2), True),
        (bundle(2, disclosures=(Disclosure.METRIC,)), True),
        (bundle(2, disclosures=(*CLASSES, Disclosure.LABEL)), False),
        (bundle(2, signer=OTHER), False),
        (bundle(2, signer=None), False),
        (bundle(2, name="other"), False),
        (build_bundle(version="9"), False),
    ],
    ids=["newer", "less", "more", "other signer", "unsigned", "other package", "bare"],
)
def test_a_standing_rule_admits_one_signers_one_package(tmp_path, content, runs) -> None:
    first = bundle()
    ask(tmp_path, first)
    approve(tmp_path, bundle_hash(first), always=True)
    assert (ask(tmp_path, content) == "runs") == runs
    assert (bundle_hash(content) in Decisions.load(tmp_path).approved) == runs


def test_only_a_signed_bundle_that_is_here_makes_a_rule(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="its content is not here"):
        approve(tmp_path, "0" * 64, always=True)
    content = bundle(signer=None)
    ask(tmp_path, content)
    with pytest.raises(ConfigInvalid, match=r"nobody has signed it, .*consilo job bundle"):
        approve(tmp_path, bundle_hash(content), always=True)
    assert Decisions.load(tmp_path) == Decisions()


def test_a_bundle_without_modules_is_approved_and_makes_no_rule(tmp_path: Path) -> None:
    """The docs' `approve HASH --always` was refused for the most common bundle of all."""
    content = build_bundle()
    ask(tmp_path, content)
    assert approve(tmp_path, bundle_hash(content), always=True)
    assert ask(tmp_path, content) == "runs"
    assert Decisions.load(tmp_path).rules == ()


def test_bytes_other_than_announced_are_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BundleNotApproved, match="another hash"):
        require_approved(tmp_path, bundle_hash(bundle()), lambda: bundle(2))
    assert bundles(tmp_path) == []


def altered(content: bytes, name: str, data: bytes | None) -> bytes:
    """The bundle with one file replaced, added, or left out."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for each in old.namelist():
            if each != name:
                new.writestr(each, old.read(each))
        if data is not None:
            new.writestr(name, data)
    return target.getvalue()


def test_a_label_is_that_of_its_modules_and_its_signer() -> None:
    content = bundle()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        label = json.loads(archive.read("BUNDLE.json"))
    more = json.dumps({**label, "disclosures": ["label", "metric", "update"]}).encode()
    for name, data in (
        ("net.py", b"WIDTH = 3\n"),
        ("more.py", b""),
        ("net.py", None),
        ("BUNDLE.json", None),
        ("BUNDLE.json", b"[]"),
        ("BUNDLE.json", more),
        ("BUNDLE.json", json.dumps({**label, "signer": public_hex(OTHER)}).encode()),
    ):
        with pytest.raises(Refused):
            read_label(altered(content, name, data))
    with pytest.raises(Refused, match="not a zip"):
        read_label(b"PK junk")
    assert read_label(content).disclosures == ("metric", "update")
    assert read_label(build_bundle()) is None


def test_a_bundle_that_can_never_run_says_why(tmp_path: Path) -> None:
    content = altered(bundle(), "more.py", b"")
    assert "label" in ask(tmp_path, content)
    assert "label" in bundles(tmp_path)[0].fault


def test_the_difference_is_to_the_last_approved_of_the_package(tmp_path: Path) -> None:
    for width in (1, 2):
        ask(tmp_path, bundle(width))
        approve(tmp_path, bundle_hash(bundle(width)))
    ask(tmp_path, bundle(1, name="other"))
    approve(tmp_path, bundle_hash(bundle(1, name="other")))
    ask(tmp_path, bundle(3))
    lines = difference(tmp_path, bundle_hash(bundle(3))).splitlines()
    changed = [each for each in lines if each[:1] in "+-" and each[:3] not in ("---", "+++")]
    assert changed == ["-WIDTH = 2", "+WIDTH = 3"]
    with pytest.raises(ConfigInvalid, match="not here"):
        difference(tmp_path, "0" * 64)


def test_a_hash_may_be_cut_short_where_it_is_the_only_one(tmp_path: Path) -> None:
    digest = bundle_hash(bundle())
    ask(tmp_path, bundle())
    assert resolve(tmp_path, digest[:8]) == resolve(tmp_path, digest) == digest
    for wrong in ("zz", ""):
        ask(tmp_path, bundle(2))
        with pytest.raises(ConfigInvalid):
            resolve(tmp_path, wrong)


def test_few_bundles_wait(tmp_path: Path) -> None:
    for width in range(40):
        ask(tmp_path, bundle(width))
    assert len(bundles(tmp_path)) == 32


def test_a_kept_bundle_tells_the_guard_what_it_declares(tmp_path: Path) -> None:
    place = keep_bundle(bundle(), tmp_path)
    assert declared(place) == ({"metric", "update"}, public_hex(KEY))
    assert declared(keep_bundle(bundle(signer=None), tmp_path))[1] == ""
    assert declared(keep_bundle(build_bundle(), tmp_path)) == (None, "")


@pytest.mark.parametrize(
    "text",
    ["- abc", "approved: [abc]", "approved: {x: y}", "aproved: []", "rules: [{signer: x}]", "["],
)
def test_a_faulty_list_approves_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundles.yaml").write_text(text)
    with pytest.raises(ConfigInvalid):
        require_approved(tmp_path, bundle_hash(bundle()), bundle)
