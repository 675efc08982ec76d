"""What people agreed on: which column of which silo is which column of a contract.

```yaml
confirmed: false             # true: a person has read every line
contract: heart@1            # left out where two silos have no contract yet
columns:
  age:
    east: patients/AGE_Y     # DATA/COLUMN; delete a line that is wrong, or put the right one
    west: visits/age
```

Its version is its digest: another line is another alignment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StrictBool, model_validator

from consilo.config import Config, parse, read_yaml
from consilo.contracts.contract import Contract
from consilo.contracts.rules import Name
from consilo.errors import ConfigInvalid, Refused
from consilo.machine.files import write_atomic
from consilo.matching.columns.cards import Card
from consilo.matching.columns.score import Proposed
from consilo.wire.payload import digest
from consilo.yaml_text import to_yaml_line

_UNCONFIRMED = re.compile(r"^confirmed:[ \t]*(?:false|no|off)\b", re.MULTILINE | re.IGNORECASE)
_SHOWN = 3


class Alignment(Config):
    """A proposal of correspondences, or what a person made of it.

    Args:
        confirmed: whether a person has read it; it is of no use before.
        contract: the reference of the contract; None where the columns are to become one.
        contract_digest: of the contract that was looked at.
        columns: name in the contract → silo → ``DATA/COLUMN``.
    """

    confirmed: StrictBool = False
    contract: str | None = None
    contract_digest: str | None = None
    columns: dict[Name, dict[str, Annotated[str, Field(pattern=r"^[^/]+/.+$")]]]

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        taken: dict[tuple[str, str], str] = {}
        faults = []
        for name, silos in self.columns.items():
            for silo, key in silos.items():
                other = taken.setdefault((silo, key), name)
                if other != name:
                    faults.append(f"columns.{name}.{silo}: {key} is {other} already")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @classmethod
    def load(cls, path: Path) -> Alignment:
        """Return the alignment of a YAML file.

        Raises:
            ConfigInvalid: with one finding per fault.
        """
        return parse(cls, read_yaml(path), where=str(path))

    @property
    def digest(self) -> str:
        """SHA-256 of what was agreed, in hexadecimal: the alignment's version."""
        value = self.model_dump(mode="json", exclude={"confirmed"})
        value["columns"] = {name: silos for name, silos in value["columns"].items() if silos}
        return digest(value)

    def require_confirmed(self, where: str) -> None:
        """Raise `Refused` unless a person has confirmed it."""
        if not self.confirmed:
            raise Refused(
                f"{where} is a proposal that nobody has confirmed; read it, then: "
                f"consilo match confirm {where}",
                code="mapping",
            )

    def of(self, silo: str) -> dict[str, dict[str, str]]:
        """Return one silo's part: data set → column of the contract → local column."""
        by_data: dict[str, dict[str, str]] = {}
        for name, silos in self.columns.items():
            if silo in silos:
                data, _, local = silos[silo].partition("/")
                by_data.setdefault(data, {})[name] = local
        return by_data


def confirm(path: Path) -> Alignment:
    """Mark an alignment as read by a person; return it.

    Raises:
        ConfigInvalid: where it is not valid, or has no line ``confirmed: false``.
    """
    alignment = Alignment.load(path)
    if alignment.confirmed:
        return alignment
    text, count = _UNCONFIRMED.subn("confirmed: true", path.read_text(encoding="utf-8"))
    if count != 1:
        raise ConfigInvalid(str(path), ["set 'confirmed: true' by hand; it has no such line"])
    write_atomic(path, text.encode(), mode=0o644)
    return Alignment.load(path)


