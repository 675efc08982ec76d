"""The silo's page: what it shows is what the commands say, and nobody else can move a thing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import clinic
import clinic_silo
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.testclient import TestClient
from typer.testing import CliRunner

from consilo.errors import BundleNotApproved
from consilo.kernel.verbs import Disclosure
from consilo.transports.flower.bundle import build_bundle, bundle_hash
from silos.checked import last_checks
from silos.commands.app import app
from silos.gate.audit import audit_log
from silos.gate.audit_lines import in_words, search
from silos.gate.bundle_source import imports_of
from silos.gate.bundles import Decisions, approve, require_approved
from silos.gate.policy import Policy
from silos.gate.policy_words import in_words as sentences
from silos.page.site import MENU, made

HERE = "http://127.0.0.1:8421"
HOSTILE = "<script>alert(1)</script>\u202e"
RUN = "run-20260101-ab"
POLICY = f"""allow:
  - jobs: ["heart*"]
    purposes: [research, "{HOSTILE[:25]}"]
disclosures: {{metric: yes, update: {{min_rows: 40}}}}
privacy: {{budgets: {{"*": {{epsilon: 10, delta: 1.0e-5}}}}}}
"""
CODE = b"""import os
import numpy as np


def net():
    # <script>alert(1)</script>
    open('/etc/passwd')
