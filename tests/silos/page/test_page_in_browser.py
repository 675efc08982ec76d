"""The silo's page in a real browser: two widths, two themes, by keyboard alone, axe, live parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import clinic
import clinic_silo
import pytest
from browser import CHROMIUM, THEMES, WIDTHS, browser, by_keyboard, overflow, violations
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import BundleNotApproved
from consilo.kernel.verbs import Disclosure
from consilo.privacy.account import Charge
from consilo.transports.flower.bundle import build_bundle, bundle_hash
from silos.gate.audit import audit_log
from silos.gate.bundles import Decisions, require_approved
from silos.kept.budget import Budget
from silos.kept.ledger import Ledger
from silos.page.site import MENU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium here"),
]
RUN = "run-20260101-ab"
CODE = b"import os\nimport numpy\n"
POLICY = """allow: [{jobs: ["*"]}]
disclosures: {metric: yes, update: yes}
privacy: {budgets: {"*": {epsilon: 10, delta: 1.0e-5}}}
"""


@pytest.fixture
def silo(tmp_path: Path) -> Path:
    folder = tmp_path / "north"
    clinic_silo.make(folder, clinic.frame(30), policy=POLICY)
    (folder / "clinic.yaml").write_text(clinic.CONTRACT)
    key = Ed25519PrivateKey.generate()
    waiting = build_bundle({"net.py": CODE}, signer=key, disclosures=(Disclosure.UPDATE,))
    with pytest.raises(BundleNotApproved):
        require_approved(folder, bundle_hash(waiting), lambda: waiting)
    told = {"run": RUN, "protocol": "fedopt", "verb": "train", "job": "heart"}
    audit_log(folder).append("asked", step="s", decision="allowed", purpose="research", **told)
    Ledger(folder / "ledger.db").reserve(
        "rows",
        Charge(RUN, "s", "m", "dp_sgd", 1.1, 0.05, 60, 30),
        Budget(epsilon=10, delta=1e-5),
        lambda history: None,
        budget_of=lambda name: None,
    )
    return folder


def test_the_page_in_a_browser(silo: Path) -> None:
    command = [Path(sys.executable).parent / "consilo", "silo", "page", "--port", "0", "--json"]
    process = subprocess.Popen([*command, "--dir", silo], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["url"]
        _looked_at(address, silo)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _looked_at(address: str, silo: Path) -> None:
    base = address.partition("/enter")[0]
    digest = next((silo / "bundles" / "packed").glob("*.zip")).stem
    said: list[str] = []
    with browser() as opened:
        context = opened.new_context()
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_url(f"{base}/")
        page.goto(f"{base}/ledger")
        page.wait_for_selector(".picture", timeout=120_000)

        page.goto(f"{base}/")
        audit_log(silo).append("folded", lines=77)
        page.wait_for_selector("text=77", timeout=20_000)  # without a reload

        page.goto(f"{base}/bundles/{digest}")
        page.focus("#reason")
        page.keyboard.type("read it")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector(".badge:has-text('approved')")
        assert Decisions.load(silo).approved == (digest,)

        state = context.storage_state()
        addresses = [*MENU, f"/bundles/{digest}", f"/runs/{RUN}"]
        for theme in THEMES:
            for width in WIDTHS:
                view = opened.new_context(
                    storage_state=state,
                    viewport={"width": width, "height": 900},
                    color_scheme=theme,
                    reduced_motion="reduce",
                )
                page = view.new_page()
                page.on("console", lambda message: said.append(message.text))
                page.on("request", lambda request: asked.append(request.url))
                for each in addresses:
                    page.goto(base + each)
                    assert violations(page) == [], (theme, width, each)
                    assert overflow(page) <= 0, (theme, width, each)
                    seen = by_keyboard(page)
                    assert seen[0].startswith("A:Skip"), each
                    assert len(seen) > len(MENU), each
                view.close()
        assert {each for each in asked if not each.startswith(base)} == set()
        assert said == []
