"""``consilo page``: the federation's page, and who may look at it from elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from consilo.cli import group

Home = Annotated[Path, typer.Option("--dir", help="The coordinator's directory.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]

page_app = group(
    "Serve the federation's page until Ctrl-C; 'consilo up' has it running already.",
    invoke_without_command=True,
)
user_app = group("Who may look at the page from elsewhere: add, remove, list users.")
page_app.add_typer(user_app, name="user")


@page_app.callback()
def page(
    context: typer.Context,
    directory: Annotated[Path, typer.Option("--dir", help="The coordinator's directory.")] = Path(
        "."
    ),
    host: Annotated[
        str, typer.Option(help="Address to bind to; another one asks for a login.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="That of coordinator.yaml, unless said."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="For TLS; that of the federation, unless said.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Of the certificate.")] = None,
) -> None:
    """Serve the federation's page until Ctrl-C; 'consilo up' has it running already.

    Example: consilo page --dir coordinator/ --host 0.0.0.0
    """
    if context.invoked_subcommand is not None:
        return
    from dashboards.server import serve_page

    serve_page(
        directory.resolve(),
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        say=lambda text: print(f"the federation's page: {text}", file=sys.stderr, flush=True),
    )


@user_app.command()
def add(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    directory: Home,
    role: Annotated[str, typer.Option(help="viewer or reviewer.")] = "viewer",
    as_json: JsonFlag = False,
) -> None:
    """Add a user, or give one another password; it is asked for, or read from stdin.

    Example: consilo page user add mona --role reviewer --dir coordinator/
    """
    from consilo.errors import ConfigInvalid
    from dashboards.logins import ROLES, Users

    if role not in ROLES:
        raise ConfigInvalid("--role", [f"expected {' or '.join(ROLES)}, found '{role}'"])
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    _existing(directory)
    Users(directory.resolve()).add(name, password, role)
    print(json.dumps({"name": name, "role": role}) if as_json else f"{name} is a {role}")


@user_app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    directory: Home,
    as_json: JsonFlag = False,
) -> None:
    """Take a user out, at once; who is logged in, too.

    Example: consilo page user remove mona --dir coordinator/
    """
    from dashboards.logins import Users

    Users(directory.resolve()).remove(name)
    print(json.dumps({"name": name}) if as_json else f"{name} is no user any more")


@user_app.command("list")
def list_users(directory: Home, as_json: JsonFlag = False) -> None:
    """List the users and their roles.

    Example: consilo page user list --dir coordinator/
    """
    from dashboards.logins import Users

    users = Users(directory.resolve()).names()
    if as_json:
        print(json.dumps(users))
        return
    for name, role in sorted(users.items()):
        print(f"{name}  {role}")
    if not users:
        print(f"no users; add one: consilo page user add NAME --dir {directory}")


def _existing(directory: Path) -> None:
    from consilo.errors import ConfigInvalid

    if not (directory.resolve() / "members.db").exists():
        raise ConfigInvalid(str(directory), ["no coordinator's directory: no list of members"])
