"""The ledger for people: tables, burn-down, and a signed file in which an auditor finds any lie."""

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from consilo.errors import ConfigInvalid, RecordTampered
from consilo.membership.keys import load_or_create_signing_key
from consilo.privacy.account import Charge, Limit
from consilo.privacy.accounting import adjacency, spent
from consilo.record.chain import START as NO_HEAD
from consilo.record.chain import check_links, linked
from consilo.wire.payload import canonical_json
from consilo.wire.signing import public_hex, sign
from silos.commands.app import app
from silos.commands.ledger import auditor_app
from silos.kept import statement
from silos.kept.budget import Budget
from silos.kept.ledger import Ledger

START = datetime(2027, 1, 1, tzinfo=UTC)
BUDGET = Budget(epsilon=3.0, delta=1e-5, window_days=100, total_epsilon=9.0)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NOW = (START + timedelta(days=120)).isoformat(timespec="seconds")


@pytest.fixture
def ledger(tmp_path):
    clock = [START]
    ledger = Ledger(tmp_path / "ledger.db", now=lambda: clock[0])
    for month, run in enumerate(("first", "second", "third")):
        for step in range(2):
            clock[0] = START + timedelta(days=40 * month, hours=step)
            name = f"{run}/{step}"
            charge = Charge(run, name, "m", "dp_sgd", 3.0 + month, 1.0, 1, 100 + month)
            ledger.reserve("data", charge)
            if name != "third/1":
                ledger.settle(name)
    ledger.reserve("other", Charge("first", "x", "m", "gaussian_sums", 2.0, 1.0, 1, 7))
    return ledger


@pytest.fixture
def exported(ledger, tmp_path):
    path = tmp_path / "ledger.jsonl"
    budgets = {"data": BUDGET}
    statement.export(path, ledger.entries(), silo="north", budgets=budgets, key=KEY, now=NOW)
    return path


def test_an_account_stands_as_its_entries_say(ledger):
    found = statement.standing(ledger.entries(), "data", BUDGET, at=NOW)
    assert (found["reserved"], found["settled"], found["runs"]) == (6, 5, 3)
    period, whole = found["limits"]
    assert period["spent"] == spent([(4.0, 1.0, 2), (5.0, 1.0, 2)], 1e-5).epsilon_prv
    assert whole["spent"] == spent([(3.0, 1.0, 2), (4.0, 1.0, 2), (5.0, 1.0, 2)], 1e-5).epsilon_prv
    assert period["left"] == 3.0 - period["spent"]
    assert whole["bound"] > whole["spent"]


def test_it_stands_as_the_ledger_itself_says(ledger):
    for name, budget in (("data", Budget(epsilon=3.0, delta=1e-5)), ("other", BUDGET)):
        mine = ledger.quote(name, [], budget).balances
        told = statement.standing(ledger.entries(), name, budget, at=NOW)["limits"]
        assert told[-1]["spent"] == pytest.approx(mine[-1].after)


def test_the_burn_down_goes_run_by_run(ledger):
    points = statement.burn_down(ledger.entries(), "data", Limit(3.0, 100), 1e-5)
    assert [each["run"] for each in points] == ["first", "second", "third"]
    assert [each["rows"] for each in points] == [100, 101, 102]
    assert [each["steps"] for each in points] == [2, 2, 2]
    first = spent([(3.0, 1.0, 2)], 1e-5).epsilon_rdp
    assert points[0]["spent"] == pytest.approx(first)
    assert points[0]["left"] == pytest.approx(3.0 - first)
    assert points[1]["left"] < points[0]["left"]


def test_an_exported_ledger_verifies_and_is_the_owners(exported, ledger):
    said = statement.verify(exported, public_hex(KEY))
    assert said == statement.verify(exported)
    assert (said["silo"], said["entries"]) == ("north", len(ledger.entries()))
    assert said["accounts"]["other"]["limits"] == []
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600


def test_it_says_what_its_epsilon_is_about(exported):
    content = statement.verify(exported)
    assert set(content["adjacency"]) == {"dp_sgd", "gaussian_sums"}
    assert "number of rows is released" in content["adjacency"]["dp_sgd"]
    assert "others" in adjacency("vertical_split")


def test_another_key_than_the_silos_is_noticed(exported):
    other = public_hex(Ed25519PrivateKey.generate())
    with pytest.raises(RecordTampered, match="signed with the key"):
        statement.verify(exported, other)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("place", range(0, 13, 3))
def test_any_line_that_is_removed_moved_or_edited_is_noticed(exported, place):
    lines = lines_of(exported)
    assert len(lines) == 13
    edited = lines[place].replace(b'"steps":1', b'"steps":2').replace(b'"silo":"n', b'"silo":"m')
    assert edited != lines[place]
    for forged in (
        [*lines[:place], *lines[place + 1 :]],
        [*lines[:place], edited, *lines[place + 1 :]],
        [*lines[place:], *lines[:place]] if place else lines[:-1],
    ):
        exported.write_bytes(b"".join(forged))
        with pytest.raises(RecordTampered):
            statement.verify(exported)


