"""The command line. Commands come from entry points, so this module knows no other package.

A package registers a group or a command under ``consilo.commands``; a silo without the
coordinator's packages simply lacks theirs. It is light, so that help comes at once: a registered
module imports at its top what its signatures need, what a command needs is imported when it runs,
and only the module of the command that is named becomes click's objects. The help of a group is
plain text: Rich, with its Markdown, would take as long to import as all the rest.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import UserDict
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click
import typer
from typer.core import TyperCommand, TyperGroup

from consilo.errors import ConsiloError
from consilo.garbage import collect_seldom

EPILOG = "Try it: consilo demo (a whole federation on this machine, end to end)"


class Command(TyperCommand):
    """A command that refuses an option that is given twice and takes one value.

    Click takes the last of them without a word.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what was typed.

        Raises:
            click.BadOptionUsage: where an option that takes one value has two.
        """
        order = [] if ctx.resilient_parsing else self.make_parser(ctx).parse_args(list(args))[2]
        for each in order:
            if not isinstance(each, click.Option) or each.multiple or each.count:
                continue
            if order.count(each) > 1 and not (each.is_flag and not each.secondary_opts):
                name = each.opts[0]
                raise click.BadOptionUsage(name, f"{name} is given twice; it takes one value", ctx)
        return super().parse_args(ctx, args)


class _Application(typer.Typer):
    """An application whose commands are of our class."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a command."""
        return super().command(name, **{"cls": Command, **settings})


class CommandGroup(TyperGroup):
    """A group whose help is plain text, with the first sentence of each command whole.

    One that does something by itself has options, and shows them by Rich as a command does.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.suggest_commands = False  # click does, and so it would be said twice
        if not self.params:
            self.rich_markup_mode = None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one entry for each command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.help_of(name)) for name in self.list_commands(ctx)])

    def help_of(self, name: str) -> str:
        """Return what a list of commands says of one."""
        return _first_sentence(self.commands[name])


class _Registered(UserDict[str, Any]):
    """Name → click's command; its module is imported when somebody asks for it."""

    def __init__(self) -> None:
        super().__init__({each.name: each for each in entry_points(group="consilo.commands")})

    def __getitem__(self, name: str) -> click.Command:
        loaded = self.entry(name).load()
        if isinstance(loaded, typer.Typer):
            return typer.main.get_command(loaded)
        app = _Application(add_completion=False)
        app.command(name)(loaded)
        return typer.main.get_command(app)

    def entry(self, name: str) -> EntryPoint:
        """Return where a command is, without importing it."""
        entry: EntryPoint = self.data[name]
        return entry


class _Commands(CommandGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = self._registered = _Registered()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._registered)

    def help_of(self, name: str) -> str:
        # Click's objects of every command would double the time of the first help.
        loaded = self._registered.entry(name).load()
        text = loaded.info.help if isinstance(loaded, typer.Typer) else loaded.__doc__
        return _first_sentence(click.Command(name, help=text))


def group(
    help: str,
    *,
    epilog: str = "",
    cls: type[CommandGroup] = CommandGroup,
    invoke_without_command: bool = False,
) -> typer.Typer:
    """Return an empty group of commands, with the settings that all of Consilo's share.

    Args:
        help: its first sentence stands in the list of the group above.
        epilog: the last line of its help.
        cls: its class.
        invoke_without_command: its callback does something by itself; else it shows its help.
    """
    return _Application(
        help=help,
        epilog=epilog,
        cls=cls,
        invoke_without_command=invoke_without_command,
        no_args_is_help=not invoke_without_command,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def build() -> typer.Typer:
    """Return the application with every registered command."""
    app = group(
        "Federated learning across organisations, run like a data pipeline.",
        epilog=EPILOG,
        cls=_Commands,
    )
    app.callback()(lambda: None)  # makes it a group, though no command is there yet
    return app


def main() -> None:
    """Run the command line; a user's error is one message and exit code 1, never a traceback.

    With ``--json`` each exit prints one document: that of the command or, where it comes to none,
    ``status`` (failed, refused or cancelled), ``error`` (the kind), ``reason`` and, of what can be
    gone on with, the command that does it (``resume``).
    """
    collect_seldom()
    os.umask(0o077)  # what a command writes is its user's; what is handed on says its mode
    as_json = "--json" in sys.argv[1:]
    try:
        if as_json:
            signal.signal(signal.SIGTERM, _terminated)
            raise SystemExit(_without_messages(build()))
        build()()
    except ConsiloError as error:
        from consilo.printable import printable_lines

        reason = printable_lines(str(error))
        print(f"error: {reason}", file=sys.stderr)
        if as_json:
            _tell("failed", type(error).__name__, reason, error.resume)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        if as_json:
            _tell("cancelled", "Stopped", "the command was stopped (Ctrl-C)")
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except Exception as error:
        if as_json:
            _tell("failed", type(error).__name__, f"a fault of the program: {error}")
        raise


_INTERRUPTED, _TERMINATED = 130, 143


def _terminated(*_: Any) -> None:
    raise SystemExit(_TERMINATED)


def _without_messages(app: typer.Typer) -> int:
    """Run the application and return its exit code; wrong usage is told as a document, too."""
    try:
        code = app(standalone_mode=False)
    except SystemExit as ending:
        if ending.code == _TERMINATED:
            _tell("cancelled", "Stopped", "the command was told to end (SIGTERM)")
        raise
    except click.ClickException as error:
        error.show()
        _tell("refused", "Usage", error.format_message())
        return error.exit_code
    if code == _INTERRUPTED:  # typer makes an exit code of Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _tell(status: str, error: str, reason: str, resume: str = "") -> None:
    """Print the document of a command that comes to no other."""
    told = {"status": status, "error": error, "reason": reason}
    print(json.dumps({**told, "resume": resume} if resume else told), flush=True)


def _first_sentence(command: click.Command) -> str:
    return command.get_short_help_str(limit=1_000)