def to_yaml(
    names: Sequence[str],
    proposals: Mapping[str, Mapping[str, Proposed]],
    contract: Contract | None = None,
) -> str:
    """Return the file for a person to confirm: what was chosen, with scores and rivals beside it.

    Args:
        names: of the columns of the contract, or of what may become one.
        proposals: silo → column's name → what was proposed for it.
        contract: what the columns are those of; None where there is none yet.
    """
    lines = [
        "# Proposed from what the silos say about their columns. Read every line: delete what is",
        "# wrong, or put one of the other candidates. Nothing is used before 'confirmed: true'.",
        "confirmed: false",
    ]
    if contract is not None:
        lines += [f"contract: {contract.ref}", f"contract_digest: {to_yaml_line(contract.digest)}"]
    lines.append("columns:" if names else "columns: {}")
    for name in names:
        part = {silo: columns[name] for silo, columns in proposals.items() if name in columns}
        chosen = {silo: each.chosen for silo, each in part.items() if each.chosen is not None}
        lines.append(f"  {name}:" if chosen else f"  {name}: {{}}")
        for silo, each in part.items():
            scores = {candidate.key: candidate.score for candidate in each.candidates}
            others = [key for key in scores if key != each.chosen][:_SHOWN]
            rivals = ", ".join(f"{key} {scores[key]:.2f}" for key in others)
            remark = f"else {rivals}" if rivals else "no other candidate"
            if each.chosen is None:
                lines.append(f"    # {silo}: none was chosen; {remark}")
            else:
                score = scores.get(each.chosen)
                why = "" if score is None else f"  # {score:.2f}; {remark}"
                lines.append(f"    {silo}: {to_yaml_line(each.chosen)}{why}")
    return "\n".join(lines) + "\n"


def contract_of(
    alignment: Alignment,
    cards: Mapping[str, Mapping[str, Card]],
    *,
    name: str,
    version: int = 1,
) -> Contract:
    """Return the contract that a confirmed alignment of silos amounts to.

    Types that differ become the wider one, ranges the span of both, and codes those of the first
    silo with what the others have besides; units and descriptions are the first silo's that says
    any. Nothing is known of missing values, so that all of them may be missing: tighten it by hand.

    Args:
        alignment: with two silos or more to a column; other columns are left out.
        cards: silo → key → what it says.
        name: of the contract.
        version: of the contract.

    Raises:
        ContractInvalid: where the result is no contract.
        ConfigInvalid: where no column has two silos, or a silo has not released one.
    """
    columns: dict[str, Any] = {}
    faults = []
    for column, silos in alignment.columns.items():
        absent = [f"{s}/{k}" for s, k in silos.items() if k not in cards.get(s, {})]
        faults += [f"columns.{column}: {each} is not released" for each in absent]
        if not absent and len(silos) >= 2:
            columns[column] = _agreed([cards[silo][key] for silo, key in sorted(silos.items())])
    if not columns and not faults:
        faults = ["columns: none of them is in two silos"]
    if faults:
        raise ConfigInvalid("the alignment", faults)
    description = f"Agreed by alignment {alignment.digest[:12]}."
    value = {"name": name, "version": version, "description": description, "columns": columns}
    return Contract.parse(value, where=f"the contract {name}@{version}")


def column_name(card: Card) -> str:
    """Return a card's name as a contract writes it: small letters, digits and ``_``."""
    plain = re.sub(r"[^a-z0-9]+", "_", str(card.name).lower()).strip("_")
    return (plain if plain[:1].isalpha() else f"c_{plain}")[:64].rstrip("_") or "column"


def _agreed(cards: Sequence[Card]) -> dict[str, Any]:
    types = {card.type for card in cards if card.type is not None}
    wide = (
        types.pop() if len(types) == 1 else "float" if types == {"float", "integer"} else "string"
    )
    numeric = wide in ("float", "integer")
    column: dict[str, Any] = {"type": wide, "nullable_share": 1.0}
    for key in ("description", "unit"):
        first = next((value for card in cards if (value := getattr(card, key))), None)
        if first and (key != "unit" or numeric):
            column[key] = first
    spans = [card.range for card in cards if card.range is not None]
    if numeric and len(spans) == len(cards) and len({card.unit for card in cards}) == 1:
        column["range"] = {"min": min(s.min for s in spans), "max": max(s.max for s in spans)}
    if wide == "category" and all(card.codes for card in cards):
        known: dict[str, str] = {}
        for code in (code for card in cards for code in card.codes):
            known.setdefault(code.lower(), code)
        column["allowed"] = list(known.values())
    if any(card.label for card in cards):
        column["role"] = "target"
    return column
