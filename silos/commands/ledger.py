"""``consilo silo ledger`` for the operator, ``consilo ledger verify`` for an auditor."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from consilo.cli import group
from consilo.errors import ConfigInvalid
from consilo.printable import printable

Directory = Annotated[Path, typer.Option("--dir", help="The silo's directory.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]

_DELTA = 1e-5
_BAR = 20

app = group("The silo's privacy ledger.", invoke_without_command=True)
auditor_app = group("Verify what a silo has exported.")


@app.callback()
def ledger(
    context: typer.Context,
    directory: Directory = Path("."),
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the burn-down into a .png or .svg file; needs matplotlib."),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="δ for data sets without a budget; figures only.")
    ] = _DELTA,
    as_json: JsonFlag = False,
) -> None:
    """Show the privacy accounts: each run, what it cost, what is left.

    Example: consilo silo ledger --dir silos/cleveland --plot ledger.svg
    """
    if context.invoked_subcommand is not None:
        return
    from silos.accounts_told import told_of

    told = told_of(directory, delta=delta, now=datetime.now(UTC))
    if plot is not None:
        _plot(told, plot)
    if as_json:
        print(json.dumps(told))
    else:
        _show(told)
        if plot is not None:
            print(f"burn-down: {plot}")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it.")],
    directory: Directory = Path("."),
    as_json: JsonFlag = False,
) -> None:
    """Write the ledger as a signed file for an auditor: names, counts and noise, no values.

    Example: consilo silo ledger export ledger.jsonl --dir silos/cleveland
    """
    from consilo.config import parse, read_yaml
    from consilo.membership.keys import load_or_create_signing_key
    from silos.accounts_told import opened
    from silos.kept import statement
    from silos.silo_config import SiloConfig

    entries, ties, budgets = opened(directory)
    name = parse(SiloConfig, read_yaml(directory / "silo.yaml"), where="silo.yaml").name
    if not (directory / "signing.key").is_file():
        raise ConfigInvalid(
            str(directory), ["no signing.key: this silo has not joined yet, or it has left"]
        )
    key = load_or_create_signing_key(directory / "signing.key")
    exported = statement.export(file, entries, silo=name, budgets=budgets, key=key, ties=ties)
    if as_json:
        print(json.dumps({"file": str(file), **exported}))
    else:
        print(f"{exported['entries']} entries in {file}, signed with {exported['signing_key']}")


@app.command()
def accept(directory: Directory = Path("."), as_json: JsonFlag = False) -> None:
    """Go on with a silo that had forgotten what it said, such as one from an older backup.

    What its ledger has lost is not counted any more: lower the budget by it first, if you know it.

    Example: consilo silo ledger accept --dir silos/cleveland
    """
    from silos.gate.audit import audit_log
    from silos.gate.history import History
    from silos.gate.identity import Identity
    from silos.kept.ledger import Ledger

    identity = Identity(directory, None, only_confirmed=False)
    history = History(directory, audit_log(directory), identity, Ledger(directory / "ledger.db"))
    lacking = history.accept()
    if as_json:
        print(json.dumps({"accepted": lacking}))
    elif lacking is None:
        print("nothing was found to be forgotten")
    else:
        print(f"goes on; its {lacking['what']} lacks {lacking['accepted']}")


@app.command()
def apart(
    account: Annotated[str, typer.Argument(help="One of two accounts, as 'ledger' shows them.")],
    other: Annotated[str, typer.Argument(help="The other one.")],
    reason: Annotated[str, typer.Option(help="How you know; it stays in the ledger.")],
    directory: Directory = Path("."),
    as_json: JsonFlag = False,
) -> None:
    """Say that two accounts which could not be compared hold other rows.

    Accounts whose rows were found to be the same stay linked, whatever anybody says.

    Example: consilo silo ledger apart visits billing --reason 'no patient is in both'
    """
    from silos.gate.audit import audit_log
    from silos.kept.ledger import Ledger

    if not (directory / "ledger.db").is_file():
        raise ConfigInvalid(str(directory), ["no ledger.db: nothing was ever spent here"])
    if not reason.strip():
        raise ConfigInvalid("--reason", ["say how you know that the rows are others"])
    head = Ledger(directory / "ledger.db").part(account, other, reason)
    audit_log(directory).append(
        "apart", account=account, other=other, why=printable(reason), head=head
    )
    if as_json:
        print(json.dumps({"account": account, "other": other, "head": head}))
    else:
        print(f"{account} and {other} pay for themselves from now on")


@auditor_app.callback()
def _auditor() -> None:
    """Verify what a silo has exported."""


@auditor_app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="What 'consilo silo ledger export' wrote.")],
    key: Annotated[
        str | None, typer.Option(help="The silo's signing key in hexadecimal, from elsewhere.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check an exported privacy ledger: its links, its signature, and every ε computed again.

    Example: consilo ledger verify ledger.jsonl --key 9f2c…
    """
    from silos.kept import statement

    if not file.is_file():
        raise ConfigInvalid(str(file), ["no such file"])
    content = statement.verify(file, key)
    if as_json:
        print(json.dumps({"verified": True, "trusted": key is not None, **content}))
        return
    print(
        f"whole: {content['entries']} entries of {content['silo']}, exported {content['exported']}"
    )
    for name, account in content["accounts"].items():
        for each in account["limits"]:
            print(
                f"{name} {each['limit']}: ε {each['spent']:.4g} of {each['budget']:g} at "
                f"δ {each['delta']:g}, {each['left']:.4g} left"
            )
        if not account["limits"]:
            print(f"{name}: {account['reserved']} uses, no budget")
    if key is None:
        print("to check who signed it, give the silo's --key", file=sys.stderr)


