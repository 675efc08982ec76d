"""The command line. Commands come from entry points, so this module knows no other package.

A package registers a group or a command under ``consilo.commands``; a silo without the
coordinator's packages simply lacks theirs. What a command needs is imported when it runs.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

from consilo.errors import ConsiloError

EPILOG = "Try it: consilo demo    (a whole federation on this machine, end to end)"


def build() -> typer.Typer:
    """Return the application with every registered command."""
    app = typer.Typer(
        help="Federated learning across organisations, run like a data pipeline.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for entry in sorted(entry_points(group="consilo.commands"), key=lambda each: each.name):
        found = entry.load()
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=entry.name)
        else:
            app.command(entry.name)(found)
    return app


def main() -> None:
    """Run the command line; a user's error is one message and exit code 1, never a traceback."""
    try:
        build()()
    except ConsiloError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
