"""``consilo match``: which columns, and which rows, of several silos belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consilo.cli import group
from flows.commands import match_rows as entity_commands

if TYPE_CHECKING:
    from consilo.matching.columns.protocol import Released
    from flows.services.match_columns import Correspondences

match_app = group("Match the columns and the rows of several silos.")
match_app.command()(entity_commands.run)
match_app.command()(entity_commands.show)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Home = Annotated[
    Path | None, typer.Option("--dir", help="Coordinator's directory, of a federation that is up.")
]
Silos = Annotated[
    Path | None, typer.Option(help="Folder of silo directories: ask them here, in this process.")
]
Wait = Annotated[float, typer.Option(min=0, help="For silos to connect, in seconds.")]
Purpose = Annotated[str, typer.Option(help="What for; silos allow purposes.")]


@match_app.command()
def features(
    contract: Annotated[str, typer.Option(help="name@version, or a contract file.")] = "",
    between: Annotated[
        tuple[str, str] | None, typer.Option(help="Two silos that have no contract yet.")
    ] = None,
    silo: Annotated[list[str] | None, typer.Option(help="Only these; else everybody.")] = None,
    out: Annotated[Path, typer.Option(help="Where the proposal is written.")] = Path(
        "alignment.yaml"
    ),
    top: Annotated[int, typer.Option(min=1, max=100, help="Candidates for a column.")] = 5,
    directory: Home = None,
    silos: Silos = None,
    purpose: Purpose = "unstated",
    wait_s: Wait = 30.0,
    as_json: AsJson = False,
) -> None:
    """Propose which columns mean the same, with scores, for a person to confirm.

    Exit code 1 where no silo has released anything.

    Example: consilo match features --contract heart@1 --dir coordinator/
    """
    from consilo.contracts.contract import Contract
    from consilo.errors import ConfigInvalid
    from consilo.machine.environment import quieten
    from consilo.machine.files import write_atomic
    from consilo.matching.columns.alignment import Alignment
    from flows.services import match_columns as matching

    quieten()
    if bool(contract) == (between is not None):
        raise typer.BadParameter("give --contract, or --between A B")
    if out.exists() and Alignment.load(out).confirmed:
        raise ConfigInvalid(str(out), ["it is confirmed, and not written over; give another --out"])
    wanted = Contract.load(contract, search=(Path.cwd(),)) if contract else None
    asked = tuple(between or silo or ())
    released = _released(wanted, asked, directory, silos, purpose=purpose, wait_s=wait_s)
    if between is not None:
        correspondences = matching.between(*between, released, top=top)
    else:
        assert wanted is not None
        correspondences = matching.with_contract(wanted, released, top=top)
    write_atomic(out, correspondences.to_yaml().encode(), mode=0o644)
    faults = {name: f"{each.code}: {each.reason}" for name, each in released.faults.items()}
    if as_json:
        print(json.dumps({**correspondences.to_json(), "alignment": str(out), "faults": faults}))
    else:
        _show(correspondences, faults)
        print(f"proposed: {out}; read it, then: consilo match confirm {out}")
    raise typer.Exit(0 if any(released.cards.values()) else 1)


@match_app.command()
def confirm(
    alignment: Annotated[Path, typer.Argument(help="The proposal, read by you.")],
    as_json: AsJson = False,
) -> None:
    """Mark an alignment as read by a person; its digest is its version.

    Example: consilo match confirm alignment.yaml
    """
    from consilo.matching.columns.alignment import confirm as mark

    confirmed = mark(alignment)
    told = {
        "alignment": str(alignment),
        "version": confirmed.digest,
        "columns": len(confirmed.columns),
    }
    if as_json:
        print(json.dumps(told))
        return
    print(f"{alignment} is version {confirmed.digest[:12]}")
    if confirmed.contract:
        print(f"next, in each silo: consilo silo data align {alignment}")
    else:
        print(f"next: consilo match contract {alignment} --name NAME")


@match_app.command(name="contract")
def contract_(
    alignment: Annotated[Path, typer.Argument(help="A confirmed alignment of silos.")],
    name: Annotated[str, typer.Option(help="Of the contract.")],
    version: Annotated[int, typer.Option(min=1, help="Of the contract.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Where it is written; else NAME.yaml.")] = None,
    directory: Home = None,
    silos: Silos = None,
    purpose: Purpose = "unstated",
    wait_s: Wait = 30.0,
    as_json: AsJson = False,
) -> None:
    """Write the contract that a confirmed alignment of silos amounts to.

    Example: consilo match contract alignment.yaml --name joint --dir coordinator/
    """
    from consilo.errors import ConfigInvalid
    from consilo.machine.environment import quieten
    from consilo.machine.files import write_atomic
    from consilo.matching.columns.alignment import Alignment, contract_of
    from consilo.yaml_text import to_yaml

    quieten()
    agreed = Alignment.load(alignment)
    agreed.require_confirmed(str(alignment))
    place = out or alignment.parent / f"{name}.yaml"
    if place.exists():
        raise ConfigInvalid(str(place), ["it is there; give another --out"])
    members = tuple(sorted({each for column in agreed.columns.values() for each in column}))
    released = _released(None, members, directory, silos, purpose=purpose, wait_s=wait_s)
    cards = {one: {card.key: card for card in each} for one, each in released.cards.items()}
    made = contract_of(agreed, cards, name=name, version=version)
    value = made.model_dump(mode="json", exclude_defaults=True)
    value["columns"] = {
        column: {key: each for key, each in spec.items() if key != "name"}
        for column, spec in value["columns"].items()
    }
    head = (
        f"# By alignment {agreed.digest}.\n"
        "# Tighten it: ranges, the share of missing values, codes that mean the same.\n"
    )
    write_atomic(place, (head + to_yaml(value)).encode(), mode=0o644)
    if as_json:
        columns = list(made.columns)
        print(json.dumps({"contract": made.ref, "file": str(place), "columns": columns}))
        return
    print(f"{made.ref}: {len(made.columns)} columns, {place}")
    print(f"next, in each silo: consilo silo data align {alignment} --contract {place}")


def _released(
    contract: object,
    asked: tuple[str, ...],
    directory: Path | None,
    silos: Path | None,
    *,
    purpose: str,
    wait_s: float,
) -> Released:
    from consilo.contracts.contract import Contract
    from flows.services.ask import opened
    from flows.services.match_columns import NO_CONTRACT, ask, question

    carried = contract if isinstance(contract, Contract) else NO_CONTRACT
    job = question(carried, purpose=purpose)
    with opened(job, carried, Path.cwd(), directory, silos) as connection:
        released = ask(job, carried, connection, silos=asked, wait_s=wait_s)
        connection.finish(True, "matched")
    return released


def _show(correspondences: Correspondences, faults: dict[str, str]) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(box=None, pad_edge=False)
    for heading in ("column", "silo", "proposed", "score", "else"):
        table.add_column(heading, overflow="fold")
    for name in correspondences.names:
        for silo, each in correspondences.proposals.items():
            if name not in each or not each[name].candidates:
                continue
            scores = {one.key: f"{one.score:.2f}" for one in each[name].candidates}
            chosen = each[name].chosen
            others = ", ".join(f"{key} {score}" for key, score in scores.items() if key != chosen)
            table.add_row(name, silo, chosen or "(none)", scores.get(chosen or "", ""), others)
    console.print(table)
    for name, holders in correspondences.labels.items():
        console.print(f"label {name}: {', '.join(holders) or 'no silo holds it'}")
    for silo, why in faults.items():
        console.print(f"{silo} says nothing: {why}")
