"""From a confirmed alignment to this silo's mapping: people say which column, the rows say how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from consilo.config import nearest, read_yaml
from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid
from consilo.machine.files import write_atomic
from consilo.matching.columns.alignment import Alignment
from silos.proposals import onboard

if TYPE_CHECKING:
    from silos.proposals.propose import Proposal


def aligned_mapping(
    directory: Path,
    path: Path,
    load: Callable[[str], Contract],
    *,
    given: bool = False,
    again: bool = False,
) -> tuple[Path, Proposal]:
    """Write the mapping of this silo's part of an alignment, for a person to confirm.

    Args:
        directory: the silo's.
        path: the alignment.
        load: finds the contract of a reference.
        given: whether ``load`` takes a contract that was named besides.
        again: put it in the place of a mapping that is there.

    Returns:
        The mapping's file, and what stands in it.

    Raises:
        Refused: where the alignment is not confirmed.
        ConfigInvalid: where it has no part for this silo, or columns that are not there.
    """
    from silos.proposals.propose import propose

    alignment = Alignment.load(path)
    alignment.require_confirmed(str(path))
    if alignment.contract is None and not given:
        hint = "make one with consilo match contract, and name it with --contract"
        raise ConfigInvalid(str(path), [f"contract: it names none; {hint}"])
    contract = load(alignment.contract or "")
    if alignment.contract_digest not in (None, contract.digest):
        raise ConfigInvalid(str(path), [f"contract: {contract.ref} has changed since; match again"])
    name = str((read_yaml(directory / "silo.yaml") or {}).get("name"))
    parts = alignment.of(name)
    if len(parts) != 1:
        content = f"data sets {', '.join(parts)}; a mapping takes one" if parts else "nothing"
        raise ConfigInvalid(str(path), [f"for the silo '{name}' it has {content}"])
    ((data, pairs),) = parts.items()
    source = onboard.source_of(directory, data)
    known = source.columns()
    faults = [
        f"columns.{column}.{name}: '{data}' has no column '{local}'"
        + (f"; did you mean '{guess}'?" if (guess := nearest(local, known)) else "")
        for column, local in pairs.items()
        if local not in known
    ]
    faults += [
        f"columns.{column}: {contract.ref} has no such column"
        for column in pairs
        if column not in contract.columns
    ]
    if faults:
        raise ConfigInvalid(str(path), faults)
    place = onboard.mapping_place(directory, contract.ref)
    if place.exists() and not again:
        raise ConfigInvalid(str(place), ["a mapping is there; --again puts this one in its place"])
    proposal = propose(onboard.sample(source), contract, data=data, aligned=pairs)
    text = f"# By alignment {alignment.digest}.\n{proposal.to_yaml()}"
    write_atomic(place, text.encode(), mode=0o600)
    return place, proposal
