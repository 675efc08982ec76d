"""A first contract from one silo's rows: names that a contract may have, types, units, codes.

A contract is read by every organisation, so what is drafted holds no more of the rows than a person
then lets stand: codes that few rows hold are left out, and ranges are not taken from the rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from collections.abc import Mapping as MappingOf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid
from consilo.machine.files import make_directory, write_atomic
from consilo.yaml_text import from_yaml, to_yaml_line
from silos.proposals.metadata import draft
from silos.proposals.onboard import mapping_place
from silos.proposals.profile import Profile, answers_in, profile
from silos.rows.mapping import Mapping

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 64
_HEAD = """\
# Drafted from the columns of one data set, for people to mend before anybody else reads it: say
# what each column means, give ranges from what you know of the measurement (not from these rows),
# mark the target (role: target) and whose row it is (role: subject), and take out what nobody else
# should see.
"""
_MAPPING_HEAD = """\
# From this silo's names to the contract's. Not used before: consilo silo data confirm {ref}
"""


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Return a name that a contract may have for each column: small letters, digits, underscores.

    >>> slugs(["ER Status", "age/yrs", "Größe (cm)", "2nd visit", "er_status"])["2nd visit"]
    'c_2nd_visit'
    """
    made: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore")
        slug = re.sub(r"[^a-z0-9]+", "_", plain.decode().lower()).strip("_")
        if not re.match("[a-z]", slug):
            slug = f"c_{slug}".rstrip("_")
        slug = slug[:_LONGEST].rstrip("_")
        unique, number = slug, 2
        while unique in made.values():
            end = f"_{number}"
            unique, number = f"{slug[: _LONGEST - len(end)]}{end}", number + 1
        made[name] = unique
    return made


def new_contract(
    directory: Path,
    data: str,
    rows: pd.DataFrame,
    name: str,
    *,
    known: MappingOf[str, MappingOf[str, Any]] = MappingProxyType({}),
    head: str = _HEAD,
    target: str = "",
) -> tuple[Path, Path]:
    """Write a draft of a contract, and the mapping to it, neither of them in use yet.

    Args:
        directory: the silo's.
        data: the data set's name.
        rows: some of its rows, text as written.
        name: the contract's.
        known: local column → keys of it that are known better than by its rows.
        head: what the draft says to its readers.
        target: the local column to predict, where that is known: there ``none`` is a class.

    Returns:
        The contract's file, and the mapping's.

    Raises:
        ConfigInvalid: where one of them is there already, or the name is none for a contract.
    """
    ref = f"{name}@1"
    place, mapping = directory / "contracts" / f"{ref}.yaml", mapping_place(directory, ref)
    there = [str(each) for each in (place, mapping) if each.exists()]
    if there:
        raise ConfigInvalid(there[0], ["it is there already; give the contract another name"])
    names = slugs(map(str, rows.columns))
    drafted = draft(rows)
    classes = answers_in(rows[target]) if target else frozenset()
    profiles = {
        str(each): profile(rows[each], place, classes if each == target else ())
        for place, each in enumerate(rows.columns)
    }
    lines = [head + f"name: {to_yaml_line(name)}", "version: 1", "columns:"]
    for local, slug in names.items():
        column = {
            **_column(local, slug, drafted[local], profiles[local], len(rows)),
            **known.get(local, {}),
        }
        lines.append(f"  {slug}: {to_yaml_line(_fitting(column))}")
    text = "\n".join(lines) + "\n"
    # What is written must be what is read.
    contract = Contract.parse(from_yaml(text), where=str(place))
    read = {local: _reading(local, slug, profiles[local]) for local, slug in names.items()}
    for local, found in profiles.items():
        own = found.missing & classes  # said of every column, the classes would be nothing, too
        if own:
            read[local] = {"from": local, **read[local], "missing": sorted(own)}
    missing = sorted({word for each in profiles.values() for word in each.missing} - classes)
    sure = "# confirm: 'nothing recorded', in every column"
    renamed = [f"  {names[local]}: {to_yaml_line(how)}" for local, how in read.items() if how]
    told = [
        _MAPPING_HEAD.format(ref=ref) + "confirmed: false",
        f"contract: {ref}",
        f"data: {to_yaml_line(data)}",
        *([f"missing: {to_yaml_line(missing)}  {sure}"] if missing else []),
        *(["columns:", *renamed] if renamed else []),
    ]
    mapped = "\n".join(told) + "\n"
    Mapping.parse(from_yaml(mapped), contract, where=str(mapping))
    for each in (place, mapping):
        make_directory(each.parent, mode=0o700)
    write_atomic(place, text.encode(), mode=0o600)
    write_atomic(mapping, mapped.encode(), mode=0o600)
    return place, mapping


def _fitting(column: dict[str, Any]) -> dict[str, Any]:
    """Return a column without the keys that its type cannot have."""
    numeric = column["type"] in ("float", "integer")
    odd = set() if numeric else {"unit", "range"}
    odd |= {"allowed"} if column["type"] in ("float", "string", "date", "boolean") else set()
    return {key: value for key, value in column.items() if key not in odd}


def _reading(local: str, slug: str, found: Profile) -> dict[str, Any]:
    """Return what a mapping says of a column; nothing where it is the contract's as it stands."""
    how: dict[str, Any] = {} if slug == local else {"from": local}
    return {**how, "decimal": ","} if found.decimal == "," and found.numeric_share else how


def _column(
    local: str, slug: str, drafted: dict[str, Any], found: Profile, num_rows: int
) -> dict[str, Any]:
    kind = drafted.get("type", "string")
    codes = drafted.get("codes", [])
    if kind == "category" and not codes:
        kind = "string"
    made: dict[str, Any] = {"type": kind}
    if "unit" in drafted:
        made["unit"] = drafted["unit"]
    if kind == "category":
        made["allowed"] = list(dict.fromkeys(codes))
    if kind in ("string", "date"):
        made["role"] = "ignore"  # no model reads free text or dates
    empty = 1.0 - found.present / num_rows if num_rows else 0.0
    if empty > 0:
        made["nullable_share"] = min(1.0, -(-empty // 0.05) * 5 / 100)
    if slug != local:
        made["description"] = " ".join(local.split())
    return made
