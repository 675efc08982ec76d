"""Connect a silo's rows: ``consilo silo data add | confirm | list``.

``add`` tests that the rows can be read, names them in ``silo.yaml`` and proposes a mapping;
``confirm`` puts a mapping to use that a person has read. Each step can be run again: what is there
already is kept unless it is to be replaced.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping as Mapped
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.config import parse, read_yaml
from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid, MappingInvalid
from consilo.machine.files import make_directory, write_atomic
from consilo.silo_name import fault_of
from consilo.yaml_text import from_yaml
from silos.rows.mapping import Mapping
from silos.rows.sources import Source, parse_source
from silos.rows.sources.found_out import completed

if TYPE_CHECKING:
    import pandas as pd

    from silos.proposals.propose import Proposal

_AGREED = re.compile(r"^agreed:.*$", re.MULTILINE)
_UNCONFIRMED = re.compile(r"^confirmed:[ \t]*(?:false|no|off)\b", re.MULTILINE | re.IGNORECASE)
_MAPPING_MODE = 0o600
"""A mapping may show codes of rows."""


@dataclass(frozen=True)
class Added:
    """What `add` did.

    Args:
        data: the data set's name.
        source: what stands in ``silo.yaml`` for it.
        columns: the local names.
        written: whether ``silo.yaml`` changed.
        mapping: the mapping file, where a contract was given.
        proposal: what was proposed; None where a mapping was there already.
        notes: what was found out about the file, for the person.
    """

    data: str
    source: Mapped[str, Any]
    columns: tuple[str, ...]
    written: bool
    mapping: Path | None = None
    proposal: Proposal | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it for ``--json``; no value of a row is in it."""
        proposed = self.proposal
        return {
            "data": self.data,
            "columns": len(self.columns),
            "silo_yaml": "written" if self.written else "unchanged",
            "mapping": None if self.mapping is None else str(self.mapping),
            "proposed": None if proposed is None else [each.to_dict() for each in proposed.columns],
            "unused": [] if proposed is None else list(proposed.unused),
            "notes": list(self.notes),
        }


def add(
    directory: Path,
    data: str,
    described: Mapped[str, Any] | None,
    *,
    contract: Contract | None = None,
    name: str | None = None,
    replace: bool = False,
    again: bool = False,
) -> Added:
    """Name a data set in ``silo.yaml`` after a look at it, and propose its mapping.

    Args:
        directory: the silo's.
        data: the data set's name; the privacy ledger is kept by it.
        described: the source as it stands in YAML, paths relative to ``directory``; None for a
            data set that ``silo.yaml`` has already.
        contract: to propose a mapping to; None proposes none.
        name: the silo's name, for a directory without ``silo.yaml``; None takes that of
            ``node.yaml`` or the directory's.
        replace: put another source in the place of one with the same name.
        again: propose anew where there is a mapping.

    Raises:
        ConfigInvalid: where ``silo.yaml`` or the source is not valid, or the name is taken.
        SourceUnreadable: where the rows cannot be read; nothing was written.
    """
    document, known = _read_silo(directory, name)
    if not document:
        document = {"name": _name_of(directory)}
    present = known.get(data)
    notes: list[str] = []
    if described is None:
        if present is None:
            hint = f"it has {', '.join(known) or 'none'}; say where the rows are, with --csv FILE"
            raise ConfigInvalid(str(directory / "silo.yaml"), [f"no data set '{data}'; {hint}"])
        described = present
    else:
        described, notes = completed(described, directory)
    source = parse_source(dict(described), where=f"the data set '{data}'").resolve(directory)
    columns = tuple(source.columns())
    if present is not None and dict(present) != dict(described) and not replace:
        hint = "give it another name, or --replace it: its privacy ledger then counts for both"
        raise ConfigInvalid(
            str(directory / "silo.yaml"), [f"'{data}' is there, with another source; {hint}"]
        )
    rows = sample(source) if contract is not None else None
    written = present is None or dict(present) != dict(described)
    if written:
        _write_silo(directory, document, data, described)
    if contract is None or rows is None:
        return Added(data, described, columns, written, notes=tuple(notes))
    place = mapping_place(directory, contract.ref)
    if place.exists() and not again:
        notes.append(f"{place.name} is there and was kept; --again proposes anew")
        return Added(data, described, columns, written, place, notes=tuple(notes))
    from silos.proposals.propose import propose

    proposal = propose(rows, contract, data=data)
    write_atomic(place, proposal.to_yaml().encode(), mode=_MAPPING_MODE)
    return Added(data, described, columns, written, place, proposal, tuple(notes))


