"""The public border: ``docs/api.md`` lists what may be imported; the docs import nothing else."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BORDER = ("consilo", "consilo.protocol", "silos", "flows")
WHOLE = ("consilo.errors",)
"""Modules of which everything may be imported."""
OURS = re.compile(r"(consilo|silos|flows)(\.|$)")


def listed(module: str) -> list[str]:
    """Names in the first column of the page's table of a module."""
    table = re.search(rf"^\| from `{re.escape(module)}` \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M)
    assert table is not None, f"docs/api.md has no table of {module}"
    first = [row.split("|")[1] for row in table[1].splitlines()]
    return [name for cell in first for name in re.findall(r"`(\w+)`", cell)]


def paths(text: str) -> set[str]:
    return set(re.findall(r"\b((?:consilo|silos|flows)(?:\.\w+)+:\w+)", text))


def flows_of(text: str) -> set[str]:
    return set(re.findall(r"\bflows/\w+\.py:\w+", text))


@pytest.mark.parametrize("module", BORDER)
def test_the_page_lists_what_a_module_hands_out(module: str) -> None:
    border = import_module(module)
    assert sorted(listed(module)) == sorted(border.__all__)
    for name in border.__all__:
        found = getattr(border, name)
        assert not isinstance(found, ModuleType), f"{module}.{name} is a file, not what lies in it"


@pytest.mark.parametrize("module", ["consilo", "silos", "flows"])
def test_a_name_that_a_package_does_not_have_is_told_as_python_does(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        import_module(module).nothing  # noqa: B018


def test_the_packages_themselves_import_nothing_of_weight() -> None:
    code = "import json, sys, consilo, silos, flows; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [name for name in json.loads(ended.stdout) if OURS.match(name)]
    assert found == ["consilo", "flows", "silos"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_docs_import_by_the_border(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                assert {each.name for each in node.names if OURS.match(each.name)} <= {*WHOLE}
            if isinstance(node, ast.ImportFrom) and OURS.match(node.module or ""):
                assert node.module in (*BORDER, *WHOLE), f"{page.name}: from {node.module} import"
                if node.module in BORDER:
                    assert {each.name for each in node.names} <= set(listed(node.module))


def test_paths_in_yaml_are_listed_and_there() -> None:
    known = paths(PAGE)
    assert known
    texts = [each.read_text(encoding="utf-8") for each in PAGES]
    texts += [each.read_text(encoding="utf-8") for each in sorted(ROOT.glob("schemas/jobs/*.yaml"))]
    assert set().union(*map(paths, texts)) == known
    for each in known:
        module, _, name = each.partition(":")
        assert getattr(import_module(module), name).__name__ == name


def test_the_flows_of_deployments_are_listed() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    assert {each["entrypoint"] for each in deployed} == flows_of(PAGE)
