"""A job's module patched the guard when it was imported, which was before the guard had judged.

Now what a bundle's protocol may let leave is judged by its label, strictest first; its module is
imported after that, and what it then declares must lie within what was permitted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import clinic
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from warm_silo import KEY, SOUTH, make

from consilo.kernel.headers import Header, Manifest, ReplyHeader, attestation
from consilo.kernel.verbs import Disclosure
from consilo.protocols.dispatch import answerer
from consilo.transports.flower.bundle import build_bundle, keep_bundle
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack
from silos.gate.policy import TEMPLATE
from silos.silo import Silo

SOURCE = """
with open({ran!r}, "w") as file:
    file.write("ran")
import silos.gate.guard as guard
from consilo.protocol import Disclosure, Protocol, number, verb

guard.Guard.permit = lambda *a, **k: None


class Evil(Protocol):
    @verb("moments", replies={{"n": number(Disclosure.{classes})}})
    def moments(self, silo, message):
        return {{"n": 1.0}}
"""


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    from silos.gate.guard import Guard

    monkeypatch.setattr(Guard, "permit", Guard.permit)


def answer(
    folder: Path, policy: str, *, says=("update",), does="UPDATE", bundled=True, **changes
) -> tuple[ReplyHeader, bool]:
    """What is answered to a verb of the bundle's own protocol, and whether its module has run."""
    ran = folder / "RAN"
    text = SOURCE.format(ran=str(ran), classes=does).encode()
    silo = make(folder / "north", policy=policy)
    if bundled:
        content = build_bundle({"evil.py": text}, disclosures=map(Disclosure, says))
        place = keep_bundle(content, folder / "bundles")
    else:
        place = folder / "modules"
        place.mkdir()
        (place / "evil.py").write_bytes(text)
    opened = Silo.open(silo, search_path=(place,), bundle=place if bundled else None)
    job, contract = clinic.job(protocol={"name": "evil:Evil"}), clinic.contract()
    body = pack({"job": job.to_json(), "contract": contract.to_json(), "payload": {}})
    manifest = Manifest.of("run", job, contract, place.stem if bundled else "")
    now = opened.gate.now()
    header = Header(
        "run",
        "1/0/moments",
        digest(body),
        1,
        "north",
        "evil:Evil",
        "moments",
        ("north", "south"),
        manifest,
        {"south": attestation(SOUTH, manifest, "south")},
        now,
        now + 60,
        "h" * 64,
    )
    signer: Ed25519PrivateKey = changes.pop("key", KEY)
    header = replace(header, **changes)
    reply = answerer(opened)(Parcel(header.signed(signer).encode(), body))
    return ReplyHeader.decode(reply.header), ran.exists()


def test_the_honest_way_runs(tmp_path: Path) -> None:
    reply, ran = answer(tmp_path, TEMPLATE)
    assert (reply.status, ran) == ("ok", True)


@pytest.mark.parametrize("bundled", [True, False])
@pytest.mark.parametrize(
    "policy",
    [
        "allow: []\n",
        TEMPLATE.replace("update: yes", "update: no"),
        TEMPLATE.replace("min_cohort: 2", "min_cohort: 5"),
        TEMPLATE.replace("required: no", "required: yes"),
        TEMPLATE + "\nexpires: 2020-01-01\n",
    ],
    ids=["nothing allowed", "class", "cohort", "privacy", "expired"],
)
def test_nothing_is_imported_that_the_policy_refuses(tmp_path, policy, bundled) -> None:
    reply, ran = answer(tmp_path, policy, bundled=bundled)
    if "update: no" in policy and not bundled:  # without a label, what else may leave is judged
        assert reply.status == "fault"
        return
    assert (reply.status, ran) == ("fault", False)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": Ed25519PrivateKey.generate()},
        {"silo": "south"},
        {"run_id": "other"},
        {"expires": 1.0},
        {"protocol": "evil:Nothing", "manifest": None},
    ],
    ids=["signature", "receiver", "run", "late", "manifest"],
)
def test_nothing_is_imported_for_a_request_that_is_none(tmp_path, changes) -> None:
    if "manifest" in changes:
        changes["manifest"] = Manifest()
    reply, ran = answer(tmp_path, TEMPLATE, **changes)
    assert (reply.status, ran) == ("fault", False)


def test_what_it_declares_lies_within_its_label(tmp_path: Path) -> None:
    reply, ran = answer(tmp_path, TEMPLATE, says=("update",), does="METRIC")
    assert (reply.status, ran) == ("fault", True)
    assert "does not declare" in reply.reason


@pytest.mark.parametrize("name", ["consilo.horizontal.statistics:Statistics", "silos.silo:Silo"])
def test_a_protocol_of_ours_has_one_name(tmp_path, name) -> None:
    reply, _ = answer(tmp_path, TEMPLATE, protocol=name)
    assert reply.status == "fault"
