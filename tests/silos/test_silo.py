"""One silo over its directory: what is kept, for whom to read, and what it refuses."""

import stat

import clinic
import numpy as np
import pytest
import yaml
from clinic_silo import make

from consilo.errors import ConfigInvalid, MappingInvalid, PolicyInvalid, Refused, SchemaDrift
from consilo.kernel.roles import kept_number
from consilo.privacy.account import Charge
from consilo.wire.parcel import Parcel
from consilo.wire.piecewise import Parts
from silos.rows.check import page_of
from silos.rows.memory import LIMIT_MIB
from silos.silo import Silo, answerer


@pytest.fixture
def silo(tmp_path):
    return make(tmp_path / "north")


def test_the_canonical_rows_are_those_of_the_source(silo):
    assert silo.rows.check(clinic.contract()).passed
    found = silo.rows.frame(clinic.contract())
    expected = clinic.frame(30)
    np.testing.assert_allclose(found["age"], expected["age"])
    assert found["ward"].isna().tolist() == expected["ward"].isna().tolist()
    assert found["ill"].tolist() == expected["ill"].tolist()


def test_rows_that_break_the_contract_are_not_handed_out(tmp_path):
    silo = make(tmp_path / "north", clinic.frame(30).assign(age=500.0))
    report = silo.rows.check(clinic.contract())
    assert not report.passed
    for _ in range(2):
        with pytest.raises(SchemaDrift, match=r"breaks clinic@1: range \(age\)"):
            silo.rows.frame(clinic.contract())
    assert "500" not in report.to_json()


def test_mended_rows_are_read_again(tmp_path):
    path = tmp_path / "north"
    assert not make(path, clinic.frame(30).assign(age=500.0)).rows.check(clinic.contract()).passed
    assert make(path).rows.check(clinic.contract()).passed


def test_encoded_rows_are_kept_until_rows_or_mapping_change(silo, tmp_path):
    built = []

    def build():
        built.append(1)
        return {"x": np.arange(3.0), "y": np.ones(1, np.int64)}

    first = silo.rows.encoded(clinic.contract(), "key", build)
    again = Silo.open(silo.directory).rows.encoded(clinic.contract(), "key", build)
    assert len(built) == 1
    np.testing.assert_array_equal(again["x"], first["x"])
    assert isinstance(again["x"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again["x"][0] = 1
    silo.rows.encoded(clinic.contract(), "other", build)
    (silo.directory / "mapping.yaml").write_text("contract: clinic@1\nmissing: [-9]\n")
    silo.rows.encoded(clinic.contract(), "key", build)
    make(silo.directory, clinic.frame(31)).rows.encoded(clinic.contract(), "key", build)
    assert len(built) == 4


def test_what_is_kept_is_for_the_owner_only(silo):
    silo.rows.encoded(clinic.contract(), "key", lambda: {"x": np.ones(1)})
    silo.rows.frame(clinic.contract())
    for file in (silo.directory / "cache").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_few_encodings_are_kept(silo):
    for number in range(20):
        silo.rows.encoded(clinic.contract(), str(number), lambda: {"x": np.ones(1)})
    assert len(list((silo.directory / "cache" / "encoded").iterdir())) == 16


def test_a_mapping_to_another_contract_is_a_refusal(tmp_path):
    silo = make(tmp_path / "north", mapping={"contract": "heart@1"})
    with pytest.raises(Refused, match="no mapping to the contract clinic@1"):
        silo.rows.check(clinic.contract())


def test_a_faulty_mapping_is_named(tmp_path):
    silo = make(tmp_path / "north", mapping={"contract": "clinic@1", "column": {}})
    with pytest.raises(MappingInvalid, match="did you mean 'columns'"):
        silo.rows.check(clinic.contract())


@pytest.mark.parametrize(
    ("file", "text", "error", "why"),
    [
        ("silo.yaml", "name: North", ConfigInvalid, "2 faults"),
        ("silo.yaml", "nam: north\ndata: {rows: {type: csv, path: x}}", ConfigInvalid, "'name'"),
        ("silo.yaml", "name: n\nsource: {type: csv, path: x}", ConfigInvalid, "patients: {type"),
        ("silo.yaml", "name: n\ndata: {}", ConfigInvalid, "data"),
        ("policy.yaml", "alow: []", PolicyInvalid, "did you mean 'allow'"),
    ],
)
def test_a_faulty_file_is_named_with_every_fault(silo, file, text, error, why):
    (silo.directory / file).write_text(text)
    with pytest.raises(error, match=why):
        Silo.open(silo.directory)


def test_a_folder_without_a_silo_says_so(tmp_path):
    with pytest.raises(ConfigInvalid, match="does not exist"):
        answerer(tmp_path / "nowhere")


def test_answers_reservations_and_secrets_outlive_the_process(silo):
    silo.memory.remember("s", Parcel(b"h", b"b"))
    charge = Charge("run", "s", "m", "dp_sgd", 1.0, 0.5, 2, 10)
    silo.account.reserve("rows", charge, lambda history: None)
    secret = silo.secrets.secret("run")
    again = Silo.open(silo.directory)
    assert again.memory.remembered("s") == Parcel(b"h", b"b")
    assert again.account.reserve("rows", charge, lambda history: None) == [(1.0, 0.5, 2)]
    assert again.account.reserved("run") == [("dp_sgd", (1.0, 0.5, 2))]
    assert again.secrets.secret("run") == secret
    assert kept_number(again.numbers, "k", lambda: 2.0) == 2.0
    assert kept_number(silo.numbers, "k", lambda: 3.0) == 2.0
    silo.account.settle("s")
    assert [each["kind"] for each in again.account.ledger.entries()] == ["reserved", "settled"]


def test_a_silo_reads_a_source_with_more_columns_than_the_contract(tmp_path):
    rows = clinic.frame(30).assign(name="SENTINEL", extra=1)
    silo = make(tmp_path / "north", rows)
    assert list(silo.rows.frame(clinic.contract()).columns) == ["age", "smoker", "ward", "ill"]


def test_a_missing_source_is_told_to_people_here(silo):
    (silo.directory / "rows.csv").unlink()
    with pytest.raises(Exception, match=r"rows\.csv"):
        silo.rows.check(clinic.contract())


def two(path, mapping=None):
    silo = make(path, mapping=mapping)
    clinic.frame(20, seed=1).to_csv(path / "more.csv", index=False)
    config = {
        "name": "north",
        "data": {name: {"type": "csv", "path": f"{name}.csv"} for name in ("rows", "more")},
    }
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    return Silo.open(silo.directory)


@pytest.mark.parametrize(("name", "count"), [("rows", 30), ("more", 20)])
def test_of_several_data_sets_the_mapping_names_one(tmp_path, name, count):
    silo = two(tmp_path / "north", {"contract": "clinic@1", "data": name})
    assert silo.rows.dataset(clinic.contract()) == name
    assert len(silo.rows.frame(clinic.contract())) == count


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (None, "name the data set with 'data: NAME'; silo.yaml has more, rows"),
        ({"contract": "clinic@1"}, "name the data set with 'data: NAME'; silo.yaml has more, rows"),
        ({"contract": "clinic@1", "data": "row"}, "called 'row'; silo.yaml has more, rows"),
    ],
)
def test_a_mapping_that_leaves_the_data_set_open_is_told_the_names(tmp_path, mapping, said):
    silo = two(tmp_path / "north", mapping)
    with pytest.raises(MappingInvalid, match=said):
        silo.rows.dataset(clinic.contract())
    with pytest.raises(MappingInvalid, match=said):
        silo.rows.check(clinic.contract())


