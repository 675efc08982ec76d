"""What a silo's people do once they have read a contract: `consilo silo data confirm`."""

from __future__ import annotations

from pathlib import Path

import yaml

from consilo.contracts.contract import Contract
from silos.rows.mapping import mapping_file


def agree(place: Path, contract: Contract) -> None:
    """Note in a silo's mapping, made where there is none, which text of a contract is confirmed."""
    file = mapping_file(place, contract.ref)
    said = {} if file is None else yaml.safe_load(file.read_text())
    if file is None or said.get("contract") != contract.ref:
        file, said = place / "mappings" / f"{contract.ref}.yaml", {"contract": contract.ref}
        file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({**said, "agreed": contract.digest}))
