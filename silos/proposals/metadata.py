"""A draft of ``metadata.yaml`` from the rows: what a person mends, and then releases by hand."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.contracts.rules import ColumnType
from consilo.errors import ConfigInvalid
from consilo.machine.files import write_atomic
from silos.kept.metadata import METADATA_FILE, Metadata
from silos.proposals.profile import Profile, profile
from silos.proposals.quantities import unit_in_name

if TYPE_CHECKING:
    import pandas as pd

CODE_ROWS = 5
"""A draft lists a code only where this many rows hold it: a rare one may be a person."""
MOST_CODES = 60
"""More distinct texts than this are free text, and none of them is drafted."""
_SURE = 0.95
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
"""Of a code: 007 is no 7."""
_PLAIN = re.compile(r"(?!(?i:yes|no|on|off|y|n|true|false|null)$)[A-Za-z_][A-Za-z0-9_]{0,99}")
"""Names that every reader of YAML takes for a text."""
_YES_NO = frozenset({"yes", "no", "true", "false", "y", "n", "ja", "nein", "oui", "non"})
_HEAD = """\
# What this silo says about its columns. Nothing of this file leaves unless you set
# 'share: true' on a column; then the other silos and the coordinator may read that entry, word for
# word. Mend names of units, write descriptions, take codes out that nobody else should read, and
# declare a range for numbers (from what you know of the measurement, not from these rows).
"""


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

    path = directory / METADATA_FILE
    Metadata.load(directory)  # a file with faults is not written over
    yaml = YAML()
    yaml.width = 10**6  # a name that is folded over two lines is no key to anybody
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
        known[_quoted(name)] = {
            key: [_quoted(each) for each in value] if key == "codes" else value
            for key, value in drafted[name].items()
        }
    if new or not path.exists():
        stream = io.StringIO()
        stream.write("" if text else _HEAD)
        yaml.dump(document, stream)
        _require_readable(stream.getvalue(), directory, data, new)
        write_atomic(path, stream.getvalue().encode(), mode=0o600)
    return new


def _quoted(text: str) -> str:
    """Return a text that is written in quotes where it could be taken for anything else."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return text if _PLAIN.fullmatch(text) else DoubleQuotedScalarString(text)


def _require_readable(text: str, directory: Path, data: str, names: list[str]) -> None:
    """Raise `ConfigInvalid` unless what is to be written says what was meant; nothing is kept."""
    with tempfile.TemporaryDirectory(prefix=".metadata-", dir=directory) as place:
        (Path(place) / METADATA_FILE).write_text(text, encoding="utf-8")
        found = Metadata.load(Path(place)).data.get(data, {})
    unlike = sum(name not in found for name in names)
    if unlike:
        fault = f"{unlike} names of columns cannot be written as YAML; rename them in the source"
        raise ConfigInvalid(str(directory / METADATA_FILE), [fault])


def _drafted(column: Profile, code_rows: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"share": False}
    kind = _type(column)
    if kind is not None:
        entry["type"] = kind
    if kind in ("float", "integer") and (unit := unit_in_name(column.name)):
        entry["unit"] = unit
    entry["description"] = ""
    if kind in ("category", "boolean"):
        common = [code for code, count in column.codes.items() if count >= code_rows]
        entry["codes"] = sorted(code for code in common if code.isprintable() and len(code) <= 160)
    return entry


def _type(column: Profile) -> ColumnType | None:
    if not column.present:
        return None
    if column.dates and max(column.dates.values()) >= _SURE:
        return "date"
    if column.numeric_share >= _SURE and not any(map(_LEADING_ZERO.fullmatch, column.codes)):
        return "integer" if (column.numbers == column.numbers.round()).all() else "float"
    if column.codes and {code.lower() for code in column.codes} <= _YES_NO:
        return "boolean"
    few = column.distinct <= 10 or column.distinct <= column.present / 2
    return "category" if column.distinct <= MOST_CODES and few else "string"
