"""The coordinator's commands about its silos: invite, list, admit, suspend, remove, renew.

They work on the coordinator's files, whether or not it is up: a SuperLink that runs notices a
change within a second, one that does not finds it when it starts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consilo.cli import group
from consilo.errors import ConfigInvalid
from flows.commands.terminal import JsonFlag

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from consilo.membership.coordinator import Coordinator
    from consilo.membership.members import Member
    from consilo.transports.flower.superlink import Presence

Home = Annotated[Path, typer.Option("--dir", help="The coordinator's directory.")]
Name = Annotated[str, typer.Argument(help="The silo's name.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

silos_app = group("Who belongs to the federation: invite, list, admit, suspend, remove, renew.")


@silos_app.command()
def invite(
    name: Name,
    directory: Home,
    out: Annotated[
        Path | None, typer.Option(help="File for the invitation; else NAME.invitation.json.")
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, max=90, help="How long it holds.")] = 7,
    as_json: JsonFlag = False,
) -> None:
    """Write a one-time invitation for a silo; hand it over on a way that you trust.

    Example: consilo silos invite cleveland --dir coordinator/
    """
    from flows.services.place import settle_place

    path = out or Path(f"{name}.invitation.json")
    if path.exists():
        raise ConfigInvalid(str(path), ["the file exists; choose another --out"])
    with _open(directory, new=True) as coordinator:
        place = settle_place(directory.resolve())
        invitation = coordinator.invite(name, place.address, days=days)
    invitation.write(path)
    told = {
        "name": name,
        "file": str(path),
        "address": invitation.address,
        "expires": invitation.expires,
        "ca_sha256": invitation.ca_sha256,
    }
    _print(
        told,
        f"invitation for {name}: {path}, until {invitation.expires}; there:\n"
        f"  consilo silo init {path.name}\n"
        f"It is a secret until it is used. Silos connect to {invitation.address}.",
        as_json,
    )
    if place.address.startswith("127."):
        _warn(
            f"{place.address} is this machine only; for silos elsewhere say "
            "'consilo up --host … --advertise …' before you invite"
        )


@silos_app.command("list")
def list_silos(directory: Home, as_json: JsonFlag = False) -> None:
    """List every silo: state, online or gone and since when, versions; and when what expires.

    Example: consilo silos list --dir coordinator/
    """
    from consilo.membership.software import installed

    ours = installed()
    with _open(directory) as coordinator:
        members = coordinator.members.all().values()
        calendar = [
            {"when": when, "whose": whose, "what": what}
            for when, whose, what in coordinator.expiries()
        ]
        now = coordinator.now()
    connected = _presences(directory)
    rows = [
        {
            **_told(each),
            "behind": list(each.software.behind(ours)),
            **_connected(each.name, connected),
        }
        for each in members
    ]
    if as_json:
        print(json.dumps({"silos": rows, "calendar": calendar, "here": ours.to_json()}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="Silos")
    for column in ("silo", "state", "connected", "last seen", "certificate until", "key", "behind"):
        table.add_column(column)
    for row in rows:
        behind = ", ".join(row["behind"]) or ("" if row["state"] == "invited" else "no")
        here = " since ".join(filter(None, (row["connected"], row["connected_since"][:19])))
        cells = (row["name"], row["state"], here, row["last_seen"] or "never")
        table.add_row(*cells, row["valid_until"] or "-", row["key_sha256"][:16], behind)
    console.print(table)
    calendar_table = Table(title="What expires when")
    for column in ("when", "whose", "what", "days left"):
        calendar_table.add_column(column)
    for each in calendar:
        left = _days(each["when"], now)
        calendar_table.add_row(each["when"], each["whose"], each["what"], str(left))
    console.print(calendar_table)


@silos_app.command()
def admit(
    name: Name,
    directory: Home,
    fingerprint: Annotated[
        str | None,
        typer.Option(help="First digits of the key's SHA-256, 16 at least, as the silo reads it."),
    ] = None,
    yes: Yes = False,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Its certificate's life.")] = 365,
    as_json: JsonFlag = False,
) -> None:
    """Admit a silo that has joined, or that was suspended, after its fingerprint was compared.

    Example: consilo silos admit cleveland --dir coordinator/
    """
    with _open(directory) as coordinator:
        member = coordinator.members.known(name)
        if not member.keys:
            raise ConfigInvalid(
                name, [f"this silo is {member.state}: its keys have not arrived yet"]
            )
        shown = member.keys[-1].fingerprint
        if fingerprint is not None:
            wanted = fingerprint.strip().lower().replace(":", "")
            if len(wanted) < 16 or not shown.startswith(wanted):
                raise ConfigInvalid(
                    name, [f"its key begins with {shown[:16]}, not with what was given"]
                )
        elif not yes:
            _ask(
                f"{name}'s node key has the SHA-256\n  {shown}\nDoes its operator read the same?",
                "--fingerprint",
            )
        member = coordinator.admit(name, days=days)
    _print(_told(member), f"{name} is admitted; its certificate ends {member.valid_until}", as_json)


@silos_app.command()
def suspend(name: Name, directory: Home, as_json: JsonFlag = False) -> None:
    """Let a silo do nothing until it is admitted again; takes effect within a second.

    Example: consilo silos suspend cleveland --dir coordinator/
    """
    with _open(directory) as coordinator:
        coordinator.suspend(name)
        member = coordinator.members.known(name)
    _print(_told(member), f"{name} is suspended; 'admit' lets it back", as_json)


@silos_app.command()
def remove(name: Name, directory: Home, yes: Yes = False, as_json: JsonFlag = False) -> None:
    """Strike a silo off: certificates revoked, keys never accepted again.

    Example: consilo silos remove cleveland --dir coordinator/
    """
    from consilo.record.traces import traces_of

    with _open(directory) as coordinator:
        coordinator.members.known(name)
        if not yes:
            _ask(f"Strike {name} off for good? Its keys will never be accepted again.", "--yes")
        coordinator.remove(name)
        member = coordinator.members.known(name)
    traces = traces_of(name, directory / "runs")
    lines = [f"{name} is removed; to come back it needs a new invitation"]
    for each in traces.models:
        lines.append(f"contains its updates: {each.name} version {each.version} ({each.run_id})")
    if traces.models:
        lines.append(_tag(directory))
    _print({**_told(member), **traces.to_json()}, "\n".join(lines), as_json)


def _tag(home: Path) -> str:
    """Tag the models of silos that left, where the registry is up; say what was done."""
    from consilo.errors import CoordinatorUnreachable
    from flows.registry.departed import tag_departed
    from flows.services.federation import Addresses

    try:
        addresses = Addresses.load(home)
    except CoordinatorUnreachable:
        return "the registry is not up; 'consilo up' tags these versions when it starts"
    count = sum(len(each) for each in tag_departed(home, addresses.tracking_uri).values())
    return f"{count} versions are tagged in the registry"


@silos_app.command()
def renew(
    directory: Home,
    name: Annotated[str, typer.Argument(help="A silo's name.")] = "",
    server: Annotated[
        bool, typer.Option("--server", help="The coordinator's own server certificate.")
    ] = False,
    authority: Annotated[
        bool,
        typer.Option("--authority", help="Announce a new certificate authority, or move to it."),
    ] = False,
    signing_key: Annotated[
        bool,
        typer.Option("--signing-key", help="Announce a new key for requests, or move to it."),
    ] = False,
    days: Annotated[int, typer.Option(min=1, max=3650, help="The new one's life.")] = 365,
    yes: Yes = False,
    as_json: JsonFlag = False,
) -> None:
    """Renew one silo's certificate (it fetches it by itself), or the coordinator's own.

    Example: consilo silos renew cleveland --dir coordinator/
    """
    if sum((bool(name), server, authority, signing_key)) != 1:
        raise ConfigInvalid(
            "silos renew", ["give one of: a silo's name, --server, --authority, --signing-key"]
        )
    with _open(directory) as coordinator:
        if name:
            member = coordinator.renew(name, days=days)
            _print(
                _told(member),
                f"{name} has a new certificate until {member.valid_until}; its node fetches it "
                "by itself, the old one stays valid until its end",
                as_json,
            )
        elif server:
            until = coordinator.renew_server(days=days)
            _print({"server_until": until}, f"the server's certificate ends {until}", as_json)
        elif signing_key:
            outcome = coordinator.renew_signing_key(force=yes)
            _print({"signing_key": outcome}, outcome, as_json)
        else:
            outcome = coordinator.renew_authority(force=yes)
            _print({"authority": outcome}, outcome, as_json)


def _open(directory: Path, *, new: bool = False) -> Coordinator:
    from consilo.membership.coordinator import Coordinator

    home = directory.resolve()
    if not new and not (home / "members.db").exists():
        raise ConfigInvalid(
            str(directory),
            ["no list of members here; give the --dir of 'consilo up', or invite a silo first"],
        )
    return Coordinator(home)


def _told(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "state": member.state,
        "last_seen": member.last_seen,
        "first_seen": member.first_seen,
        "valid_until": member.valid_until,
        "key_sha256": member.keys[-1].fingerprint if member.keys else "",
        "signing_key": member.signing_key,
        "software": member.software.to_json(),
    }


def _presences(directory: Path) -> Mapping[str, Presence] | None:
    """Return what the SuperLink says of its silos; None where none is up."""
    from consilo.errors import CoordinatorUnreachable
    from flows.services.federation import Addresses
    from flows.services.health import presences

    try:
        return presences(Addresses.load(directory.resolve()))
    except CoordinatorUnreachable:
        return None


def _connected(name: str, known: Mapping[str, Presence] | None) -> dict[str, str]:
    """Return whether a silo is connected, and since when: ``unknown`` where nobody can say."""
    if known is None:
        return {"connected": "unknown: the SuperLink is not up", "connected_since": ""}
    here = known.get(name)
    if here is None:
        return {"connected": "never online", "connected_since": ""}
    return {"connected": here.state, "connected_since": here.since}


def _print(told: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(told) if as_json else text)


def _warn(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _ask(question: str, flag: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigInvalid("this command", [f"there is no terminal to ask on; give {flag}"])
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _days(when: str, now: datetime) -> int:
    from datetime import datetime

    return (datetime.fromisoformat(when) - now).days
