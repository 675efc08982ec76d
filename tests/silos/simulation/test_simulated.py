"""Silos cut from one table: the same run on every engine, and each silo's state its own."""

from __future__ import annotations

import json
from pathlib import Path

import clinic
import numpy as np
import pandas as pd
import pytest
import yaml

from consilo.contracts.report import CheckReport
from consilo.errors import ConfigInvalid, Refused, SchemaDrift
from consilo.horizontal.partition import Partition, cut
from consilo.kernel.headers import Header
from consilo.kernel.roles import SiloHost, kept_number
from consilo.privacy.account import Charge
from consilo.runs.outcome import RunResult
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack, unpack
from silos.simulation.simulated import SimulatedSilo, open_cut, write_cut
from silos.simulation.simulation import simulate, simulate_cut

ROWS = clinic.frame(120)
PARTITION = Partition(silos=4, rule="dirichlet", alpha=0.5, min_rows=10)


def _run(directory: Path, engine: str = "inline", **changes: object) -> RunResult:
    settings: dict[str, object] = {
        "contract": clinic.contract(),
        "directory": directory,
        "engine": engine,
        "workers": 2,
    }
    job = clinic.job(**changes)
    return simulate_cut(job, ROWS, PARTITION, **settings)  # type: ignore[arg-type]


