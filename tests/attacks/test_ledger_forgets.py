"""The same rows under another name, in another directory, at another time: one account pays."""

import contextlib
import json
import shutil

import attacker
import clinic
import clinic_silo
import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from consilo.errors import BudgetExhausted, RecordTampered, Refused
from consilo.membership.keys import load_or_create_signing_key
from consilo.privacy.account import Charge
from consilo.record.chain import check_links, verify
from consilo.wire.payload import canonical_json
from consilo.wire.signing import public_hex, sign
from silos.commands.app import app
from silos.gate.policy import TEMPLATE
from silos.kept import statement
from silos.silo import Silo

POLICY = (
    clinic_silo.POLICY
    + "privacy:\n  budgets:\n    '*': {epsilon: 1.5, delta: 1.0e-5}\n"
    + "    strict: {epsilon: 0.7, delta: 1.0e-5}\n"
)
ROWS = 400


def charge(step, *, run="run", steps=1):
    """One of these costs ε 0.5, two 0.73."""
    return Charge(run, step, "m", "dp_sgd", 7.0, 1.0, steps, ROWS)


def table(seed=0, rows=ROWS):
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": draw.integers(20, 90, rows),
            "sex": draw.choice(["m", "f"], rows),
            "chol": draw.normal(220, 30, rows).round(0),
            "pressure": draw.normal(120, 20, rows).round(0),
            "weight": draw.normal(80, 10, rows).round(1),
            "day": pd.date_range("2020-01-01", periods=rows).strftime("%Y-%m-%d"),
        }
    )


def silo_with(path, **tables):
    """Return the silo in ``path`` with these data sets, kept if it is there."""
    path.mkdir(parents=True, exist_ok=True)
    data = {}
    for name, rows in tables.items():
        data[name] = rows
        if isinstance(rows, pd.DataFrame):
            rows.to_csv(path / f"{name}.csv", index=False)
            data[name] = {"type": "csv", "path": f"{name}.csv"}
    (path / "silo.yaml").write_text(yaml.safe_dump({"name": "north", "data": data}))
    (path / "policy.yaml").write_text(POLICY)
    return Silo.open(path)


def spend(silo, account, step="s", **changes):
    return silo.account.reserve(account, charge(step, **changes), lambda history: None)


def exhaust(silo, account):
    """Pay until nothing is left."""
    with contextlib.suppress(BudgetExhausted):
        for number in range(99):
            spend(silo, account, f"{account}/{number}")
        pytest.fail("there is no end of it")


SAME = {
    "as they are": lambda rows: rows,
    "shuffled": lambda rows: rows.sample(frac=1, random_state=1),
    "a part of them": lambda rows: rows[:60],
    "among ten times as many": lambda rows: pd.concat([table(9, 9 * ROWS), rows]),
    "other columns": lambda rows: rows[["weight", "chol", "age"]].assign(new=1),
    "another unit": lambda rows: rows.assign(chol=rows["chol"] * 0.02586),
    "two other units": lambda rows: rows.assign(
        chol=rows["chol"] * 0.02586, weight=(rows["weight"] * 2.2046).round(1)
    ),
    "every column renamed": lambda rows: rows.rename(columns=str.upper).add_suffix("_2"),
    "written otherwise": lambda rows: rows.assign(chol=rows["chol"].map("{:.2f} ".format)),
    "some rows changed": lambda rows: rows.assign(age=rows["age"].where(rows.index % 2 == 0, 50)),
}


@pytest.mark.parametrize("how", SAME)
@pytest.mark.parametrize("place", ["the same directory", "another directory"])
def test_the_same_rows_under_another_name_pay_from_one_account(tmp_path, how, place):
    rows, again = table(), SAME[how](table())
    if place == "the same directory":
        first = second = silo_with(tmp_path / "one", first=rows, second=again)
    else:
        first = silo_with(tmp_path / "one", first=rows)
        second = silo_with(tmp_path / "two", second=again)
    exhaust(first, "first")
    with pytest.raises(BudgetExhausted, match="cannot pay"):
        spend(second, "second")
    ties = second.account.ledger.ties()
    assert {each["body"]["why"] for each in ties["links"]} == {"rows"}
    check_links(ties["links"], "links")
    told = [e["body"] for e in verify(second.directory / "audit.jsonl") if e["kind"] == "linked"]
    assert [each["head"] for each in told] == [each["hash"] for each in ties["links"]]
    assert not [e for e in second.account.ledger.entries() if e["body"]["account"] == "second"]