def mapping_place(directory: Path, ref: str) -> Path:
    """Return where the mapping to a contract is, or is to be."""
    alone = directory / "mapping.yaml"
    if alone.exists() and not (directory / f"mappings/{ref}.yaml").exists():
        value = read_yaml(alone, error=MappingInvalid)
        if isinstance(value, Mapped) and value.get("contract") == ref:
            return alone
    return directory / "mappings" / f"{ref}.yaml"


def confirm(directory: Path, contract: Contract, agreed: str) -> Path:
    """Put a proposed mapping to use: a person has read it, and the contract's text.

    Where there is no mapping yet, the silo's columns are taken to be the contract's.

    Args:
        directory: the silo's.
        contract: what the mapping is to: a contract, or a silo's part of one.
        agreed: SHA-256 of the whole contract; from now on another text of its name is refused.

    Returns:
        The mapping's file.

    Raises:
        MappingInvalid: where it does not fit the contract, or names a column that is not there.
        ConfigInvalid: where ``silo.yaml`` does not have its data set.
    """
    place = mapping_place(directory, contract.ref)
    alike = "" if place.exists() else f"contract: {contract.ref}\n"
    value = from_yaml(alike) if alike else read_yaml(place, error=MappingInvalid)
    mapping = Mapping.parse(value, contract, where=str(place))
    _, known = _read_silo(directory, None)
    data = mapping.data or (next(iter(known)) if len(known) == 1 else None)
    if data not in known:
        hint = f"silo.yaml has {', '.join(known) or 'none'}; name one under 'data'"
        raise MappingInvalid(str(place), [f"data: no data set '{mapping.data}'; {hint}"])
    source = parse_source(dict(known[data]), where=f"the data set '{data}'").resolve(directory)
    faults = mapping.missing_columns(source.columns(), contract)
    if faults:
        raise MappingInvalid(str(place), faults)
    before = text = alike or place.read_text(encoding="utf-8")
    if not mapping.confirmed:
        text, count = _UNCONFIRMED.subn("confirmed: true", text)
        if count != 1 or not Mapping.parse(from_yaml(text), contract, where=str(place)).confirmed:
            raise MappingInvalid(str(place), ["set 'confirmed: true' by hand; it has no such line"])
    if mapping.agreed != agreed:
        line = f"agreed: {agreed}  # the contract's text"
        text, count = _AGREED.subn(line, text)
        text = text if count else f"{text.rstrip()}\n{line}\n"
        if Mapping.parse(from_yaml(text), contract, where=str(place)).agreed != agreed:
            raise MappingInvalid(str(place), [f"write 'agreed: {agreed}' by hand"])
    if text != before:
        make_directory(place.parent, mode=0o700)
        write_atomic(place, text.encode(), mode=_MAPPING_MODE)
    return place


def keep_contract(directory: Path, file: Path) -> Path:
    """Keep a contract that people here have agreed to, where it is found by its name.

    Args:
        directory: the silo's.
        file: the contract's, wherever it lies.

    Returns:
        Its place in the silo.

    Raises:
        ContractInvalid: where it is no contract.
    """
    ref = Contract.load(str(file)).ref
    place = directory / "contracts" / f"{ref}.yaml"
    if file.resolve().parent in (place.parent.resolve(), directory.resolve()):
        return file
    make_directory(place.parent, mode=0o700)
    write_atomic(place, file.read_bytes(), mode=_MAPPING_MODE)
    return place


def silo_name(directory: Path) -> str:
    """Return the name of the silo in a directory, as ``silo.yaml`` has or will have it."""
    document, _ = _read_silo(directory, None)
    return str(document.get("name") or _name_of(directory))


