"""Consent in a real run in this process: what is trained on, cached, logged, refused."""

import json
from datetime import UTC, datetime, timedelta

import clinic
import numpy as np
import pandas as pd
import pytest
import yaml
from agreed import agree
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import ConfigInvalid, Refused, SchemaDrift
from consilo.kernel.loop import Party
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import Run
from consilo.transports.local import LocalTransport
from consilo.wire.signing import public_hex
from silos.rows.arrow import to_pandas
from silos.silo import Silo
from silos.simulation.in_memory import InMemorySilo, write_made_up_root

KEY = Ed25519PrivateKey.generate()
ROWS, CONSENTED = 80, 60
NOW = datetime(2026, 5, 1, tzinfo=UTC)
POLICY = """\
allow: [{jobs: ["*"], purposes: ["*"]}]
disclosures: {metric: yes, statistic: yes, update: yes}
min_cohort: 1
"""


def rows() -> pd.DataFrame:
    frame = clinic.frame(ROWS, missing=0.0)
    return frame.assign(pid=[f"p{n:03d}" for n in range(ROWS)])


def consents(count: int = CONSENTED, **columns) -> pd.DataFrame:
    table = {"pid": [f"p{n:03d}" for n in range(count)], "what": "study", "gone": None}
    return pd.DataFrame({**table, "until": None, **columns})


@pytest.fixture
def north(tmp_path):
    """A silo's directory, with consents in a table of its own."""
    place = tmp_path / "north"
    place.mkdir()
    rows().to_csv(place / "rows.csv", index=False)
    consents().to_csv(place / "consent.csv", index=False)
    spec = {
        "source": {"type": "csv", "path": "consent.csv"},
        "subject": "pid",
        "purpose": "what",
        "expires": "until",
        "withdrawn_at": "gone",
    }
    config = {
        "name": "north",
        "data": {"rows": {"type": "csv", "path": "rows.csv"}},
        "consent": {"rows": spec},
    }
    (place / "silo.yaml").write_text(yaml.safe_dump(config))
    (place / "policy.yaml").write_text(POLICY)
    agree(place, clinic.contract())
    write_made_up_root(place, "north")  # the same rows are held out in every test
    return place


def opened(place) -> Silo:
    silo = Silo.open(place, signing_keys=(public_hex(KEY),), partners={})
    silo.rows.now = lambda: NOW
    return silo


def started(silo, tmp_path, purpose="study") -> Run:
    """A run over the silo and one in memory, whose contract checks are done."""
    south = InMemorySilo("south", clinic.frame(40, 1))
    run = Run(
        clinic.job(purpose=purpose, features={"missing": "drop"}),
        clinic.contract(),
        LocalTransport({"north": answerer(silo), "south": answerer(south)}),
        silos=("north", "south"),
        directory=tmp_path / "run",
        run_id="r1",
        key=KEY,
        parties={"north": Party(silo.signing_key)},
    )
    for name in run.silos:
        run.check(name)
    return run


def run_over(silo, tmp_path) -> Run:
    run = started(silo, tmp_path)
    assert run.admit() == ("north", "south")
    run.standardize()
    return run


def cached_ages(place) -> set[float]:
    import pyarrow as pa

    ages: set[float] = set()
    for file in (place / "cache").glob("*/table.arrow"):
        with pa.memory_map(str(file)) as source:
            ages |= set(to_pandas(pa.ipc.open_file(source).read_all())["age"])
    return ages


def asked(place) -> list[dict]:
    lines = [json.loads(line) for line in (place / "audit.jsonl").read_text().splitlines()]
    return [each["body"] for each in lines if each["kind"] == "asked"]


def trained_on(run) -> int:
    return run.train_round()["silos"]["north"]["num_examples"]


def test_a_withdrawal_between_two_rounds_changes_what_is_trained_on(north, tmp_path):
    run = run_over(opened(north), tmp_path)
    first = trained_on(run)
    assert 0 < first < CONSENTED  # some are held out
    ages = rows()["age"]
    assert cached_ages(north) == set(ages[:CONSENTED])
    consents(gone=["2026-04-30"] * 20 + [None] * 40).to_csv(north / "consent.csv", index=False)
    second = trained_on(run)
    assert second == pytest.approx(first * 40 / 60, abs=4)
    assert cached_ages(north) == set(ages[20:CONSENTED])
    encoded = list((north / "cache" / "encoded").iterdir())
    sizes = {len(np.load(each / "train_targets.npy")) for each in encoded}
    assert second in sizes
    assert first not in sizes
    told = [each["consent"] for each in asked(north) if each["verb"] == "train"]
    others = {"expired": 0, "other_purpose": 0, "none": 20}
    assert told == [
        {"rows": 80, "consented": 60, "withdrawn": 0, **others},
        {"rows": 80, "consented": 40, "withdrawn": 20, **others},
    ]
    assert "p001" not in (north / "audit.jsonl").read_text()


def test_an_expiry_that_passes_during_a_run_counts_from_the_next_message(north, tmp_path):
    until = (NOW + timedelta(hours=1)).isoformat()
    consents(until=[until] * 30 + [None] * 30).to_csv(north / "consent.csv", index=False)
    silo = opened(north)
    run = run_over(silo, tmp_path)
    first = trained_on(run)
    silo.rows.now = lambda: NOW + timedelta(minutes=59)
    assert trained_on(run) == first
    silo.rows.now = lambda: NOW + timedelta(minutes=60)
    assert trained_on(run) == pytest.approx(first / 2, abs=4)
    assert cached_ages(north) == set(rows()["age"][30:CONSENTED])


def test_another_purpose_gets_no_row(north, tmp_path):
    silo = opened(north)
    run = started(silo, tmp_path, "marketing")
    assert run.admit() == ("south",)
    with pytest.raises(SchemaDrift, match="breaks clinic@1"):
        silo.rows.frame(clinic.contract(), purpose="marketing")
    with pytest.raises(SchemaDrift):
        silo.rows.frame(clinic.contract())
    assert len(silo.rows.frame(clinic.contract(), purpose="study")) == CONSENTED


def test_a_lost_consent_table_stops_the_silo_and_is_in_the_log(north, tmp_path):
    silo = opened(north)
    run = run_over(silo, tmp_path)
    (north / "consent.csv").unlink()
    report = run.train_round()
    assert set(report["silos"]) == {"south"}
    assert asked(north)[-1]["decision"] == "refused"
    assert asked(north)[-1]["code"] == "consent"
    with pytest.raises(Refused, match="no row may be used"):
        silo.rows.frame(clinic.contract(), purpose="study")


def test_too_few_rows_left_is_refused(north, tmp_path):
    (north / "policy.yaml").write_text(POLICY.replace("update: yes", "update: {min_rows: 45}"))
    run = run_over(opened(north), tmp_path)
    assert trained_on(run) > 0
    consents(gone=["2026-04-30"] * 20 + [None] * 40).to_csv(north / "consent.csv", index=False)
    assert set(run.train_round()["silos"]) == {"south"}
    assert asked(north)[-1]["decision"] == "refused"
    # What was made with the withdrawn rows is gone all the same.
    assert cached_ages(north) <= set(rows()["age"][20:CONSENTED])


def test_consents_for_a_data_set_that_is_not_there_are_a_mistake(north):
    text = (north / "silo.yaml").read_text()
    (north / "silo.yaml").write_text(text.replace("consent:\n  rows:", "consent:\n  row:"))
    with pytest.raises(ConfigInvalid, match="no data set is called 'row'; is it 'rows'"):
        Silo.open(north)
