"""The house stands: imports point one way, optional parts are optional, nothing of a workplace."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import house
import pytest

from consilo import errors

ROOT = Path(__file__).parent.parent
PACKAGES = ("consilo", "silos", "flows", "dashboards")
MAY_IMPORT = {
    "consilo": {"consilo"},
    "silos": {"silos", "consilo"},
    "flows": {"flows", "silos", "consilo"},
    "dashboards": set(PACKAGES),
}
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def imported(file: Path) -> set[str]:
    """Full names of the modules that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return names


def tops(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def in_house(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=in_house)
def test_imports_point_one_way(file):
    package = file.relative_to(ROOT).parts[0]
    ours = tops(file) & {*PACKAGES, "benchmarks", "tests"}
    # The command line, and what the package hands out late, are how a person comes in.
    doors = {"consilo/cli.py": {"flows", "silos"}, "consilo/__init__.py": {"silos"}}.get(
        in_house(file), set()
    )
    assert ours <= MAY_IMPORT[package] | doors


def test_the_house_is_the_one_that_is_drawn():
    assert house.read_house().faults() == []


def test_circles_arrows_up_full_folders_and_ways_by_the_border_are_found(tmp_path):
    low, high = tmp_path / "consilo" / "low", tmp_path / "consilo" / "high"
    for folder in (low, high):
        folder.mkdir(parents=True)
    (high / "a.py").write_text("from consilo.low import b\n")
    (low / "b.py").write_text("def late():\n    from consilo.high.a import name\n")
    (tmp_path / "consilo" / "protocol.py").write_text("from consilo.high.d import name\n")
    (high / "d.py").write_text("")
    (high / "e.py").write_text("import consilo.protocol\n")
    for number in range(20):
        (low / f"c{number}.py").write_text("")
    picture = tmp_path / "picture.md"
    picture.write_text(
        "```house\nconsilo/high/ above\nconsilo/low/ below\nconsilo/ floor\nsilos/ none\n```\n"
    )
    assert house.read_house(tmp_path, picture).faults() == [
        "a circle of files: consilo/high/a.py, consilo/low/b.py",
        "an arrow up: consilo/low/b.py imports consilo/high/a.py",
        "by the border: consilo/high/e.py imports consilo/protocol.py",
        "consilo/low/ holds 21 files; 20 at most",
        "silos/ is in the picture only",
    ]


def test_only_the_adapters_import_flower():
    allowed = re.compile(r"consilo/(transports/flower/|horizontal/flower_strategy\.py)")
    using = [in_house(file) for file in FILES if "flwr" in tops(file)]
    assert [each for each in using if not allowed.match(each)] == []


def test_only_flows_know_the_orchestrator_and_the_tracking_server():
    using = [in_house(file) for file in FILES if {"prefect", "mlflow"} & tops(file)]
    assert [each for each in using if not each.startswith("flows/")] == []


IMPORT_ALL = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("ignore")
blocked = {"prefect", "mlflow", "flows"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import consilo.runs.horizontal, consilo.horizontal.fedopt
assert "flwr" not in sys.modules, "the core loads Flower"
for package in (importlib.import_module(name) for name in ("consilo", "silos")):
    for each in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(each.name)
assert not blocked & {name.partition(".")[0] for name in sys.modules}
"""


def test_core_and_silos_import_without_orchestrator_and_tracking_server():
    command = [sys.executable, "-c", IMPORT_ALL]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_the_drawing_of_the_errors_is_their_tree():
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+)(?: |$)", line)
        if match is None or not hasattr(errors, match[2]):
            continue
        depth = len(match[1]) // 4 + ("── " in line)
        above = [*above[:depth], match[2]]
        drawn[match[2]] = above[depth - 1] if depth else "Exception"
    found = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ConsiloError)
    }
    assert drawn == found


def tracked() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in ended.stdout.split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_file_holds_a_path_of_a_machine_or_the_host_of_a_package_registry():
    # Written in pieces so that this file does not hold them itself.
    parts = ["/" + "work/", "/" + "root/", "/home/" + r"\w+/", r"https?://\S*" + "simple/"]
    parts += [r"\b(?:artifactory|nexus|devpi)\.", "index" + "-url"]
    odd = re.compile("|".join(parts))
    found = []
    for file in tracked():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{in_house(file)}: {match[0]}" for match in odd.finditer(text)]
    assert found == []
