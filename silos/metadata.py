"""What a silo says about its columns: ``metadata.yaml``, drafted from the rows, released by hand.

```yaml
data:
  patients:
    BD_SYS:
      share: false               # true: this entry may leave, as it stands here
      type: integer
      unit: mmHg
      description: systolic blood pressure at admission
      range: {min: 50, max: 260} # declared by you; a histogram is counted within it
    SEX_CD:
      share: false
      type: category
      codes: [F, M]
```

The file may show codes of the rows: it stays in the silo. Only entries with ``share: true`` leave,
and only where the policy lets ``metadata`` leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, StrictBool, StrictStr, ValidationError

from consilo.config import Config, parse, read_yaml
from consilo.contract_rules import ColumnType
from consilo.correspondence.cards import MAX_CODES, Card, Span
from consilo.errors import ConfigInvalid
from consilo.files import write_atomic
from silos.profile import Profile, profile
from silos.quantities import unit_in_name

if TYPE_CHECKING:
    import pandas as pd

FILE = "metadata.yaml"
CODE_ROWS = 5
"""A draft lists a code only where this many rows hold it: a rare one may be a person."""
MOST_CODES = 60
"""More distinct texts than this are free text, and none of them is drafted."""
_SURE = 0.95
_YES_NO = frozenset({"yes", "no", "true", "false", "y", "n", "ja", "nein", "oui", "non"})
_HEAD = """\
# What this silo says about its columns. Nothing of this file leaves unless you set
# 'share: true' on a column; then the other silos and the coordinator may read that entry, word for
# word. Mend names of units, write descriptions, take codes out that nobody else should read, and
# declare a range for numbers (from what you know of the measurement, not from these rows).
"""


class Described(Config):
    """What the owner says about one column.

    Args:
        share: whether this entry may leave; only a person sets it.
        type: what the column holds.
        unit: in pint's words.
        description: one sentence or two.
        synonyms: other names.
        codes: the values that it may take.
        range: where its values lie, as the owner declares it.
        label: whether a model may learn to predict it.
    """

    share: StrictBool = False
    type: ColumnType | None = None
    unit: StrictStr | None = None
    description: StrictStr = ""
    synonyms: tuple[StrictStr, ...] = ()
    codes: tuple[StrictStr | StrictBool | int | float, ...] = Field(
        default=(), max_length=MAX_CODES
    )
    range: Span | None = None
    label: StrictBool = False

    def card(self, data: str, name: str) -> Card:
        """Return what leaves.

        Raises:
            ValidationError: where a text is too long, or is not printable.
        """
        return Card(
            name=name,
            synonyms=self.synonyms,
            data=data,
            type=self.type,
            unit=self.unit,
            description=" ".join(self.description.split()),
            codes=tuple(_text(code) for code in self.codes),
            range=self.range,
            label=self.label,
        )


class Metadata(Config):
    """``metadata.yaml``: data set → column → what its owner says."""

    data: dict[str, dict[str, Described]] = Field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Metadata:
        """Return what the silo in ``directory`` says; without the file, nothing.

        Raises:
            ConfigInvalid: with one finding per fault.
        """
        path = directory / FILE
        if not path.exists():
            return cls()
        return parse(cls, read_yaml(path), where=str(path))

    def shared(self, where: str = FILE) -> tuple[Card, ...]:
        """Return the entries that may leave.

        Raises:
            ConfigInvalid: where one of them cannot travel.
        """
        cards, faults = [], []
        for data, columns in self.data.items():
            for name, each in columns.items():
                if not each.share:
                    continue
                try:
                    cards.append(each.card(data, name))
                except ValidationError as cause:
                    faults += [
                        f"data.{data}.{name}.{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
                        for fault in cause.errors()
                    ]
        if faults:
            raise ConfigInvalid(where, faults)
        return tuple(cards)


def shared_cards(directory: Path) -> tuple[Card, ...]:
    """Return what the silo in ``directory`` has released."""
    return Metadata.load(directory).shared(str(directory / FILE))


def draft(rows: pd.DataFrame, *, code_rows: int = CODE_ROWS) -> dict[str, dict[str, Any]]:
    """Return a first description of each column, not shared, for a person to mend.

    Args:
        rows: as the organisation holds them; text as written, where there is a choice.
        code_rows: a code is listed only where this many rows hold it.
    """
    return {
        str(name): _drafted(profile(rows[name], place), code_rows)
        for place, name in enumerate(rows.columns)
    }


def write_draft(directory: Path, data: str, drafted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Add to ``metadata.yaml`` the columns that it does not have; return their names.

    What a person has written stays as it is, comments too.
    """
    import io

    from ruamel.yaml import YAML

    path = directory / FILE
    Metadata.load(directory)  # a file with faults is not written over
    yaml = YAML()
    yaml.width = 100
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    document = yaml.load(text) or {}
    entries = document.setdefault("data", {}) if document else {}
    if not document:
        document = {"data": entries}
    if entries is None:
        entries = document["data"] = {}
    known = entries.setdefault(data, {})
    new = [name for name in drafted if name not in known]
    for name in new:
        known[name] = dict(drafted[name])
    if new or not path.exists():
        stream = io.StringIO()
        stream.write("" if text else _HEAD)
        yaml.dump(document, stream)
        write_atomic(path, stream.getvalue().encode(), mode=0o600)
    return new


def _drafted(found: Profile, code_rows: int) -> dict[str, Any]:
    said: dict[str, Any] = {"share": False}
    kind = _type(found)
    if kind is not None:
        said["type"] = kind
    if kind in ("float", "integer") and (unit := unit_in_name(found.name)):
        said["unit"] = unit
    said["description"] = ""
    if kind in ("category", "boolean"):
        common = [code for code, count in found.codes.items() if count >= code_rows]
        said["codes"] = sorted(code for code in common if code.isprintable() and len(code) <= 160)
    return said


def _type(found: Profile) -> ColumnType | None:
    if not found.present:
        return None
    if found.dates and max(found.dates.values()) >= _SURE:
        return "date"
    if found.numeric_share >= _SURE:
        return "integer" if (found.numbers == found.numbers.round()).all() else "float"
    if found.codes and {code.lower() for code in found.codes} <= _YES_NO:
        return "boolean"
    few = found.distinct <= 10 or found.distinct <= found.present / 2
    return "category" if found.distinct <= MOST_CODES and few else "string"


def _text(code: Any) -> str:
    # YAML reads an unquoted yes as true.
    return {True: "yes", False: "no"}[code] if isinstance(code, bool) else str(code)
