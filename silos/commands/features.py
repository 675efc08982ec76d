"""``consilo silo data describe | align``: say what columns are, and take over what was agreed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from silos.proposals.histograms import Offer

Directory = Annotated[Path, typer.Option("--dir", help="The silo's directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def describe(
    data: Annotated[str, typer.Argument(help="The data set's name.")],
    histograms: Annotated[
        bool, typer.Option("--histograms", help="Release noisy histograms of shared columns.")
    ] = False,
    epsilon: Annotated[
        float, typer.Option(min=1e-6, help="What they may cost the data set's account.")
    ] = 1.0,
    purpose: Annotated[
        str, typer.Option(help="Rows with consent for this are counted, where consents are kept.")
    ] = "unstated",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paying.")] = False,
    directory: Directory = Path("."),
    as_json: AsJson = False,
) -> None:
    """Draft what this silo says about a data set's columns; nothing is shared before you say so.

    Example: consilo silo data describe patients
    """
    from silos.silo_config import require_directory

    require_directory(directory)
    if histograms:
        _release(directory, data, epsilon, purpose, yes=yes, as_json=as_json)
        return
    from silos.kept.metadata import METADATA_FILE, shared_cards
    from silos.proposals import onboard
    from silos.proposals.metadata import draft, write_draft

    source = onboard.source_of(directory, data)
    drafted = draft(onboard.sample(source))
    new = write_draft(directory, data, drafted)
    shared = sum(card.data == data for card in shared_cards(directory))
    if as_json:
        told = {"data": data, "file": METADATA_FILE, "columns": len(drafted), "new": len(new)}
        print(json.dumps({**told, "shared": shared}))
        return
    place = directory / METADATA_FILE
    print(f"{place}: {len(drafted)} columns, {len(new)} of them new, {shared} shared")
    print("next: read it, and set 'share: true' on the columns whose entry may leave")


def align(
    alignment: Annotated[Path, typer.Argument(help="A confirmed alignment.")],
    contract: Annotated[
        str, typer.Option(help="name@version, or a contract file; else the alignment's.")
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="In place of a mapping.")] = False,
    directory: Directory = Path("."),
    as_json: AsJson = False,
) -> None:
    """Propose the mapping that a confirmed alignment amounts to in this silo.

    Example: consilo silo data align alignment.yaml
    """
    from consilo.contracts.contract import Contract
    from silos.proposals.aligned import aligned_mapping

    search = (alignment.resolve().parent, Path.cwd(), directory)
    place, proposal = aligned_mapping(
        directory,
        alignment,
        lambda ref: Contract.load(contract or ref, search=search),
        given=bool(contract),
        again=again,
    )
    if as_json:
        columns = [each.to_dict() for each in proposal.columns]
        print(json.dumps({"mapping": str(place), "columns": columns}))
        return
    for each in proposal.columns:
        print(f"{each.column:<32}{each.source or '(none)':<32}{'; '.join(each.doubts)}")
    print(f"proposed: {place}; next: read it, then: consilo silo data confirm {proposal.contract}")


def _release(
    directory: Path, data: str, epsilon: float, purpose: str, *, yes: bool, as_json: bool
) -> None:
    from silos.proposals.histograms import offer, release

    asked, silo = offer(directory, data, epsilon=epsilon, purpose=purpose)
    typer.echo(_price(asked), err=True)
    asked.require_use()
    if not yes:
        typer.confirm("Count, pay and release", abort=True, err=True)
    release(directory, asked, silo, purpose=purpose)
    told: dict[str, Any] = {
        "data": data,
        "columns": len(asked.columns),
        "rows": asked.rows,
        "epsilon": asked.epsilon,
        "delta": asked.delta,
        "noise_multiplier": asked.sigma,
        "expected_share_moved": round(asked.wrong, 4),
    }
    print(json.dumps(told) if as_json else f"{len(asked.columns)} histograms released")


def _price(asked: Offer) -> str:
    stands = "; ".join(
        f"{balance.limit}: {balance.before:.4g} of {balance.limit.epsilon:g} spent, "
        f"{balance.after:.4g} after"
        for balance in asked.account.balances
    )
    return (
        f"{len(asked.columns)} histograms of {asked.rows} rows cost ε {asked.epsilon:g} at δ "
        f"{asked.delta:g} ({stands}); the noise moves {asked.wrong:.1%} of a histogram; "
        "the same of the same rows again costs nothing"
    )
