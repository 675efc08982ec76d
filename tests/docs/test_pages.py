"""The pages can be read in any editor, and what they point at is there."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "tests" / "frozen").glob("*.md"))
WIDEST = 119
OURS = (
    "consilo",
    "silos",
    "flows",
    "dashboards",
    "schemas",
    "infra",
    "benchmarks",
    "tests",
    "docs",
)
EXAMPLES = re.compile(r"silos/(north|south|va|bank|clinic|switzerland)\b|.*/(NAME|KIND)\b")
"""Directories of organisations in the pages' examples, and files that a reader is to name."""
USERS = {"my_model.py", "my_rule.py"}
"""Files that a reader writes beside a job."""


def in_house(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(text: str) -> list[str]:
    """Lines of a page without blocks of code and rows of tables, which Markdown cannot break."""
    without = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in without.splitlines() if not line.startswith("|")]


def named(text: str) -> set[str]:
    """Paths of this repository that a page names: in code, in blocks and in links."""
    full = rf"(?<![\w/.<-])((?:{'|'.join(OURS)})/[\w./@-]*[\w/])"
    found = {each for each in re.findall(full, text) if not EXAMPLES.match(each)}
    alone = {each for each in re.findall(r"(?<![\w/.-])[\w./-]*\w+\.py\b", text)}
    alone = {each for each in alone if not EXAMPLES.match(each)}
    written = USERS | set(re.findall(r'title="([\w./]+)"', text))  # by the reader, word for word
    return found | {each for each in alone if each.rpartition("/")[2] not in written}


def is_there(path: str) -> bool:
    """Whether a path stands from the root, or ends that of a file: ``flower/mail.py``."""
    if (ROOT / path).exists():
        return True
    return any(ROOT.glob(f"[!.]*/**/{path}")) and "." in PurePath(path).name


@pytest.mark.parametrize("page", PAGES, ids=in_house)
def test_a_line_of_prose_has_less_than_120_characters(page: Path) -> None:
    lines = prose(page.read_text(encoding="utf-8"))
    assert [line for line in lines if len(line) > WIDEST] == []


@pytest.mark.parametrize("page", PAGES, ids=in_house)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    paths = named(page.read_text(encoding="utf-8"))
    assert [each for each in sorted(paths) if not is_there(each)] == []


def test_paths_lines_blocks_and_tables_are_told_apart() -> None:
    page = f"| {'x' * 130} |\n```sh\n{'y' * 130} docs/gone.md\n```\n{'z' * 130} `flower/gone.py`\n"
    assert prose(page) == ["", f"{'z' * 130} `flower/gone.py`"]
    assert named(page) == {"docs/gone.md", "flower/gone.py"}
    assert not is_there("docs/gone.md")
    assert not is_there("flower/gone.py")
    assert is_there("flower/mail.py")
