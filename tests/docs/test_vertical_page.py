"""What `docs/vertical.md` shows about columns is what the program takes."""

import re
from pathlib import Path

import yaml

from consilo.config import parse
from silos.metadata import Metadata

PAGE = (Path(__file__).parents[2] / "docs" / "vertical.md").read_text(encoding="utf-8")


def test_the_metadata_shown_is_valid_and_shares_what_it_says() -> None:
    (text,) = re.findall(r'```yaml title="metadata.yaml"\n(.*?)```', PAGE, re.DOTALL)
    said = parse(Metadata, yaml.safe_load(text), where="the page")
    assert [card.key for card in said.shared()] == [
        "patients/BD_SYS",
        "patients/SEX_CD",
        "patients/DIED",
    ]
