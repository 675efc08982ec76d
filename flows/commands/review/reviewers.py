"""``consilo reviewer``: who may decide about models, by their keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from consilo.cli import group
from flows.commands.terminal import JsonFlag

Home = Annotated[Path, typer.Option("--dir", help="The coordinator's directory.")]
Name = Annotated[str, typer.Argument(help="The reviewer's name.")]

reviewer_app = group("Who may decide about models: add, list, remove; and a key for oneself.")


@reviewer_app.command("key")
def make_key(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; FILE.pub is public.")],
    as_json: JsonFlag = False,
) -> None:
    """Make a reviewer's key, on the reviewer's own machine; hand FILE.pub to the coordinator.

    Example: consilo reviewer key bea.key
    """
    from consilo.errors import ConfigInvalid
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.wire.signing import public_hex

    if file.exists():
        raise ConfigInvalid(str(file), ["the file exists; a key is never written over"])
    public = public_hex(load_or_create_signing_key(file))
    told = {"file": str(file), "public_file": f"{file}.pub", "key": public}
    print(json.dumps(told) if as_json else f"{file}, of mode 0600; its public half is {file}.pub")


@reviewer_app.command()
def add(
    name: Name,
    directory: Home,
    key: Annotated[Path, typer.Option(help="The public half of the key, as PEM.")],
    user: Annotated[
        str, typer.Option(help="The login by which this person starts runs; else the name.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Enrol a reviewer; from then on decisions count only when reviewers have signed them.

    Example: consilo reviewer add bea --dir coordinator/ --key bea.key.pub
    """
    from consilo.decisions.reviewers import Enrolment
    from consilo.errors import ConfigInvalid
    from consilo.membership.keys import public_key_hex
    from flows.services.decisions import coordinators_key

    try:
        public = public_key_hex(key)
    except (OSError, ValueError):
        raise ConfigInvalid(str(key), ["expected an Ed25519 public key in PEM"]) from None
    home = directory.resolve()
    made = Enrolment(home, coordinators_key(home)).add(name, public, user=user)
    print(json.dumps(made.to_json()) if as_json else f"{name} may decide: key {public[:16]}…")


@reviewer_app.command("list")
def list_reviewers(directory: Home, as_json: JsonFlag = False) -> None:
    """List who may decide now.

    Example: consilo reviewer list --dir coordinator/
    """
    from consilo.decisions.reviewers import Reviewers

    found = [each.to_json() for each in Reviewers.open(directory.resolve()).enrolled.values()]
    if as_json:
        print(json.dumps({"reviewers": found}))
        return
    for each in found:
        print(f"{each['name']}  login {each['user']}  key {each['key'][:16]}…  {each['since']}")
    if not found:
        print("nobody is enrolled: whoever has a shell here, or the form in Prefect, decides")


@reviewer_app.command()
def remove(
    name: Name,
    directory: Home,
    reason: Annotated[str, typer.Option(help="Why, for the log.")],
    as_json: JsonFlag = False,
) -> None:
    """Strike a reviewer off; what they have decided stays decided.

    Example: consilo reviewer remove bea --dir coordinator/ --reason "has left"
    """
    from consilo.decisions.reviewers import Enrolment
    from flows.services.decisions import coordinators_key

    home = directory.resolve()
    gone = Enrolment(home, coordinators_key(home)).remove(name, reason=reason)
    print(json.dumps(gone.to_json()) if as_json else f"{name} decides no more")
