"""The command line comes at once: what its help imports, and what its groups say."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
import typer
from typer.testing import CliRunner

from consilo.cli import CommandGroup, build

HEAVY = {
    "cryptography",
    "flwr",
    "mlflow",
    "numpy",
    "pandas",
    "prefect",
    "psutil",
    "pyarrow",
    "pydantic",
    "rapidfuzz",
    "rich",
    "torch",
    "yaml",
}
MOST_MODULES = 250
"""Python's own, click, typer and ours; at most 213 with Python 3.11.7, typer 0.20, click 8.5."""

HELP = """
import json, sys
from consilo.cli import main
sys.argv = ["consilo", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", ["", "silo", "silo data", "job", "match", "model", "run", "silos"]
)
def test_the_help_of_a_group_imports_little(words):
    # It once came after 0.62 s: the record's numpy, the contracts' pydantic, Rich's Markdown.
    command = [sys.executable, "-c", HELP, *words.split(), "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert f"Usage: consilo {words}".strip() in ended.stdout
    imported = json.loads(ended.stderr)
    assert HEAVY & {name.partition(".")[0] for name in imported} == set()
    assert len(imported) < MOST_MODULES, imported


def groups(command: click.Command, path: str) -> list[tuple[str, CommandGroup]]:
    if not isinstance(command, click.Group):
        return []
    assert isinstance(command, CommandGroup), f"{path}: made by consilo.cli.group"
    below = [groups(each, f"{path} {name}") for name, each in command.commands.items()]
    return [(path, command), *(each for found in below for each in found)]


def test_every_command_of_every_group_has_one_sentence_that_help_shows_whole():
    found = groups(typer.main.get_command(build()), "consilo")
    assert [path for path, _ in found if path.count(" ") < 2] == [
        "consilo",
        *(f"consilo {name}" for name in ("job", "ledger", "match", "model", "page", "reviewer")),
        *(f"consilo {name}" for name in ("run", "silo", "silos")),
    ]
    for path, group in found:
        told = CliRunner().invoke(build(), [*path.split()[1:], "--help"]).output
        shown = " ".join(told.replace("│", " ").split())
        for name, command in group.commands.items():
            # The list of the commands is made without click's objects, and says what they say.
            said = command.get_short_help_str(limit=1_000)
            assert len(said) > 10, f"{path} {name}"
            assert f"{name} {said}" in shown


def test_only_the_module_of_the_command_that_is_named_is_imported():
    told = HELP + "assert 'flows.commands.job' not in sys.modules\n"
    command = [sys.executable, "-c", told, "silo", "policy", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_a_slip_of_the_pen_is_answered_with_the_nearest_command():
    ended = CliRunner().invoke(build(), ["jbo"])
    assert ended.exit_code == 2
    assert ended.output.count("Did you mean 'job'?") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["new", "x", "--csv", "a.csv", "--target", "time", "--target", "event"],
        ["silo", "data", "add", "rows", "--separator", ";", "--separator", ","],
        ["silo", "data", "add", "rows", "--header", "--no-header"],
    ],
)
def test_an_option_of_one_value_is_not_taken_from_two(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(build(), words)
    assert found.exit_code == 2
    assert "is given twice; it takes one value" in found.output
    assert not (tmp_path / "x").exists()


def test_an_option_of_several_values_and_a_repeated_flag_are_taken():
    words = [
        "silo",
        "data",
        "add",
        "rows",
        "--csv",
        "no.csv",
        "--csv",
        "no2.csv",
        "--json",
        "--json",
    ]
    found = CliRunner().invoke(build(), words)
    assert "given twice" not in found.output + str(found.exception)