def _models(directory: Path) -> list[str]:
    """The digest of the global model after every round, from the run record."""
    lines = (directory / "run" / "record.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [each["body"]["params"] for each in entries if each["kind"] == "round"]


def test_the_pool_gives_the_parameters_of_one_process(tmp_path: Path) -> None:
    inline, pool = (_run(tmp_path / engine, engine) for engine in ("inline", "processes"))
    assert inline.status == pool.status == "complete", (inline.reason, pool.reason)
    assert _models(tmp_path / "inline") == _models(tmp_path / "processes")
    assert inline.metrics == pool.metrics
    assert len(_models(tmp_path / "inline")) == 3


def test_simulated_silos_give_the_parameters_of_real_ones(tmp_path: Path) -> None:
    _run(tmp_path / "cut")
    labels = ROWS["ill"].astype(str).to_numpy(object)
    frames = {
        name: ROWS.iloc[rows].reset_index(drop=True)
        for name, rows in cut(labels, PARTITION).items()
    }
    simulate(clinic.job(), frames, contract=clinic.contract(), directory=tmp_path / "real")
    assert _models(tmp_path / "cut") == _models(tmp_path / "real")


def test_private_silos_spend_their_own_budget(tmp_path: Path) -> None:
    privacy = {"epsilon": 8.0, "delta": 1e-2, "accountant": "rdp"}
    result = _run(tmp_path / "one", "processes", privacy=privacy)
    assert result.status == "complete", result.reason
    spent = [each.epsilon for each in result.silos.values()]
    assert all(each is not None and 7.5 < each <= 8.0 for each in spent)
    _run(tmp_path / "two", privacy=privacy)
    assert _models(tmp_path / "one") != _models(tmp_path / "two")  # secrets are drawn anew
    reproducible = {**privacy, "reproducible": True}
    for place, engine in (("three", "inline"), ("four", "processes")):
        _run(tmp_path / place, engine, privacy=reproducible)
    assert _models(tmp_path / "three") == _models(tmp_path / "four")


def test_the_result_says_how_the_table_was_cut(tmp_path: Path) -> None:
    about = _run(tmp_path).to_json()["simulation"]
    assert about["silos"] == 4
    assert about["rows"] == 120
    assert about["silo_rounds"] == 12
    assert about["silo_rounds_per_s"] > 0
    assert 0.05 < about["label_skew"] < 0.6
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run"]


def test_a_table_that_breaks_the_contract_is_refused_before_it_is_cut(tmp_path: Path) -> None:
    rows = ROWS.assign(age=480.0)
    with pytest.raises(SchemaDrift, match="range") as caught:
        simulate_cut(clinic.job(), rows, PARTITION, contract=clinic.contract())
    assert "480" not in str(caught.value)


def test_rows_come_from_a_file_or_a_silos_directory(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    ROWS.to_parquet(tmp_path / "rows.parquet", index=False)
    source = {"type": "csv", "path": "../rows.csv"}
    (tmp_path / "silo").mkdir()
    (tmp_path / "silo" / "silo.yaml").write_text(
        yaml.safe_dump({"name": "whole", "data": {"rows": source}})
    )
    found = []
    for place in ("rows.csv", "rows.parquet", "silo"):
        out = tmp_path / f"out-{place}"
        simulate_cut(
            clinic.job(protocol={"rounds": 1}),
            tmp_path / place,
            PARTITION,
            contract=clinic.contract(),
            directory=out,
            engine="inline",
        )
        found.append(_models(out))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("column", ["ward", "site"])
def test_a_column_cuts_whether_or_not_the_contract_has_it(tmp_path: Path, column: str) -> None:
    rows = ROWS.assign(site=pd.Series(np.arange(120) % 4).map(lambda each: f"site {each}"))
    partition = Partition(silos=4, rule="column", column=column)
    result = simulate_cut(
        clinic.job(protocol={"rounds": 1}),
        rows,
        partition,
        contract=clinic.contract(),
        engine="inline",
    )
    kinds = rows[column].astype(object).where(rows[column].notna(), "missing").value_counts()
    kept = {name: each.num_examples for name, each in result.silos.items()}
    assert sorted(kept.values()) == pytest.approx(sorted(0.8 * kinds), abs=6)


def test_a_column_that_is_not_there_is_said(tmp_path: Path) -> None:
    partition = Partition(silos=2, rule="column", column="weather")
    with pytest.raises(ConfigInvalid, match="no column 'weather'"):
        simulate_cut(clinic.job(), ROWS, partition, contract=clinic.contract())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    contract = clinic.contract()
    report = CheckReport(
        contract=contract.ref, contract_digest=contract.digest, verdict="passed", findings=()
    )
    parts = {"silo-0": np.arange(0, 40, 2), "silo-1": np.arange(1, 40, 2)}
    frame = ROWS.iloc[:40]
    write_cut(tmp_path / "cut", frame, parts, contract=contract, report=report)
    return tmp_path / "cut"


def _host(place: Path, name: str) -> SimulatedSilo:
    answer = open_cut(str(place))(name)
    cells = [each.cell_contents for each in answer.__closure__ or ()]
    return next(each for each in cells if isinstance(each, SimulatedSilo))


def test_a_simulated_silo_sees_its_own_rows(place: Path) -> None:
    host: SiloHost = _host(place, "silo-1")
    frame = host.rows.frame(clinic.contract())
    assert frame["ill"].tolist() == ROWS["ill"].iloc[1:40:2].tolist()
    assert host.rows.check(clinic.contract()).passed
    other = clinic.contract(clinic.CONTRACT.replace("version: 1", "version: 2"))
    with pytest.raises(Refused):
        host.rows.frame(other)


def test_state_is_each_silos_own_and_outlives_its_process(place: Path) -> None:
    one, two, again = (_host(place, name) for name in ("silo-0", "silo-1", "silo-0"))
    assert one.secret("r") == again.secrets.secret("r")
    assert len({one.secret("r"), two.secret("r"), one.secret("s")}) == 3
    seen = []

    def reserve(host, step, mark="m"):
        charge = Charge("r", step, mark, "dp_sgd", 1.0, 0.5, 3, 10)
        return host.account.reserve("data", charge, lambda history: seen.append(len(history)))

    assert reserve(one, "a") == reserve(again, "a") == [(1.0, 0.5, 3)]
    assert reserve(again, "b") == [(1.0, 0.5, 3)] * 2
    assert reserve(one, "a") == [(1.0, 0.5, 3)]
    assert reserve(two, "c") == [(1.0, 0.5, 3)]
    assert reserve(one, "a", mark="other rows") == [(1.0, 0.5, 3)] * 3
    assert seen == [1, 2, 1, 3]
    assert one.reserved("r") == [("dp_sgd", (1.0, 0.5, 3))] * 3
    assert one.reserved("s") == []
    one.remember("a", Parcel(b"h", b"b"))
    assert again.memory.remembered("a") == Parcel(b"h", b"b")
    assert two.remembered("a") is None
    one.remember("b", Parcel(b"h", b"c"))
    assert again.memory.remembered("a") is None  # the newest only
    built: list[int] = []
    assert kept_number(one, "k", lambda: built.append(1) or 2.5) == 2.5
    assert kept_number(two, "k", lambda: built.append(1) or 3.5) == 2.5
    assert built == [1]


def test_encoded_rows_are_kept_per_silo_and_read_only(place: Path) -> None:
    arrays = {
        "features": np.arange(6, dtype=np.float32).reshape(3, 2),
        "empty": np.empty((0, 2), np.int64),
        "mark": np.arange(5, dtype=np.uint8),
    }
    for name in ("silo-0", "silo-1"):
        host = _host(place, name)
        made = host.rows.encoded(clinic.contract(), "k", lambda: arrays)
        kept = _host(place, name).encoded(
            clinic.contract(), "k", lambda: pytest.fail("was built twice")
        )
        for found in (made, kept):
            assert set(found) == set(arrays)
            for key, value in arrays.items():
                np.testing.assert_array_equal(found[key], value)
                assert found[key].dtype == value.dtype
        assert not kept["features"].flags.writeable
    assert len(list((place / "encoded").iterdir())) == 2


def test_a_question_asked_twice_gets_the_same_bytes(place: Path) -> None:
    job = clinic.job()
    body = pack({"job": job.to_json(), "contract": clinic.contract().to_json(), "payload": {}})
    header = Header("r", "0/0/check", digest(body), 0, "silo-0", "contract_check", "check", ())
    answer = open_cut(str(place))("silo-0")
    first = answer(Parcel(header.encode(), body))
    assert unpack(first.body)["report"]["verdict"] == "passed"
    assert open_cut(str(place))("silo-0")(Parcel(header.encode(), body)) == first
