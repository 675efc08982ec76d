"""One name for the state of rows: what is kept of them lapses when anything of it changes."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import clinic
import numpy as np
import pytest
import yaml

from consilo.contract import Contract
from silos import rows_key
from silos.mapping import Mapping
from silos.rows_key import RawRows, RowsKey
from silos.silo import Silo

NOW = datetime(2024, 5, 31, 23, 30, tzinfo=UTC)
KEY = RowsKey(RawRows("rows", "consents"), "contract", "mapping", "2024-05-31", 2)


@pytest.mark.parametrize("field", [each.name for each in fields(RowsKey)])
def test_every_part_of_the_state_is_in_its_digest(field):
    other = {"raw": RawRows("rows", "others"), "rules": 3}.get(field, "other")
    assert replace(KEY, **{field: other}).digest != KEY.digest


def test_raw_rows_are_named_by_their_content_and_by_who_may_be_used():
    named = {RawRows(*each).digest for each in [("a", None), ("b", None), ("a", "c"), ("a", "d")]}
    assert len(named) == 4


def test_the_digests_are_those_of_the_releases_before():
    """Canonical tables and matches that are on a silo's disk stay usable."""
    assert KEY.digest == "6f20239d36b610e62a033b6b1653f6348f6fb4217b10f2216b9dbd20c43467dd"
    assert (
        RawRows("rows").digest == "adf5d0a66be805562716f447eba7b26fb55627e0894cc6cf21be593184f3910c"
    )


def test_the_day_counts_where_the_contract_looks_at_it():
    columns = {"visited": {"type": "date", "future": False}}
    dated = Contract.parse({"name": "visits", "version": 1, "columns": columns}, where="c")
    for contract, day in ((dated, "2024-05-31"), (clinic.contract(), None)):
        assert RowsKey.of(KEY.raw, Mapping(contract=contract.ref), contract, now=NOW).day == day


@pytest.fixture
def silo(tmp_path: Path) -> Silo:
    clinic.frame(30).to_csv(tmp_path / "rows.csv", index=False)
    config = {"name": "north", "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (tmp_path / "silo.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "policy.yaml").write_text("allow: [{jobs: ['*']}]\ndisclosures: {statistic: yes}\n")
    return Silo.open(tmp_path)


def test_other_rules_move_the_data_and_the_training_data_alike(silo, monkeypatch):
    # Encoded rows had a name of their own without the rules' version: a model went on with stale
    # ones where the contract, or the silo itself, says the scale.
    built: list[int] = []

    def kept() -> tuple[set[str], int]:
        def build() -> dict[str, np.ndarray]:
            built.append(len(built))
            return {"x": np.ones(1)}

        silo.frame(clinic.contract())
        silo.encoded(clinic.contract(), "key", build)
        cache = silo.directory / "cache"
        return {each.parent.name for each in cache.glob("*/table.arrow")}, len(built)

    before = kept()
    assert kept() == before
    monkeypatch.setattr(rows_key, "RULES_VERSION", rows_key.RULES_VERSION + 1)
    after = kept()
    assert after[0].isdisjoint(before[0])
    assert after[1] == before[1] + 1
