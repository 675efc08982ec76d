"""Every command line in the docs is one that the program understands: names, arguments, options."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for block in re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL):
            for line in block.splitlines():
                if line.startswith("consilo "):
                    told = re.split(r"\s{2,}", re.sub(r"\s+#.*", "", line), maxsplit=1)[0]
                    found.append((page.name, told))
    return found


@pytest.fixture(scope="module")
def commands() -> dict[str, click.Command]:
    made = {}
    for entry in entry_points(group="consilo.commands"):
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            made[entry.name] = typer.main.get_command(loaded)
        else:
            app = typer.Typer()
            app.command(entry.name)(loaded)
            made[entry.name] = typer.main.get_command(app)
    return made


def test_the_docs_have_commands() -> None:
    assert len(lines()) > 40


@pytest.mark.parametrize(("page", "line"), lines())
def test_a_command_is_one_that_the_program_understands(page, line, commands) -> None:
    words = [word for word in shlex.split(line)[1:] if word != "…"]
    command = commands[words.pop(0)]
    while isinstance(command, click.Group):
        if words[0] not in command.commands and command.invoke_without_command:
            break
        name = words.pop(0)
        assert name in command.commands, f"{page}: there is no command '{name}' in: {line}"
        command = command.commands[name]
    try:
        command.make_context(command.name, words)
    except click.UsageError as cause:
        # A file that is not there is no fault of the page.
        if "does not exist" not in cause.format_message():
            pytest.fail(f"{page}: {line}: {cause.format_message()}")