@pytest.mark.parametrize("place", ["the same directory", "another directory"])
def test_other_rows_have_an_account_of_their_own(tmp_path, place):
    if place == "the same directory":
        first = second = silo_with(tmp_path / "one", first=table(0), second=table(1))
    else:
        first = silo_with(tmp_path / "one", first=table(0).drop(columns="day"))
        second = silo_with(tmp_path / "two", second=table(1).drop(columns="day"))
    exhaust(first, "first")
    spend(second, "second")
    assert second.account.ledger.ties() == {"links": [], "elsewhere": []}


def test_both_sides_of_a_link_pay_and_the_stricter_budget_holds(tmp_path):
    silo = silo_with(tmp_path, strict=table(), other=table()[::-1])
    spend(silo, "strict", "first")
    with pytest.raises(BudgetExhausted, match="'strict'"):
        spend(silo, "other")
    alone = silo_with(tmp_path / "alone", other=table(1))
    spend(alone, "other", "t")
    spend(alone, "other", "u")


def test_the_first_directory_learns_what_the_second_spent(tmp_path):
    first = silo_with(tmp_path / "one", rows=table())
    second = silo_with(tmp_path / "two", rows=table()[:200])
    spend(first, "rows", "a")
    exhaust(second, "rows")
    with pytest.raises(BudgetExhausted):
        spend(first, "rows", "b")


@pytest.mark.parametrize("lost", ["the directory", "its ledger", "the newest entries"])
def test_what_a_directory_forgot_still_counts(tmp_path, lost):
    silo = silo_with(tmp_path / "one", rows=table())
    spend(silo, "rows", "first")
    shutil.copy(tmp_path / "one" / "ledger.db", tmp_path / "backup.db")
    exhaust(silo, "rows")
    if lost == "the directory":
        shutil.rmtree(tmp_path / "one")
        silo = silo_with(tmp_path / "one", other=table())
        account = "other"
    else:
        account = "rows"
        (tmp_path / "one" / "ledger.db").unlink()
        if lost == "the newest entries":
            shutil.copy(tmp_path / "backup.db", tmp_path / "one" / "ledger.db")
        silo = Silo.open(silo.directory)
    with pytest.raises(BudgetExhausted):
        spend(silo, account, "again")


def test_links_go_on_to_third_parties_and_stay_when_rows_go(tmp_path):
    rows = table()
    silo = silo_with(tmp_path, one=rows[:200], two=rows[100:300], three=rows[200:])
    for name in ("one", "three", "two"):
        spend(silo, name, name)
    ledger = silo.account.ledger
    assert sorted(ledger.group("one")) == ["one", "three", "two"]
    assert ledger.quote("one", [], None).reserved == 1
    silo = silo_with(tmp_path, three=rows[200:])
    exhaust(silo, "three")
    silo = silo_with(tmp_path, one=rows[:200])
    with pytest.raises(BudgetExhausted):
        spend(silo, "one", "again")


def test_rows_that_change_are_compared_again(tmp_path):
    silo = silo_with(tmp_path, first=table(0), second=table(1))
    exhaust(silo, "first")
    spend(silo, "second", "a")
    silo = silo_with(tmp_path, first=table(0), second=table(0))
    with pytest.raises(BudgetExhausted):
        spend(silo, "second", "b")


def test_the_same_file_is_the_same_data_whatever_is_read_of_it(tmp_path):
    silo_with(tmp_path, rows=table())
    file = {"type": "csv", "path": "rows.csv"}
    silo = silo_with(tmp_path, one=file, two={**file, "path": "../" + tmp_path.name + "/rows.csv"})
    exhaust(silo, "one")
    with pytest.raises(BudgetExhausted):
        spend(silo, "two")
    assert silo.account.ledger.ties()["links"][0]["body"]["why"] == "source"


