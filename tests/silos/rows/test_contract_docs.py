"""What docs/contracts.md shows works as it is written there."""

import re
from pathlib import Path

import pytest
import yaml

from consilo.contracts.contract import Contract
from silos.rows.mapping import Mapping
from silos.rows.sources import CsvSource, parse_source
from silos.silo_config import SiloConfig

DOCS = (Path(__file__).parents[3] / "docs" / "contracts.md").read_text(encoding="utf-8")
_FENCE = re.compile(r'```yaml(?: title="([^"]+)")?\n(.*?)```', re.DOTALL)
FILES = {name: text for name, text in _FENCE.findall(DOCS) if name}
BLOCKS = [yaml.safe_load(text) for _, text in _FENCE.findall(DOCS)]
SOURCES = [block for block in BLOCKS if "type" in block]
CONTRACTS = [block for block in BLOCKS if "version" in block]
MAPPINGS = [block for block in BLOCKS if isinstance(block.get("contract"), str)]


def contract_of(ref: str) -> Contract:
    shown = [Contract.parse(block, where="docs") for block in CONTRACTS]
    return next((each for each in shown if each.ref == ref), None) or Contract.load(ref)


def heart() -> tuple[CsvSource, Mapping, Contract]:
    (source,) = SiloConfig.model_validate(yaml.safe_load(FILES["silo.yaml"])).data.values()
    contract = Contract.load("heart@1")
    mapping = next(each for each in MAPPINGS if each["contract"] == "heart@1")
    return source, Mapping.parse(mapping, contract, where="docs"), contract


def test_every_block_is_of_a_kind_we_know():
    assert len(SOURCES) == 4
    assert len(CONTRACTS) == 1
    assert len(MAPPINGS) == 2
    assert set(FILES) == {"silo.yaml", "mapping.yaml", "policy.yaml"}
    assert len(BLOCKS) == 4 + 1 + 2 + 2


@pytest.mark.parametrize("block", SOURCES)
def test_the_sources_validate(block):
    parse_source(block, where="docs")


@pytest.mark.parametrize("block", MAPPINGS)
def test_the_mappings_fit_their_contracts(block):
    Mapping.parse(block, contract_of(block["contract"]), where="docs")


def test_the_heart_snippets_read_a_file_like_those_of_the_hospitals(tmp_path):
    source, mapping, contract = heart()
    row = "{},1,4,{},{},?,{},120,1,.7,1,?,?,{}\n"
    lines = [row.format(40 + n, 120, 0, n % 3, n % 5) for n in range(30)]
    (tmp_path / source.path[0]).write_text("".join([*lines, row.format(50, 0, 200, "?", 0)]))
    source = source.resolve(tmp_path)
    frame = mapping.apply(source.read(text=mapping.text_columns(contract)), contract)
    assert frame.attrs == {}
    assert frame["chol"].isna().sum() == 30
    assert frame["trestbps"].isna().tolist() == [False] * 30 + [True]
    assert frame["disease"].tolist() == [*(int(n % 5 > 0) for n in range(30)), 0]
    assert frame["restecg"].tolist()[:3] == ["0", "1", "2"]
