"""``consilo silo data``: which data sets the silo has, and how they become a contract's table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consilo.cli import group
from silos.commands import features as feature_commands

if TYPE_CHECKING:
    from silos.proposals.onboard import Added

Directory = Annotated[Path, typer.Option("--dir", help="The silo's directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ForJob = Annotated[
    Path | None,
    typer.Option("--job", help="A vertical job: only the columns that this silo holds in it."),
]

app = group("Connect the silo's rows, and say how they become a contract's table.")

_FILE = "A file, a folder or a pattern; may be given several times."

app.command()(feature_commands.describe)
app.command()(feature_commands.align)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The data set's name, such as patients.")] = "",
    csv: Annotated[list[str] | None, typer.Option(help=f"CSV: {_FILE}")] = None,
    parquet: Annotated[list[str] | None, typer.Option(help=f"Parquet: {_FILE}")] = None,
    sqlite: Annotated[str, typer.Option(help="An SQLite file.")] = "",
    duckdb: Annotated[str, typer.Option(help="A DuckDB file.")] = "",
    url: Annotated[str, typer.Option(help="A database's URL, without the password.")] = "",
    table: Annotated[str, typer.Option(help="Databases: the table.")] = "",
    query: Annotated[str, typer.Option(help="Databases: a SELECT in place of a table.")] = "",
    password_env: Annotated[
        str, typer.Option(help="The environment variable that holds the password.")
    ] = "",
    password_keyring: Annotated[
        str, typer.Option(help="SERVICE/USER: where the keyring holds the password.")
    ] = "",
    version_query: Annotated[
        str, typer.Option(help="A cheap SELECT whose answer changes with the rows.")
    ] = "",
    separator: Annotated[str, typer.Option(help="CSV: found out unless given.")] = "",
    encoding: Annotated[str, typer.Option(help="CSV: found out unless given.")] = "",
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="CSV: found out unless given.")
    ] = None,
    names: Annotated[str, typer.Option(help="CSV: the columns' names, with commas.")] = "",
    contract: Annotated[str, typer.Option(help="name@version or a file: propose a mapping.")] = "",
    job: ForJob = None,
    silo: Annotated[str, typer.Option(help="The silo's name, where it has no silo.yaml.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Put it in another's place.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Propose a mapping anew.")] = False,
    directory: Directory = Path("."),
    as_json: AsJson = False,
) -> None:
    """Connect a source, test that it can be read, and propose its mapping to a contract.

    Example: consilo silo data add patients --csv patients.csv --contract heart@1
    """
    from silos.proposals import onboard

    files = {"csv": csv, "parquet": parquet}
    places: dict[str, Any] = {
        kind: [onboard.relative(each, directory) for each in given]
        for kind, given in files.items()
        if given
    }
    places |= {
        kind: onboard.relative(given, directory)
        for kind, given in (("sqlite", sqlite), ("duckdb", duckdb))
        if given
    }
    places |= {"sql": url} if url else {}
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
    if asks:
        name, places, contract = _asked(name, places, contract, directory)
    if not name:
        raise typer.BadParameter("say which data set, such as patients")
    if len(places) > 1:
        raise typer.BadParameter(f"give one of {', '.join('--' + each for each in places)}")
    described: dict[str, Any] | None = None
    for kind, place in places.items():
        where = {"url": place} if kind == "sql" else {"path": _one(place)}
        described = {
            "type": kind,
            **where,
            "table": table or None,
            "query": query or None,
            "password_env": password_env or None,
            "password_keyring": password_keyring or None,
            "version_query": version_query or None,
            "separator": separator or None,
            "encoding": encoding or None,
            "header": header,
            "names": [each.strip() for each in names.split(",")] if names else None,
        }
    added = onboard.add(
        directory,
        name,
        described,
        contract=_contract(contract, directory, job, silo) if contract else None,
        name=silo or None,
        replace=replace,
        again=again,
    )
    if as_json:
        import json

        print(json.dumps(added.to_json()))
        return
    _show(added, contract if job is None else f"{contract} --job {job}")
    if asks and added.proposal is not None:
        from rich.prompt import Confirm

        if Confirm.ask(f"Have you read {added.mapping}? Use it", default=False):
            agreed = _contract(contract, directory).digest
            onboard.confirm(directory, _contract(contract, directory, job, silo), agreed)
            print("confirmed")


@app.command()
def confirm(
    contract: Annotated[str, typer.Argument(help="name@version, or a contract file.")],
    job: ForJob = None,
    directory: Directory = Path("."),
    as_json: AsJson = False,
) -> None:
    """Put a proposed mapping to use, once you have read it; the contract's text is noted too.

    Another text under the contract's name is refused until you confirm that. A contract's file is
    kept in the silo's contracts/, where other commands find it by its name.

    Example: consilo silo data confirm heart@1
    """
    from silos.proposals import onboard

    agreed = _contract(contract, directory).digest
    place = onboard.confirm(directory, _contract(contract, directory, job), agreed)
    if Path(contract).is_file():
        onboard.keep_contract(directory, Path(contract))
    if as_json:
        import json

        print(json.dumps({"mapping": str(place), "confirmed": True}))
    else:
        more = f" --job {job}" if job is not None else ""
        print(f"{place} is in use; next: consilo silo check {contract}{more}")


@app.command(name="contract")
def new(
    data: Annotated[str, typer.Argument(help="The data set's name.")],
    name: Annotated[str, typer.Option(help="The contract's name, such as clinic.")],
    directory: Directory = Path("."),
    as_json: AsJson = False,
) -> None:
    """Draft a contract from a data set's columns, and the mapping to it, for people to mend.

    Names become small letters, digits and underscores; types, units and codes are proposed.

    Example: consilo silo data contract patients --name clinic
    """
    from silos.proposals import onboard
    from silos.proposals.new_contract import new_contract

    rows = onboard.sample(onboard.source_of(directory, data))
    contract, mapping = new_contract(directory, data, rows, name)
    if as_json:
        import json

        told = {"contract": str(contract), "mapping": str(mapping), "columns": len(rows.columns)}
        print(json.dumps(told))
        return
    print(f"{contract}: {len(rows.columns)} columns; {mapping}: their names here")
    print(f"next: read and mend both, then: consilo silo data confirm {name}@1")


@app.command(name="list")
def list_(directory: Directory = Path("."), as_json: AsJson = False) -> None:
    """Show the silo's data sets and the contracts they are mapped to.

    Example: consilo silo data list
    """
    from silos.proposals import onboard
    from silos.silo_config import require_directory

    require_directory(directory)
    known = onboard.known_data(directory)
    mapped = onboard.mappings(directory)
    rows: list[dict[str, Any]] = [
        {"data": name, "type": str(each.get("type")), "mappings": mapped.get(name, [])}
        for name, each in known.items()
    ]
    if as_json:
        import json

        print(json.dumps({"data": rows}))
        return
    for row in rows:
        contracts = [
            f"{each['contract']}{'' if each['confirmed'] else ' (not confirmed)'}"
            for each in row["mappings"]
        ]
        print(f"{row['data']:<24}{row['type']:<10}{', '.join(contracts) or 'no mapping'}")


def _contract(reference: str, directory: Path, job: Path | None = None, silo: str = "") -> Any:
    from consilo.contracts.contract import Contract

    contract = Contract.load(reference, search=(Path.cwd(), directory))
    if job is None:
        return contract
    from consilo.jobs.job import Job
    from silos.proposals.onboard import silo_name

    return Job.load(job).part(contract, silo or silo_name(directory))


def _one(place: Any) -> Any:
    return place[0] if isinstance(place, list) and len(place) == 1 else place


def _asked(
    name: str, places: dict[str, Any], contract: str, directory: Path
) -> tuple[str, dict[str, Any], str]:
    """Return what is still to be known, asked of the person at the terminal."""
    from rich.prompt import Prompt

    from silos.proposals import onboard

    if not name:
        name = Prompt.ask("What is the data set called", default="patients")
    if not places and name not in onboard.known_data(directory):
        kinds = ["csv", "parquet", "sqlite", "duckdb", "url"]
        kind = Prompt.ask("Where are the rows", choices=kinds, default="csv")
        place = Prompt.ask("URL, without the password" if kind == "url" else "File or folder")
        places = {"sql": place} if kind == "url" else {kind: onboard.relative(place, directory)}
    if not contract:
        contract = Prompt.ask("Propose a mapping to which contract (empty: none)", default="")
    return name, places, contract


def _show(added: Added, contract: str) -> None:
    from rich.console import Console
    from rich.table import Table

    state = "connected" if added.written else "was connected before"
    print(f"{added.data}: {state}; {len(added.columns)} columns can be read")
    for note in added.notes:
        print(f"  {note}")
    if added.mapping is None:
        print("next: consilo silo data add " + added.data + " --contract NAME@VERSION")
        return
    if added.proposal is None:
        print(f"next: read {added.mapping}, then: consilo silo data confirm {contract}")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("contract", "local column", "score", "to confirm"):
        table.add_column(heading, overflow="fold")
    for each in added.proposal.columns:
        table.add_row(
            each.column, each.source or "(none)", f"{each.score:.2f}", "; ".join(each.doubts)
        )
    Console(soft_wrap=False).print(table)
    doubtful = len(added.proposal.doubtful)
    print(f"proposed: {added.mapping}; {doubtful} of {len(added.proposal.columns)} to look at")
    print(f"next: read it, mend it, then: consilo silo data confirm {contract}")