def _show(told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    if not told["accounts"]:
        console.print("nothing was ever spent")
    for name, account in told["accounts"].items():
        limits = account["limits"]
        first = limits[0] if limits else None
        table = Table(title=f"{name}: {account['reserved']} uses, {account['settled']} answered")
        for title in ("run", "last use", "by", "steps", "rows", "ε so far", "left"):
            table.add_column(title, justify="right" if title in ("steps", "rows") else "left")
        for run in account["runs"]:
            table.add_row(
                run["run"],
                run["time"][:16].replace("T", " "),
                ", ".join(run["mechanisms"]),
                str(run["steps"]),
                str(run["rows"]),
                f"{run['spent']:.4g}",
                "no budget" if first is None else _bar(run["left"], first["budget"]),
            )
        console.print(table)
        unit = {"record": "row", "subject": "subject"}
        console.print(
            f"ε so far, of one {unit[account['unit']]}: by Rényi moments at δ "
            f"{account['delta']:g}, an upper bound"
        )
        for each in limits:
            how = "PRV" if each["spent"] < each["bound"] else "Rényi moments"
            console.print(
                f"{each['limit']}: ε {each['spent']:.4g} of {each['budget']:g} at δ "
                f"{each['delta']:g} by {how}, of one {unit[each['unit']]}; {each['left']:.4g} left"
            )
        if account["forecast"]:
            console.print(account["forecast"]["words"])
        if account.get("about_rows"):
            console.print(
                f"{account['about_rows']} uses hid single rows only: no ε of a subject covers them"
            )
    for name, words in told["adjacency"].items():
        console.print(f"{name}: {words}")

    for each in told["links"]:
        pair = f"{each['time'][:16].replace('T', ' ')}  {each['account']} and {each['other']}"
        why = each["words"]
        console.print(f"{pair}: {why}", highlight=False, markup=False)


def _bar(left: float, budget: float) -> str:
    full = round(_BAR * left / budget)
    return f"{'█' * full}{'░' * (_BAR - full)} {left:.3g}"


def _plot(told: Mapping[str, Any], path: Path) -> None:
    if path.suffix not in (".png", ".svg"):
        raise ConfigInvalid(str(path), ["--plot: give a .png or .svg file"])
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigInvalid(
            "silo ledger --plot",
            [
                "matplotlib is not installed here; the table shows the same: leave --plot out, or "
                "'pip install matplotlib'"
            ],
        ) from None
    figure = Figure(figsize=(8, 2.6 * max(1, len(told["accounts"]))), layout="constrained")
    for place, (name, account) in enumerate(told["accounts"].items(), start=1):
        axes = figure.add_subplot(max(1, len(told["accounts"])), 1, place)
        times = [datetime.fromisoformat(run["time"]) for run in account["runs"]]
        figures = [run["spent"] if run["left"] is None else run["left"] for run in account["runs"]]
        # Matplotlib draws times; its types know only of numbers.
        axes.step(times, figures, where="post", marker="o")  # type: ignore[arg-type]
        if account["limits"]:
            axes.set_ylim(0, account["limits"][0]["budget"] * 1.05)
            axes.axhline(account["limits"][0]["budget"], linestyle=":", color="grey")
        left = f"ε left {account['limits'][0]['limit']}" if account["limits"] else "ε so far"
        axes.set_title(f"{name}: {left}, δ {account['delta']:g}", fontsize=9)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