def test_the_encodings_of_two_data_sets_are_apart(tmp_path):
    silo = two(tmp_path / "north", {"contract": "clinic@1", "data": "rows"})
    silo.rows.encoded(clinic.contract(), "key", lambda: {"x": np.zeros(1)})
    (silo.directory / "mapping.yaml").write_text("contract: clinic@1\ndata: more\n")
    assert silo.rows.encoded(clinic.contract(), "key", lambda: {"x": np.ones(1)})["x"] == 1


def test_a_silo_with_one_data_set_needs_no_name_in_its_mapping(silo):
    assert silo.rows.dataset(clinic.contract()) == "rows"


def test_an_array_made_in_pieces_is_kept_as_the_whole_would_be(silo):
    whole = np.arange(30, dtype=np.float32).reshape(10, 3)
    made = Parts(whole.shape, whole.dtype, lambda: iter([whole[:4], whole[4:4], whole[4:]]))
    kept = silo.rows.encoded(clinic.contract(), "parts", lambda: {"x": made, "y": whole})
    np.testing.assert_array_equal(kept["x"], whole)
    assert isinstance(kept["x"], np.memmap)
    assert (kept["x"].dtype, kept["x"].flags.c_contiguous) == (whole.dtype, True)
    np.testing.assert_array_equal(np.asarray(made), whole)
    short = Parts((11, 3), whole.dtype, made.pieces)
    with pytest.raises(RuntimeError, match="10 rows where 11"):
        silo.rows.encoded(clinic.contract(), "short", lambda: {"x": short})


def test_a_table_that_does_not_fit_is_checked_in_blocks_and_the_page_says_how(
    silo, tmp_path, monkeypatch
):
    whole = silo.rows.check(clinic.contract())
    assert not (silo.directory / "gx").exists()  # nobody here has asked for a page
    assert silo.rows.page(clinic.contract()).suffix == ".html"
    monkeypatch.setenv(LIMIT_MIB, "0")
    rows = clinic.frame(30)
    tight = make(tmp_path / "tight", rows)
    assert tight.rows.check(clinic.contract()) == whole
    page = tight.rows.page(clinic.contract())
    assert page == page_of(tight.directory, clinic.contract())
    assert page == tight.directory / "gx" / "clinic_1.txt"
    assert page.stat().st_mode & 0o777 == 0o600
    said = page.read_text()
    assert said.startswith("keeps clinic@1")
    assert "Great Expectations did not check it" in said
    assert "counted over blocks" in said
    assert not (tight.directory / "gx" / "uncommitted").exists()
    np.testing.assert_array_equal(tight.rows.frame(clinic.contract())["age"], rows["age"])
