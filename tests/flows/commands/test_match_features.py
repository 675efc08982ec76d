"""``consilo match features``, from what two silos released to their confirmed mappings."""

import json

import pytest
import two_silos
import yaml
from typer.testing import CliRunner

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid, Refused
from consilo.matching.columns.alignment import Alignment
from flows.commands.match import match_app
from silos.commands.app import app as silo_app
from silos.proposals.aligned import aligned_mapping
from silos.silo import Silo

pytestmark = pytest.mark.flow


def run(app, *arguments, code=0):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_from_released_words_to_a_contract_and_mappings_that_hold(tmp_path):
    folders = two_silos.make(tmp_path / "silos", num_rows=300)
    out = tmp_path / "alignment.yaml"
    base = ("--silos", tmp_path / "silos")
    told = json.loads(run(match_app, "features", "--between", "east", "west", *base,
                          "--out", out, "--json"))  # fmt: skip
    assert told["columns"]["age_y"]["west"]["chosen"] == "patients/age_years"
    assert told["labels"] == {"outcome": ["east", "west"]}
    with pytest.raises(Refused, match="nobody has confirmed"):
        run(match_app, "contract", out, "--name", "joint", *base)
    version = json.loads(run(match_app, "confirm", out, "--json"))["version"]
    assert version == Alignment.load(out).digest
    with pytest.raises(ConfigInvalid, match="it is confirmed"):
        run(match_app, "features", "--between", "east", "west", *base, "--out", out)
    made = json.loads(run(match_app, "contract", out, "--name", "joint", *base, "--json"))
    contract = Contract.load(made["file"])
    assert set(contract.columns) == {"age_y", "sex_cd", "bd_sys", "hgt_cm", "outcome"}
    assert "systolic" in contract.columns["bd_sys"].description
    assert contract.targets == ("outcome",)
    assert contract.columns["bd_sys"].range.max == 250
    assert contract.columns["age_y"].range is None, "one says years and one says nothing"
    for place in folders.values():
        run(silo_app, "data", "align", out, "--contract", made["file"], "--dir", place)
        run(silo_app, "data", "confirm", made["file"], "--dir", place)
        assert version in (place / "mappings" / "joint@1.yaml").read_text()
        silo = Silo.open(place)
        assert silo.rows.check(contract).passed
        assert len(silo.rows.frame(contract)) == 300


def test_the_alignments_version_is_what_was_agreed(tmp_path):
    text = "columns:\n  age:\n    east: p/AGE\n"
    one = Alignment.model_validate(yaml.safe_load(text))
    assert one.digest == one.model_copy(update={"confirmed": True}).digest
    other = Alignment.model_validate(yaml.safe_load(text.replace("AGE", "age")))
    assert one.digest != other.digest
    assert one.of("east") == {"p": {"age": "AGE"}}


def test_a_column_is_aligned_once():
    with pytest.raises(ValueError, match="p/AGE is age already"):
        Alignment.model_validate({"columns": {"age": {"east": "p/AGE"}, "old": {"east": "p/AGE"}}})


def test_an_alignment_is_of_no_use_before_a_person_confirmed_it(tmp_path):
    place = two_silos.make(tmp_path, num_rows=50)["east"]
    file = tmp_path / "a.yaml"
    file.write_text("contract: heart@1\ncolumns: {age: {east: patients/AGE_Y}}\n")
    with pytest.raises(Refused, match="nobody has confirmed"):
        aligned_mapping(place, file, Contract.load)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("{age: {east: patients/AGE}}", "no column 'AGE'; did you mean 'AGE_Y'"),
        ("{elder: {east: patients/AGE_Y}}", "heart@1 has no such column"),
        ("{age: {west: patients/AGE_Y}}", "for the silo 'east' it has nothing"),
        ("{age: {east: patients/AGE_Y}, sex: {east: others/SEX}}", "a mapping takes one"),
    ],
)
def test_what_does_not_fit_the_silo_is_said(tmp_path, columns, said):
    place = two_silos.make(tmp_path, num_rows=50)["east"]
    file = tmp_path / "a.yaml"
    file.write_text(f"confirmed: true\ncontract: heart@1\ncolumns: {columns}\n")
    with pytest.raises(ConfigInvalid, match=said):
        aligned_mapping(place, file, Contract.load)


def test_a_contract_that_changed_since_is_matched_again(tmp_path):
    place = two_silos.make(tmp_path, num_rows=50)["east"]
    file = tmp_path / "a.yaml"
    text = "confirmed: true\ncontract: heart@1\ncontract_digest: {}\ncolumns: {}\n"
    file.write_text(text.format("f" * 64, "{age: {east: patients/AGE_Y}}"))
    with pytest.raises(ConfigInvalid, match="has changed since"):
        aligned_mapping(place, file, Contract.load)


def test_an_unknown_silo_and_one_that_is_silent_are_named(tmp_path):
    folders = two_silos.make(tmp_path / "silos", num_rows=50)
    base = ("--silos", tmp_path / "silos", "--out", tmp_path / "a.yaml")
    with pytest.raises(ConfigInvalid, match="no silo is called 'north'"):
        run(match_app, "features", "--between", "east", "north", *base)
    (folders["west"] / "metadata.yaml").unlink()
    with pytest.raises(ConfigInvalid, match="west says nothing"):
        run(match_app, "features", "--between", "east", "west", *base)


def test_nothing_released_anywhere_is_exit_code_1(tmp_path):
    two_silos.make(tmp_path / "silos", num_rows=50, described=False)
    base = ("--silos", tmp_path / "silos", "--out", tmp_path / "a.yaml")
    run(match_app, "features", "--contract", "heart@1", *base, code=1)
    run(match_app, "features", *base, code=2)