def test_what_cannot_be_compared_is_taken_for_the_same_until_people_say_otherwise(tmp_path):
    silo = silo_with(tmp_path, first=table(0), second=table(1)[["age", "sex"]])
    exhaust(silo, "first")
    with pytest.raises(BudgetExhausted):
        spend(silo, "second")
    ledger = silo.account.ledger
    assert [each["body"]["why"] for each in ledger.ties()["links"]] == ["unknown"]
    ledger.part("second", "first", "another clinic's")
    spend(silo, "second")
    assert [each["kind"] for each in ledger.ties()["links"]] == ["linked", "apart"]
    silo = silo_with(tmp_path, first=table(0), second=table(0))
    with pytest.raises(BudgetExhausted):
        spend(silo, "second", "more")
    with pytest.raises(Refused, match="this link stays"):
        ledger.part("first", "second", "please")


def test_an_account_whose_rows_are_gone_before_they_were_known_counts(tmp_path):
    """As a ledger of an earlier release has it: entries, and no sketch."""
    silo = silo_with(tmp_path, first=table(0))
    for number in range(99):
        silo.account.ledger.reserve("first", charge(str(number)))
    silo = silo_with(tmp_path, second=table(1))
    with pytest.raises(BudgetExhausted):
        spend(silo, "second")
    assert [e["body"]["why"] for e in silo.account.ledger.ties()["links"]] == ["unknown"]


def test_a_run_repeated_under_another_name_pays_again(tmp_path):
    silo = silo_with(tmp_path, rows=table())
    assert len(spend(silo, "rows", "a", run="one")) == 1
    assert len(spend(silo, "rows", "b", run="two")) == 1
    (entry, other) = silo.account.ledger.entries()
    assert entry["body"]["run_id"] != other["body"]["run_id"]
    exhaust(silo, "rows")
    with pytest.raises(BudgetExhausted):
        spend(silo, "rows", "c", run="three")


