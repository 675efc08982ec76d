"""A data set is connected by one command, and its mapping is used once a person has confirmed."""

import json
import stat

import clinic
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid, ConsiloError, MappingInvalid, Refused, SourceUnreadable
from silos.commands.app import app
from silos.proposals import onboard
from silos.rows.mapping import Mapping
from silos.silo import Silo

SILO = """\
# our silo, kept by the registry team
name: north   # as the coordinator knows us

data:
  # the old system
  visits: {type: csv, path: visits.csv}   # until 2020
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A silo's directory with two tables and a contract, as the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "silo.yaml").write_text(SILO)
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    clinic.frame(40).to_csv("visits.csv", index=False)
    clinic.frame(30).rename(
        columns={"age": "patient_age", "smoker": "is_smoker", "ill": "ill_yn"}
    ).assign(
        is_smoker=lambda rows: rows.is_smoker.map({True: "yes", False: "no"}),
        ill_yn=lambda rows: rows.ill_yn.map({1: "J", 0: "N"}),
    ).to_csv("rows.csv", index=False, sep=";")
    return tmp_path


def run(*arguments, code=0):
    found = CliRunner().invoke(app, ["data", *arguments])
    if isinstance(found.exception, ConsiloError):
        raise found.exception
    assert found.exit_code == code, found.output
    return found.stdout


def test_from_a_file_to_a_checked_table(place):
    said = json.loads(run("add", "rows", "--csv", "rows.csv", "--contract", "clinic@1", "--json"))
    assert {each["column"]: each["from"] for each in said["proposed"]} == {
        "age": "patient_age", "smoker": "is_smoker", "ward": "ward", "ill": "ill_yn",
    }  # fmt: skip
    assert said["notes"] == ["fields are separated by ';'"]
    mapping = place / "mappings" / "clinic@1.yaml"
    assert stat.S_IMODE(mapping.stat().st_mode) == 0o600
    with pytest.raises(Refused, match="nobody there has confirmed"):
        Silo.open(place).rows.check(clinic.contract())
    run("confirm", "clinic@1")
    assert "# 0." in mapping.read_text()  # the reasons stay
    silo = Silo.open(place)
    assert silo.rows.dataset(clinic.contract()) == "rows"
    assert silo.rows.check(clinic.contract()).passed
    expected = clinic.frame(30)
    assert silo.rows.frame(clinic.contract())["ill"].tolist() == expected["ill"].tolist()
    assert silo.rows.frame(clinic.contract())["smoker"].tolist() == expected["smoker"].tolist()
    shown = json.loads(run("list", "--json"))["data"]
    assert shown[1] == {
        "data": "rows", "type": "csv", "mappings": [{"contract": "clinic@1", "confirmed": True}],
    }  # fmt: skip


def test_what_a_person_wrote_stays(place):
    run("add", "rows", "--csv", "rows.csv")
    text = (place / "silo.yaml").read_text()
    for line in SILO.splitlines():
        assert line in text
    assert yaml.safe_load(text)["data"]["rows"] == {
        "type": "csv", "path": "rows.csv", "separator": ";",
    }  # fmt: skip
    before = (place / "silo.yaml").stat()
    assert "was connected before" in run("add", "rows", "--csv", "rows.csv")
    assert (place / "silo.yaml").stat().st_ino == before.st_ino


def test_a_mapping_is_kept_unless_asked_for_anew(place):
    run("add", "rows", "--csv", "rows.csv", "--contract", "clinic@1")
    mapping = place / "mappings" / "clinic@1.yaml"
    mine = mapping.read_text() + "# mine\n"
    mapping.write_text(mine)
    run("add", "rows", "--contract", "clinic@1")
    assert mapping.read_text() == mine
    run("add", "rows", "--contract", "clinic@1", "--again")
    assert "# mine" not in mapping.read_text()


def test_another_source_does_not_slip_under_a_known_name(place):
    with pytest.raises(ConfigInvalid, match="'visits' is there, with another source"):
        run("add", "visits", "--csv", "rows.csv")
    assert (place / "silo.yaml").read_text() == SILO
    run("add", "visits", "--csv", "rows.csv", "--replace")
    assert onboard.known_data(place)["visits"]["path"] == "rows.csv"


def test_what_cannot_be_read_changes_nothing(place):
    with pytest.raises(SourceUnreadable, match=r"gone\.csv does not exist"):
        run("add", "other", "--csv", "gone.csv")
    with pytest.raises(ConfigInvalid, match="no data set 'other'; it has visits"):
        run("add", "other", "--contract", "clinic@1")
    assert (place / "silo.yaml").read_text() == SILO
    run("add", "other", "--csv", "a.csv", "--parquet", "b.parquet", code=2)
    run("add", code=2)


def test_a_mapping_that_cannot_work_is_not_confirmed(place):
    run("add", "rows", "--csv", "rows.csv", "--contract", "clinic@1")
    mapping = place / "mappings" / "clinic@1.yaml"
    good = mapping.read_text()
    mapping.write_text(good.replace("patient_age", "patients_age"))
    with pytest.raises(MappingInvalid, match="did you mean 'patient_age'"):
        run("confirm", "clinic@1")
    mapping.write_text(good.replace("data: rows", "data: others"))
    with pytest.raises(MappingInvalid, match="no data set 'others'"):
        run("confirm", "clinic@1")
    mapping.write_text(good)
    run("confirm", "clinic@1")
    run("confirm", "clinic@1")
    assert Mapping.load(mapping, clinic.contract()).confirmed


def test_a_silo_of_only_a_directory(tmp_path, monkeypatch):
    home = tmp_path / "South Clinic"
    home.mkdir()
    clinic.frame(30).to_parquet(home / "rows.parquet")
    source = {"type": "parquet", "path": "rows.parquet"}
    with pytest.raises(ConfigInvalid, match="'south-clinic' would do: say it with --silo NAME"):
        onboard.add(home, "rows", source)
    assert not (home / "silo.yaml").exists()
    assert onboard.known_data(home) == {}
    found = onboard.add(home, "rows", source, name="south-clinic")
    assert found.written
    assert onboard.silo_name(home) == "south-clinic"
    assert yaml.safe_load((home / "silo.yaml").read_text()) == {
        "name": "south-clinic", "data": {"rows": {"type": "parquet", "path": "rows.parquet"}},
    }  # fmt: skip
    assert stat.S_IMODE((home / "silo.yaml").stat().st_mode) == 0o600
    assert onboard.relative(str(home / "rows.parquet"), home) == "rows.parquet"
    assert onboard.relative("/somewhere/rows.csv", home) == "/somewhere/rows.csv"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a,b\n1,2\n", {}),
        ("a;b\n1,5;2,5\n", {"separator": ";"}),
        ("a\tb\n1\t2\n", {"separator": "\t"}),
        ("63.0,1.0,?\n67.0,1.0,4\n", {"header": False}),
        ("größe,alter\n180,30\n", {}),
        ("größe,alter\n180,30\n".encode("latin-1"), {"encoding": "latin-1"}),
        ("name,2019,2020,note\nx,1,2,y\n", {}),
    ],
)
def test_a_files_own_options_are_found_out(tmp_path, text, options):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "it.csv").write_bytes(data)
    made, notes = onboard.completed({"type": "csv", "path": "it.csv"}, tmp_path)
    assert {k: v for k, v in made.items() if k not in ("type", "path")} == options
    assert len(notes) == len(options)


def test_a_look_at_a_long_table_is_short(tmp_path):
    path = tmp_path / "long.csv"
    pd.DataFrame({"a": range(200_000), "b": "x"}).to_csv(path, index=False)
    from silos.proposals.propose import SAMPLE_ROWS
    from silos.rows.sources import CsvSource

    assert len(onboard.sample(CsvSource(path=path))) == SAMPLE_ROWS


def test_a_contract_agreed_to_by_its_file_is_found_by_its_name(tmp_path):
    text = "name: mine\nversion: 2\ncolumns:\n  a: {type: float}\n"
    elsewhere = tmp_path / "study" / "any_name.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(text)
    silo = tmp_path / "silo"
    silo.mkdir()
    kept = onboard.keep_contract(silo, elsewhere)
    assert kept == silo / "contracts" / "mine@2.yaml"
    found = Contract.load("mine@2", search=(silo,))
    assert found.digest == Contract.load(str(elsewhere)).digest
    assert onboard.keep_contract(silo, kept) == kept  # its own file stays as it is
    assert kept.read_text() == text
