"""What people here say about this silo's columns: ``metadata.yaml``; what is released may leave.

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

from pathlib import Path

from pydantic import Field, StrictBool, StrictStr, ValidationError

from consilo.config import Config, parse, read_yaml
from consilo.contracts.rules import ColumnType
from consilo.errors import ConfigInvalid
from consilo.matching.columns.cards import MAX_CODES, Card, Span

METADATA_FILE = "metadata.yaml"


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
            codes=tuple(code_text(code) for code in self.codes),
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
        path = directory / METADATA_FILE
        if not path.exists():
            return cls()
        return parse(cls, read_yaml(path), where=str(path))

    def shared(self, where: str = METADATA_FILE) -> tuple[Card, ...]:
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
    return Metadata.load(directory).shared(str(directory / METADATA_FILE))


def code_text(code: str | bool | int | float) -> str:
    """Return how a code is written in the file."""
    return str(code).lower() if isinstance(code, bool) else str(code)