def known_data(directory: Path) -> dict[str, Mapped[str, Any]]:
    """Return the data sets of ``silo.yaml`` as they stand there."""
    return _read_silo(directory, None)[1]


def mappings(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Return data set → its mappings: the contract's reference, and whether it is confirmed."""
    _, known = _read_silo(directory, None)
    by_data: dict[str, list[dict[str, Any]]] = {}
    for place in [directory / "mapping.yaml", *sorted(directory.glob("mappings/*.yaml"))]:
        value = read_yaml(place, error=MappingInvalid) if place.exists() else None
        if not isinstance(value, Mapped):
            continue
        data = value.get("data") or (next(iter(known)) if len(known) == 1 else "")
        entry = {"contract": value.get("contract"), "confirmed": value.get("confirmed", True)}
        by_data.setdefault(str(data), []).append(entry)
    return by_data


def source_of(directory: Path, data: str) -> Source:
    """Return one of the silo's data sets, ready to be read.

    Raises:
        ConfigInvalid: where ``silo.yaml`` does not have it.
    """
    known = known_data(directory)
    if data not in known:
        hint = f"it has {', '.join(known) or 'none'}"
        raise ConfigInvalid(str(directory / "silo.yaml"), [f"no data set '{data}'; {hint}"])
    where = f"the data set '{data}'"
    return parse_source(dict(known[data]), where=where).resolve(directory)


def sample(source: Source) -> pd.DataFrame:
    """Return the first rows, text as written; no more of the source is read than one block."""
    from silos.proposals.propose import SAMPLE_ROWS
    from silos.rows.sources.blocks import to_frame

    first = next(iter(source.blocks(text=source.columns())))
    return to_frame(first.slice(0, SAMPLE_ROWS))


# silo.yaml


def _read_silo(directory: Path, name: str | None) -> tuple[Any, dict[str, Mapped[str, Any]]]:
    """Return ``silo.yaml`` as a document that keeps its comments, and its data sets."""
    path = directory / "silo.yaml"
    if not path.exists():
        return {"name": name} if name else {}, {}
    read_yaml(path)  # says what is wrong where it is no YAML
    document = _round_trip().load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ConfigInvalid(str(path), ["expected keys and values, such as name and data"])
    if name is not None and document.get("name") != name:
        raise ConfigInvalid(str(path), [f"name: the silo is called '{document.get('name')}'"])
    data = document.get("data") or {}
    if not isinstance(data, dict):
        raise ConfigInvalid(str(path), ["data: expected the name of each data set, and its source"])
    return document, {str(key): _plain(value) for key, value in data.items()}


def _write_silo(directory: Path, document: Any, data: str, described: Mapped[str, Any]) -> None:
    from silos.silo_config import SiloConfig

    if not document.get("data"):
        document["data"] = {}
    document["data"][data] = dict(described)
    stream = io.StringIO()
    _round_trip().dump(document, stream)
    path = directory / "silo.yaml"
    # What is written must be what the silo reads.
    parse(SiloConfig, from_yaml(stream.getvalue()), where=str(path))
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    write_atomic(path, stream.getvalue().encode(), mode=mode)


def _name_of(directory: Path) -> str:
    node = directory / "node.yaml"
    value = read_yaml(node) if node.exists() else None
    if isinstance(value, Mapped) and value.get("name"):
        return str(value["name"])
    found = directory.resolve().name
    if fault := fault_of(found):
        raise ConfigInvalid(
            str(directory),
            [f"the directory's name would be the silo's, but {fault}: say it with --silo NAME"],
        )
    return found


def _round_trip() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 10**6
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _plain(value: Any) -> Any:
    if isinstance(value, Mapped):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def relative(path: str, directory: Path) -> str:
    """Return a path as ``silo.yaml`` says it: relative where it lies in the silo's directory."""
    full = Path(os.path.abspath(path))
    home = directory.resolve()
    return str(full.relative_to(home)) if full.is_relative_to(home) else str(full)
