"""``consilo model card`` and ``consilo model verify``: a model's card, written and checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from consilo.errors import ConfigInvalid
from flows.commands.terminal import JsonFlag

Name = Annotated[str, typer.Argument(help="The registered model's.")]
Version = Annotated[str, typer.Argument(help="A number, or an alias such as candidate.")]
Home = Annotated[Path, typer.Option("--dir", help="Directory of the coordinator.")]


def card(
    name: Name,
    version: Version,
    directory: Home = Path("coordinator"),
    out: Annotated[
        Path | None,
        typer.Option(help="A fresh folder, or a name that ends in .zip.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw a version's card anew, attach it in the registry, and write a folder that proves it.

    Example: consilo model card heart 3 --dir coordinator --out heart-3
    """
    from consilo.machine.environment import quieten

    quieten()  # before MLflow is imported
    from mlflow import MlflowClient

    from consilo.membership.keys import load_or_create_signing_key
    from flows.registry.cards import write
    from flows.registry.model_lookup import number_of
    from flows.services.federation import Addresses

    home = directory.resolve()
    uri = Addresses.load(home).tracking_uri
    signing = home / "keys" / "record.key"
    if not signing.exists():
        raise ConfigInvalid(str(signing), ["the coordinator's key is not there: a card is signed"])
    client = MlflowClient(uri)
    number = number_of(client, name, version)
    drawn = write(
        client, home, load_or_create_signing_key(signing), name=name, version=number, out=out
    )
    told: dict[str, Any] = {
        "model": name,
        "version": number,
        "run": drawn.subject.told.run_id,
        "record_head": drawn.subject.told.head,
        "out": None if out is None else str(out),
    }
    if as_json:
        print(json.dumps(told))
        return
    print(f"{name} version {number}: the card is attached to it in the registry, {uri}")
    if out is not None:
        print(f"{out}: check it with: consilo model verify {out} --key {signing}.pub")


def verify(
    place: Annotated[Path, typer.Argument(help="What 'consilo model card' wrote: folder or zip.")],
    key: Annotated[
        list[Path] | None,
        typer.Option(
            help="The coordinator's public key, or a folder 'keys' that you trust; several are "
            "possible.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a model's card, offline: bytes, record, signatures; exit code 1 if one fails.

    Example: consilo model verify heart-3 --key coordinator.pub
    """
    from consilo.cards.verify import verify as check

    verdict = check(place, key or ())
    if as_json:
        print(json.dumps(verdict.to_json()))
    else:
        for each in verdict.checks:
            print(f"{'ok  ' if each.passed else 'FAIL'}  {_shown(each.what)}: {_shown(each.found)}")
        for note in verdict.notes:
            print(f"note  {_shown(note)}")
        about = verdict.about
        which = f"{about['model']} version {about['version']}, run {about['run']}" if about else ""
        ending = "all of it fits" if verdict.passed else "NOT what its record says"
        print(_shown(f"{which or place}: {ending}"), file=sys.stderr)
    if not verdict.passed:
        raise typer.Exit(1)


def _shown(text: str) -> str:
    from consilo.printable import printable

    return printable(text)
