"""A silo answers for the text of a contract that people there have confirmed, and no other."""

import clinic
import pytest
import yaml
from typer.testing import CliRunner

from consilo.errors import Refused
from consilo.kernel.headers import Header, Manifest
from consilo.protocols.names import find_protocol
from consilo.record import chain
from silos.commands.app import app
from silos.silo import Silo

REWRITTEN = clinic.CONTRACT.replace(
    "smoker: {type: boolean}", "smoker: {type: boolean, role: target}"
)
POLICY = {"allow": [{"jobs": ["*"]}], "disclosures": {"statistic": True}, "allow_unsigned": True}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "silo.yaml").write_text("name: north\ndata: {rows: {type: csv, path: rows.csv}}\n")
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    clinic.frame(40).to_csv("rows.csv", index=False)
    run("data", "add", "rows", "--contract", "clinic.yaml")
    run("data", "confirm", "clinic.yaml")
    return tmp_path


def run(*arguments):
    found = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert found.exit_code == 0, found.output


def ask(directory, text):
    job, contract = clinic.job(), clinic.contract(text)
    manifest = Manifest.of("r", job, contract, "")
    header = Header(
        "r", "0/0/check", "c", 0, "north", "contract_check", "check", ("north",), manifest
    )
    verb = find_protocol("contract_check").verbs()["check"]
    Silo.open(directory).gate.permit(header, job, contract, verb.asked)


def test_the_confirmed_text_is_answered_for(place):
    ask(place, clinic.CONTRACT)
    mapping = yaml.safe_load((place / "mappings" / "clinic@1.yaml").read_text())
    assert mapping["agreed"] == clinic.contract().digest
    assert mapping["confirmed"] is True


def test_a_contract_of_another_text_is_refused_and_logged(place):
    with pytest.raises(Refused, match="not the text that this silo has confirmed"):
        ask(place, REWRITTEN)
    last = chain.verify(place / "audit.jsonl")[-1]["body"]
    assert (last["decision"], last["code"]) == ("refused", "contract_changed")


def test_confirming_it_anew_takes_the_new_text_and_only_that(place):
    (place / "clinic.yaml").write_text(REWRITTEN)
    run("data", "confirm", "clinic.yaml")
    ask(place, REWRITTEN)
    with pytest.raises(Refused, match="not the text"):
        ask(place, clinic.CONTRACT)
    text = (place / "mappings" / "clinic@1.yaml").read_text()
    assert text.count("agreed:") == 1


@pytest.mark.parametrize("by_hand", ["contract: clinic@1\n", None], ids=["mapping", "none"])
def test_without_a_confirmed_text_the_first_use_asks_for_it(place, by_hand):
    """A mapping by hand, or none, took any text of the contract's name."""
    file = place / "mappings" / "clinic@1.yaml"
    file.unlink()
    if by_hand:
        file.write_text(by_hand)
    for text in (clinic.CONTRACT, REWRITTEN):
        with pytest.raises(Refused, match="consilo silo data confirm clinic@1"):
            ask(place, text)
    run("data", "confirm", "clinic.yaml")
    ask(place, clinic.CONTRACT)
    with pytest.raises(Refused, match="not the text"):
        ask(place, REWRITTEN)