def test_where_nothing_can_be_kept_nothing_is_spent(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONSILO_STATE", str(tmp_path / "file"))
    silo = silo_with(tmp_path / "one", rows=table())
    with pytest.raises(Refused, match="set CONSILO_STATE"):
        spend(silo, "rows")
    assert not silo.account.ledger.entries()


def test_what_is_kept_has_no_name_and_no_value_and_nobody_else_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSILO_STATE", str(tmp_path / "state"))
    rows = table().assign(surname=[f"Surname-{number}" for number in range(ROWS)])
    spend(silo_with(tmp_path / "one", patients=rows), "patients")
    for path in (tmp_path / "state").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        content = path.read_bytes()
        assert not [word for word in (b"Surname", b"patients", b"weight") if word in content]
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_people_and_auditors_see_what_is_linked_and_what_it_cost(tmp_path):
    first = silo_with(tmp_path / "one", rows=table())
    spend(first, "rows", "a")
    silo = silo_with(tmp_path / "two", mine=table()[::2], other=table(5)[["age", "sex"]])
    spend(silo, "mine", "b")
    exhaust(silo, "other")
    home = ["--dir", str(silo.directory)]
    told = json.loads(CliRunner().invoke(app, ["ledger", "--json", *home]).stdout)
    assert {each["why"] for each in told["links"]} == {"rows", "unknown"}
    mine = told["accounts"]["mine"]
    assert len(mine["linked"]) == 2
    budget = silo.policy.privacy.budgets["*"]
    (balance,) = silo.account.ledger.quote("mine", [], budget).balances
    assert mine["limits"][0]["spent"] == pytest.approx(balance.before)
    assert mine["limits"][0]["spent"] > mine["runs"][0]["spent"] > 0
    shown = CliRunner().invoke(app, ["ledger", *home]).stdout
    assert "hold the same rows" in shown
    assert "could not be compared" in shown
    key = load_or_create_signing_key(silo.directory / "signing.key")
    file = tmp_path / "ledger.jsonl"
    assert CliRunner().invoke(app, ["ledger", "export", str(file), *home]).exit_code == 0
    said = statement.verify(file, public_hex(key))
    assert said["accounts"]["mine"]["limits"] == mine["limits"]
    *lines, closing = file.read_bytes().splitlines()
    closing = json.loads(closing)
    closing["statement"]["ties"]["elsewhere"] = []
    closing["signature"] = sign(key, "privacy ledger", closing["statement"])
    file.write_bytes(b"\n".join([*lines, canonical_json(closing)]) + b"\n")
    with pytest.raises(RecordTampered, match=r"'mine'.*'spent'"):
        statement.verify(file)


def test_only_what_was_not_compared_can_be_set_apart_and_it_is_written_down(tmp_path):
    silo = silo_with(
        tmp_path, first=table(0), second=table(1)[["age", "sex"]], third=table(0)[::-1]
    )
    spend(silo, "first", "a")
    with contextlib.suppress(BudgetExhausted):
        for name in ("second", "third"):
            spend(silo, name, name)
    run, home = CliRunner().invoke, ["--dir", str(tmp_path), "--reason", "asked both wards"]
    assert run(app, ["ledger", "apart", "first", "third", *home]).exit_code != 0
    assert run(app, ["ledger", "apart", "first", "second", "--dir", str(tmp_path)]).exit_code != 0
    done = run(app, ["ledger", "apart", "first", "second", *home])
    assert done.exit_code == 0
    (line,) = [e["body"] for e in verify(tmp_path / "audit.jsonl") if e["kind"] == "apart"]
    assert line["why"] == "asked both wards"
    assert silo.account.ledger.ties()["links"][-1]["hash"] == line["head"]


def test_a_ledger_that_lost_its_links_stops_the_silo(tmp_path):
    silo = silo_with(tmp_path, first=table(0), second=table(0))
    spend(silo, "first", "a")
    shutil.copy(tmp_path / "ledger.db", tmp_path / "backup.db")
    spend(silo, "second", "b")
    shutil.copy(tmp_path / "backup.db", tmp_path / "ledger.db")
    silo = Silo.open(tmp_path)
    with pytest.raises(Refused, match="silo ledger accept"):
        silo.history.recognise(None)
    assert silo.history.accept()
    silo.history.recognise(None)


def test_a_ledger_that_was_lost_is_found_out_whatever_a_run_begins_with(tmp_path, monkeypatch):
    """A coordinator that sends job and contract with each request asks no first question."""
    job = clinic.job(features={"standardize": "none"}, privacy={"epsilon": 1.0, "delta": 1e-3})

    def ask(run):
        monkeypatch.setenv("CONSILO_STATE", str(tmp_path / run))  # that was lost, too
        silo = attacker.make(tmp_path / "silo", TEMPLATE)
        asked = (silo, "fedavg", "train", attacker.model(job), job)
        return attacker.ask(*asked, run=run, attest=True)[0], silo

    first, silo = ask("one")
    assert first.status == "ok", first.reason
    assert attacker.reserved(silo) == 1
    for each in (tmp_path / "silo").glob("ledger.db*"):
        each.unlink()
    for run in ("two", "three"):
        header, silo = ask(run)
        assert header.status == "fault"
        assert "silo ledger accept" in header.reason
        assert attacker.reserved(silo) == 0
    assert silo.history.accept()["what"] == "ledger"
    assert ask("four")[0].status == "ok"


@pytest.mark.parametrize("before", ["a question that spends nothing", "an end"])
@pytest.mark.parametrize("kept", [False, True], ids=["lost", "older"])
def test_nothing_that_a_coordinator_does_first_hides_that_a_ledger_was_lost(
    tmp_path, monkeypatch, before, kept
):
    """The hash of the ledger that there was then would have stood in the log as the newest."""
    job = clinic.job(features={"standardize": "none"}, privacy={"epsilon": 1.0, "delta": 1e-3})

    def ask(run, asked=job):
        monkeypatch.setenv("CONSILO_STATE", str(tmp_path / run))
        silo = attacker.make(tmp_path / "silo", TEMPLATE)
        asking = (silo, "fedavg", "train", attacker.model(asked), asked)
        return attacker.ask(*asking, run=run, attest=True)[0], silo

    ledger = tmp_path / "silo" / "ledger.db"
    assert ask("one")[0].status == "ok"
    older = ledger.read_bytes()
    assert ask("two")[0].status == "ok"
    for each in ledger.parent.glob("ledger.db*"):
        each.unlink()
    if kept:
        ledger.write_bytes(older)
    if before == "an end":
        attacker.make(tmp_path / "silo", TEMPLATE).gate.conclude("two")
    else:
        without = job.changed(privacy=None)
        assert ask("three", without)[0].status == "ok"
    header, _ = ask("four")
    assert header.status == "fault"
    assert "silo ledger accept" in header.reason