"""


def _bundle(text: bytes) -> bytes:
    key = Ed25519PrivateKey.generate()
    return build_bundle({"net.py": text}, signer=key, disclosures=(Disclosure.UPDATE,))


@pytest.fixture
def silo(tmp_path: Path) -> Path:
    folder = tmp_path / "north"
    clinic_silo.make(folder, clinic.frame(30), policy=POLICY)
    (folder / "clinic.yaml").write_text(clinic.CONTRACT)
    log = audit_log(folder)
    told = {
        "run": RUN, "protocol": "fedopt", "verb": "train", "job": HOSTILE, "purpose": "research",
        "contract": "clinic@1",
    }  # fmt: skip
    log.append("asked", step="s1", decision="allowed", **told)
    log.append("answered", step="s1", status="ok", fields={"update": {"bytes": 3200}})
    log.append("asked", step="s2", decision="refused", code="hours", reason=HOSTILE, **told)
    waiting = _bundle(CODE)
    with pytest.raises(BundleNotApproved):
        require_approved(folder, bundle_hash(waiting), lambda: waiting)
    line = ["2026-11-01T00:00:00+00:00", RUN, "fedopt", "train"]
    figures = [json.dumps([*line, at, {"auc": 0.6 + at / 100}]) for at in (1, 2)]
    (folder / "figures.jsonl").write_text("\n".join(figures) + "\n{torn")
    return folder


@pytest.fixture
def page(silo: Path) -> TestClient:
    site = made(silo, 8421)
    client = TestClient(site.application(), base_url=HERE, follow_redirects=False)
    assert site.token is not None
    assert client.get(f"/enter?token={site.token.token}").status_code == 200
    return client


def _digest(silo: Path) -> str:
    return next((silo / "bundles" / "packed").glob("*.zip")).stem


def _send(page: TestClient, address: str, on: str = "/checks", **form: str):
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.get(on).text)
    assert csrf
    sent = {"csrf": csrf[1], **form}
    return page.post(address, data=sent, headers={"origin": HERE})


def _until(page: TestClient, address: str, words: str) -> str:
    text = ""
    for _ in range(600):
        text = page.get(address).text
        if words in text:
            return text
        time.sleep(0.1)
    raise AssertionError(f"'{words}' never came on {address}: {text}")


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(each.relative_to(folder)): (each.stat().st_size, each.stat().st_mtime_ns)
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


def test_every_page_shows_itself_escaped_and_writes_nothing(silo: Path, page: TestClient) -> None:
    before = _tree(silo)
    addresses = [*MENU, f"/bundles/{_digest(silo)}", f"/runs/{RUN}", "/log?q=refused&kind=asked"]
    for address in addresses:
        answer = page.get(address)
        assert answer.status_code == 200, address
        assert "<script>" not in answer.text, address
        assert "\u202e" not in answer.text, address
        assert len(answer.content) < 200 << 10
    assert _tree(silo) == before


def test_the_same_as_the_commands(silo: Path, page: TestClient) -> None:
    run = CliRunner()
    listed = json.loads(run.invoke(app, ["bundles", "--dir", str(silo), "--json"]).stdout)
    text = page.get("/bundles").text
    assert [each["digest"][:12] for each in listed["bundles"]] == re.findall(
        "<code>(.{12})<", text
    )[:1]
    said = json.loads(run.invoke(app, ["policy", "--words", "--json", "--dir", str(silo)]).stdout)
    shown = page.get("/policy").text
    plain = [each for several in said["words"].values() for each in several if "<" not in each]
    assert len(plain) > 10
    assert all(each.replace("'", "&#39;") in shown for each in plain)
    found = json.loads(
        run.invoke(app, ["audit", "show", "--find", "refused", "--json", "--dir", str(silo)]).stdout
    )
    assert [each["seq"] for each in found["entries"]] == [2, 3]
    assert page.get("/log?q=refused").text.count('id="line-') == 2


def test_code_is_approved_and_rejected_with_a_reason(silo: Path, page: TestClient) -> None:
    digest = _digest(silo)
    text = page.get(f"/bundles/{digest}").text
    assert "files, processes, the environment" in text
    assert '<span class="added">+import os</span>' in text
    address, on = f"/bundles/{digest}/decide", f"/bundles/{digest}"
    refused = _send(page, address, on, decision="approve", reason=" ")
    assert (refused.status_code, Decisions.load(silo).approved) == (409, ())
    assert _send(page, address, on, decision="run", reason="x").status_code == 409
    assert _send(page, address, on, decision="approve", reason=HOSTILE).status_code == 303
    assert Decisions.load(silo).approved == (digest,)
    line = search(silo, kind="bundle", most=1).entries[0]
    assert line["body"]["reason"] == r"<script>alert(1)</script>\u202e"
    assert "approved" in in_words(line)
    assert _send(page, address, on, decision="reject", reason="too odd").status_code == 303
    assert Decisions.load(silo).rejected == (digest,)
    assert not (silo / "bundles" / "packed" / f"{digest}.zip").exists()
    unknown = f"/bundles/{'0' * 64}/decide"
    assert _send(page, unknown, on, decision="approve", reason="x").status_code == 404


@pytest.mark.parametrize("attack", ["csrf", "origin", "host", "get", "stranger"])
def test_nobody_else_decides(silo: Path, page: TestClient, attack: str) -> None:
    digest = _digest(silo)
    address = f"/bundles/{digest}/decide"
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.get(f"/bundles/{digest}").text)
    assert csrf
    form = {"csrf": csrf[1], "decision": "approve", "reason": "x"}
    headers = {"origin": HERE}
    if attack == "csrf":
        answer = page.post(address, data={**form, "csrf": "x" * 43}, headers=headers)
    elif attack == "origin":
        answer = page.post(address, data=form, headers={"origin": "http://evil.example"})
    elif attack == "host":
        answer = page.post(address, data=form, headers={**headers, "host": "evil.example"})
    elif attack == "get":
        answer = page.get(address, params=form)
    else:
        page.cookies.clear()
        answer = page.post(address, data=form, headers=headers)
    assert answer.status_code in (401, 403, 405, 421)
    assert Decisions.load(silo).approved == ()


def test_a_check_names_the_rows_that_break_the_contract(silo: Path, page: TestClient) -> None:
    rows = clinic.frame(30)
    column = next(each for each in rows.columns if rows[each].dtype.kind == "f")
    rows.loc[4, column] = 1e9
    rows.to_csv(silo / "rows.csv", index=False)
    assert _send(page, "/checks/run", contract="heart@1").status_code == 409
    assert _send(page, "/checks/run", contract="clinic@1").status_code == 303
    text = _until(page, "/checks", "breaks it")
    told = last_checks(silo)["clinic@1"]
    broken = [each for each in told["explanations"] if each["places"]]
    assert broken
    assert broken[0]["places"][0]["row"] == 5
    assert re.search(r"broken by</dt><dd>1 row: 5", text)
    assert "1e9" not in json.dumps(told)
    assert "1000000000" not in text + json.dumps(told)


def test_a_run_has_what_it_asked_and_its_own_figures(page: TestClient) -> None:
    text = page.get(f"/runs/{RUN}").text
    assert "auc on this silo" in text
    assert "3.1 KiB" in text
    assert page.get("/runs/nothing").status_code == 404


def test_people_overrule_the_vote_with_a_reason(silo: Path, page: TestClient) -> None:
    address, on = f"/runs/{RUN}/vote", f"/runs/{RUN}"
    assert _send(page, address, on, verdict="no", reason="").status_code == 409
    assert _send(page, address, on, verdict="maybe", reason="x").status_code == 409
    assert _send(page, "/runs/nothing/vote", on, verdict="no", reason="x").status_code == 404
    assert _send(page, address, on, verdict="no", reason=HOSTILE).status_code == 303
    told = CliRunner().invoke(app, ["vote", RUN, "--json", "--dir", str(silo)]).stdout
    assert json.loads(told)["people"] == {RUN: {"verdict": "no", "reason": HOSTILE}}
    text = page.get(on).text
    assert "People here say: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert _send(page, address, on, verdict="policy").status_code == 303
    assert "People here say" not in page.get(on).text


def test_the_ledger_is_worked_out_beside(silo: Path, page: TestClient) -> None:
    assert "Nothing was ever spent" in _until(page, "/ledger", "Nothing was ever spent")


def test_an_empty_silo_has_all_pages_too(tmp_path: Path) -> None:
    (tmp_path / "silo.yaml").write_text("name: new\ndata: {rows: {type: csv, path: rows.csv}}\n")
    site = made(tmp_path, 8421)
    client = TestClient(site.application(), base_url=HERE)
    assert site.token is not None
    client.get(f"/enter?token={site.token.token}")
    assert {client.get(each).status_code for each in MENU} == {200}
    assert "policy allows nothing" in client.get("/").text


def test_a_broken_policy_hides_nothing_else(silo: Path, page: TestClient) -> None:
    (silo / "policy.yaml").write_text("allow: nonsense\n")
    assert {page.get(each).status_code for each in MENU} == {200}
    assert "needs you now" in page.get("/").text


def test_a_line_that_was_edited_is_said(silo: Path, page: TestClient) -> None:
    with (silo / "audit.jsonl").open("ab") as file:
        file.write(b'{"kind": 1}\n')
    answer = page.get("/log")
    assert answer.status_code == 409
    assert "audit verify" in answer.text
    assert page.get("/").status_code == 200


def test_imports_are_read_not_run() -> None:
    found = imports_of(
        {
            "net/__init__.py": "import numpy\nfrom . import more\nexec('1')\nimport nowhere_at_all",
            "net/more.py": "import socket\nraise SystemExit",
            "odd.py": "def (",
        }
    )
    told = {each.module: (each.origin, bool(each.reaches)) for each in found}
    assert told == {
        "exec()": ("call", True),
        "socket": ("python", True),
        "(unreadable)": ("missing", True),
        ".": ("bundle", False),
        "numpy": ("installed", False),
        "nowhere_at_all": ("missing", False),
    }


def test_words_of_a_policy_say_what_is_grave() -> None:
    from datetime import date

    policy = Policy.model_validate({"sandbox": "off", "privacy": {"allow_reproducible": True}})
    text = " ".join(s for each in sentences(policy, today=date(2026, 1, 1)) for s in each.sentences)
    assert "No job may run" in text
    assert "sandbox: off" in text
    assert "allow_reproducible" in text


def test_a_standing_rule_wants_a_signer(silo: Path, page: TestClient) -> None:
    digest = _digest(silo)
    approve(silo, digest, reason="once")
    answer = _send(
        page, f"/bundles/{digest}/decide", f"/bundles/{digest}", decision="always", reason="known"
    )
    assert answer.status_code == 303
    assert Decisions.load(silo).rules[0].package == "net"
