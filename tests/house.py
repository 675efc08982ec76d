"""The house as its imports draw it, held against the picture in docs/architecture.md.

``python tests/house.py`` prints circles of files, arrows up and the number of files per folder, and
exits with 1 where the picture forbids what is found. Every import counts: at the top of a file,
inside a function, and for type checkers only.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "architecture.md"
PACKAGES = ("consilo", "silos", "flows", "dashboards")
BORDER_FILES = ("consilo/protocol.py",)
"""As a package's ``__init__.py``, they hand out what lies elsewhere; no file imports them."""
MOST_FILES = 20
"""In one folder; the fullest of well-kept libraries of this size hold 17 to 20."""

Arrows = dict[str, set[str]]
"""File → the files of ours that it imports, as paths from the root."""


@dataclass(frozen=True)
class House:
    """What is found.

    Args:
        arrows: which file imports which.
        rooms: folders of the picture, from the top to the bottom.
    """

    arrows: Arrows
    rooms: tuple[str, ...]

    @property
    def folders(self) -> Counter[str]:
        """How many files lie directly in each folder."""
        return Counter(_room(file) for file in self.arrows)

    def circles(self) -> list[list[str]]:
        """Return the groups of files that import each other in a circle."""
        return sorted(sorted(each) for each in _knots(self.arrows) if len(each) > 1)

    def arrows_up(self) -> list[str]:
        """Return the imports that go from a room to one above it."""
        height = {room: -at for at, room in enumerate(self.rooms)}
        return sorted(
            f"{file} imports {other}"
            for file, others in self.arrows.items()
            for other in others
            if height.get(_room(other), 0) > height.get(_room(file), 0) and not _is_border(file)
        )

    def through_the_border(self) -> list[str]:
        """Return the imports of ours that go by a border file, in place of where a thing lies."""
        return sorted(
            f"{file} imports {other}"
            for file, others in self.arrows.items()
            for other in others
            if other in BORDER_FILES
        )

    def faults(self) -> list[str]:
        """Return what the picture forbids, in words."""
        said = [f"a circle of files: {', '.join(each)}" for each in self.circles()]
        said += [f"an arrow up: {each}" for each in self.arrows_up()]
        said += [f"by the border: {each}" for each in self.through_the_border()]
        said += [
            f"{folder}/ holds {number} files; {MOST_FILES} at most"
            for folder, number in sorted(self.folders.items())
            if number > MOST_FILES
        ]
        drawn, built = set(self.rooms), set(self.folders)
        said += [f"{each}/ is not in the picture" for each in sorted(built - drawn)]
        said += [f"{each}/ is in the picture only" for each in sorted(drawn - built)]
        return said


def read_house(root: Path = ROOT, picture: Path = PICTURE) -> House:
    """Return the house below ``root`` with the rooms of the picture."""
    files = {_module(file.relative_to(root)): file.relative_to(root) for file in _python(root)}
    arrows: Arrows = {}
    for name, file in files.items():
        found = {files[each].as_posix() for each in _imported(root / file, files)}
        arrows[file.as_posix()] = found - {files[name].as_posix()}
    return House(arrows, rooms_of(picture.read_text(encoding="utf-8")))


def rooms_of(page: str) -> tuple[str, ...]:
    """Return the folders of the page's block ``house``, from the top to the bottom."""
    block = re.search(r"^```house\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    if block is None:
        raise ValueError("docs/architecture.md has no block that begins with ```house")
    return tuple(re.findall(r"^([\w/]+)/ ", block[1], re.MULTILINE))


def _python(root: Path) -> list[Path]:
    return [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]


def _module(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_border(file: str) -> bool:
    return file.endswith("/__init__.py") or file in BORDER_FILES


def _room(file: str) -> str:
    return file.rpartition("/")[0]


def _imported(file: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of ours that a file imports; ``from a import b`` may mean a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{each.name}" for each in node.names}
            modules = inner & set(known)
            found |= modules
            if len(modules) < len(inner):
                found.add(node.module)
    return found & set(known)


def _knots(arrows: Arrows) -> list[list[str]]:
    """Return the strongly connected components (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(file: str) -> None:
        order[file] = low[file] = len(order)
        stack.append(file)
        for other in sorted(arrows[file]):
            if other not in order:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], order[other])
        if low[file] == order[file]:
            at = stack.index(file)
            found.append(stack[at:])
            del stack[at:]

    for file in sorted(arrows):
        if file not in order:
            visit(file)
    return found


def main() -> int:
    """Print the house; return 1 where the picture forbids something."""
    house = read_house()
    for room in house.rooms:
        print(f"{house.folders[room]:>3} files  {room}/")
    print(f"circles: {len(house.circles())}, arrows up: {len(house.arrows_up())}")
    for each in house.faults():
        print(f"fault: {each}")
    return 1 if house.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