def forge(path, entries, change):
    """Write a file whose links and signature fit, by a silo that lies."""
    statement.export(path, entries, silo="north", budgets={"data": BUDGET}, key=KEY, now=NOW)
    *kept, closing = lines_of(path)
    said = json.loads(closing)["statement"]
    change(said)
    said["head"] = check_links(entries, "x")
    signed = {"statement": said, "signature": sign(KEY, "privacy ledger", said)}
    path.write_bytes(b"".join([*kept, canonical_json(signed) + b"\n"]))


def relinked(entries):
    made, head = [], NO_HEAD
    for seq, each in enumerate(entries):
        line, head = linked(seq, each["time"], each["kind"], each["body"], head)
        made.append(json.loads(line))
    return made


def test_a_silo_cannot_state_less_than_its_entries_cost(ledger, tmp_path):
    def less(said):
        said["accounts"]["data"]["limits"][0]["spent"] -= 0.01

    forge(tmp_path / "x", ledger.entries(), less)
    with pytest.raises(RecordTampered, match=r"'spent' is .* by the entries, the statement says"):
        statement.verify(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entries: entries[:1] + entries[:1] + entries[1:], "reserved before"),
        (lambda entries: entries[1:], "never reserved"),
        (lambda entries: entries[4:8] + entries[:4] + entries[8:], "before the line above"),
    ],
)
def test_a_chain_that_fits_but_makes_no_sense_is_refused(ledger, tmp_path, change, said):
    forge(tmp_path / "x", relinked(change(ledger.entries())), lambda said: None)
    with pytest.raises(RecordTampered, match=said):
        statement.verify(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"{}\n", b'{"statement":{}}\n', b"[]\n", b"\xff\n"])
def test_what_is_no_exported_ledger_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RecordTampered):
        statement.verify(tmp_path / "x")


# The commands.


@pytest.fixture
def silo(ledger, tmp_path):
    source = {"type": "csv", "path": "rows.csv"}
    (tmp_path / "silo.yaml").write_text(yaml.safe_dump({"name": "north", "data": {"data": source}}))
    policy = {"privacy": {"budgets": {"data": BUDGET.model_dump(mode="json")}}}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    return tmp_path


def call(*arguments, cli=app):
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def test_the_operator_sees_each_run_and_what_is_left(silo):
    shown = call("ledger", "--dir", silo)
    assert shown.exit_code == 0, shown.output
    for word in ("first", "second", "third", "within 100 days", "in all", "░", "no budget"):
        assert word in shown.stdout
    told = json.loads(call("ledger", "--dir", silo, "--json").stdout)
    assert list(told["accounts"]) == ["data", "other"]
    assert [each["run"] for each in told["accounts"]["data"]["runs"]] == [
        "first",
        "second",
        "third",
    ]
    assert told["accounts"]["other"]["runs"][0]["left"] is None


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_burn_down_is_drawn(silo, suffix, start):
    drawn = call("ledger", "--dir", silo, "--plot", silo / f"burn.{suffix}")
    assert drawn.exit_code == 0, drawn.output
    assert (silo / f"burn.{suffix}").read_bytes().startswith(start)


def test_another_kind_of_picture_is_refused(silo):
    assert isinstance(
        call("ledger", "--dir", silo, "--plot", silo / "burn.txt").exception, ConfigInvalid
    )


def test_export_and_verify_from_the_command_line(silo):
    key = public_hex(load_or_create_signing_key(silo / "signing.key"))
    file = silo / "out.jsonl"
    made = call("ledger", "export", file, "--dir", silo, "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["signing_key"] == key
    told = call("verify", file, "--key", key, "--json", cli=auditor_app)
    assert json.loads(told.stdout)["trusted"] is True
    assert "whole: 12 entries of north" in call("verify", file, cli=auditor_app).stdout
    other = call("verify", file, "--key", "00" * 32, cli=auditor_app)
    assert isinstance(other.exception, RecordTampered)


def test_a_silo_without_its_key_exports_nothing(silo):
    refused = call("ledger", "export", silo / "out.jsonl", "--dir", silo)
    assert isinstance(refused.exception, ConfigInvalid)
    assert not (silo / "signing.key").exists()


def test_an_empty_ledger_is_shown_and_not_made(tmp_path):
    assert isinstance(call("ledger", "--dir", tmp_path).exception, ConfigInvalid)
    (tmp_path / "silo.yaml").write_text("{}")
    shown = call("ledger", "--dir", tmp_path)
    assert "nothing was ever spent" in shown.stdout
    assert not (tmp_path / "ledger.db").exists()
