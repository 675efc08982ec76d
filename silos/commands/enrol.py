"""The silo operator's commands about membership: init, renew, partners."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consilo.cli import group
from consilo.errors import ConfigInvalid

if TYPE_CHECKING:
    from silos.membership.enrol import Standing

Directory = Annotated[Path, typer.Option("--dir", help="The silo's directory.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
_POLL_S = 3.0


def init(
    invitation: Annotated[Path, typer.Argument(help="The file from the coordinator.")],
    directory: Directory = Path("."),
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for admission; 0 does not wait.")
    ] = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """Join a federation: make keys here, check the coordinator, send the public halves.

    Safe to run again: it picks up where it stopped.

    Example: consilo silo init cleveland.invitation.json --dir silos/cleveland
    """
    from silos.membership.enrol import join, refresh

    folder = directory.resolve()
    standing = join(invitation, folder, say=_say)
    if standing.state == "pending":
        _say(
            f"waiting for admission; read this to the coordinator's operator, who sees it too:\n"
            f"  node key SHA-256 {standing.key_sha256}"
        )
    deadline = time.monotonic() + wait
    while standing.state == "pending" and time.monotonic() < deadline:
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        standing = refresh(folder)
    _tell(standing, as_json)
    if standing.state == "pending":
        _say("run the same command again, or start the node: it waits for admission by itself")


def renew(
    directory: Directory = Path("."),
    new_key: Annotated[
        bool, typer.Option("--new-key", help="A new node key; a running node moves over to it.")
    ] = False,
    new_signing_key: Annotated[
        bool,
        typer.Option(
            "--new-signing-key", help="A new signing key; partners must confirm it. Between runs."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Renew the silo's certificate, or a key of it; a running node need not be restarted.

    Example: consilo silo renew --new-key --dir silos/cleveland
    """
    from silos.membership import enrol

    folder = directory.resolve()
    if new_key and new_signing_key:
        raise ConfigInvalid("silo renew", ["one key at a time"])
    if new_key:
        standing = enrol.change_key(folder)
        _say("the new key is known; a running node moves over, else the next start does")
    elif new_signing_key:
        standing = enrol.change_signing_key(folder)
        _say("tell your partners' operators: consilo silo partners confirm …")
    else:
        standing = enrol.renew(folder)
    _tell(standing, as_json)


partners_app = group(
    "Other silos' signing keys as this silo has pinned them.", invoke_without_command=True
)


@partners_app.callback()
def partners(
    context: typer.Context, directory: Directory = Path("."), as_json: JsonFlag = False
) -> None:
    """List the pinned partners, and this silo's own key for them.

    Example: consilo silo partners --dir silos/cleveland
    """
    if context.invoked_subcommand is not None:
        return
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.wire.signing import public_hex
    from silos.gate.partners import every_partner

    folder = directory.resolve()
    known = every_partner(folder)
    if not (folder / "signing.key").exists():
        raise ConfigInvalid(str(folder), ["this silo has no keys; 'consilo silo init' makes them"])
    own = public_hex(load_or_create_signing_key(folder / "signing.key"))
    if as_json:
        pinned = {name: each.model_dump() for name, each in known.items()}
        print(json.dumps({"own_key": own, "partners": pinned}))
        return
    print(f"this silo's signing key: {own}")
    for name, each in sorted(known.items()):
        state = "confirmed" if each.confirmed else "seen first " + each.first_seen
        gone = "" if each.listed else ", no longer a member"
        offered = f"; another key is offered: {each.offered}" if each.offered else ""
        print(f"{name:<24}{each.signing_key}  {state}{gone}{offered}")


@partners_app.command()
def confirm(
    name: Annotated[str, typer.Argument(help="The partner.")],
    fingerprint: Annotated[
        str | None,
        typer.Option(help="First digits of its key, 16 at least, as its operator reads them."),
    ] = None,
    directory: Directory = Path("."),
) -> None:
    """Trust a partner's key, once its operator has read it to you.

    Example: consilo silo partners confirm hungary --fingerprint 3f5a09c2b1d4e677 --dir silos/mine
    """
    from silos.gate.partners import confirm_partner, every_partner

    folder = directory.resolve()
    if fingerprint is None:
        known = every_partner(folder).get(name)
        if known is None or not sys.stdin.isatty():
            raise ConfigInvalid(name, ["give --fingerprint, as the partner's operator reads it"])
        key = known.offered or known.signing_key
        if not typer.confirm(f"{name}'s key is\n  {key}\nDoes its operator read the same?"):
            raise typer.Exit(1)
        fingerprint = key
    confirm_partner(folder, name, fingerprint)
    print(f"{name}: confirmed")


def _tell(standing: Standing, as_json: bool) -> None:
    for each in standing.news:
        _say(each)
    if as_json:
        print(json.dumps(standing.to_json()))
        return
    until = f", certificate until {standing.valid_until}" if standing.valid_until else ""
    print(f"{standing.name}: {standing.state}{until}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
