"""The files of ``docs/jobs.md`` are a study that runs, word for word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_wine

from consilo.cli import build

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r'```\w+ title="([^"]+)"\n(.*?)```', re.DOTALL)


def blocks(page: str) -> dict[str, str]:
    return dict(_BLOCK.findall((DOCS / page).read_text()))


@pytest.mark.flow
def test_the_first_job_runs_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks("jobs.md")
    notebook = found.pop("notebook")
    for name, text in found.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    table = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    table = table[["alcohol", "malic_acid", "flavanoids", "color_intensity", "cultivar"]]
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"north_frame": table[:90], "south_frame": table[90:]}
    exec(notebook, names)
    result = names["result"]
    assert result.status == "complete"
    assert result.metrics["accuracy"] > 0.8
    assert "complete" in capsys.readouterr().out


def test_every_command_that_the_pages_name_exists() -> None:
    from typer.main import get_command

    known = get_command(build())
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for line in re.findall(r"^\s*(?:\$ )?consilo ([a-z][a-z -]*)", page.read_text(), re.M):
            words = line.split()
            command: Any = known
            for word in words:
                commands = getattr(command, "commands", {})
                if word not in commands:
                    break
                command = commands[word]
            assert command is not known, f"{page.name}: 'consilo {line}' is no command"
