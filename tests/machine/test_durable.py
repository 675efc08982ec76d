"""What must last is written by `consilo.machine.files` and `database`, and by nothing else.

The rest that is written is named here, each with the reason why a loss of it is none.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("consilo/machine/files.py", "consilo/machine/database.py")
NEED_NOT_LAST = {
    "consilo/jobs/schema.py": "a developer's tool",
    "consilo/cards/verify.py": "a copy for this process",
    "flows/registry/cards.py": "a folder that MLflow then takes whole",
    "consilo/machine/forks.py": "a program's own output",
    "consilo/machine/processes.py": "a program's own output",
    "consilo/machine/sandbox.py": "the null device",
    "consilo/machine/logs.py": "a program's own output",
    "consilo/machine/leases.py": "who holds a lease now",
    "consilo/machine/locks.py": "who holds a lock now",
    "consilo/models/folder.py": "a folder that MLflow, or `write`, then takes whole",
    "consilo/transports/flower/bodies.py": "on its way: a torn one is known by its hash",
    "consilo/transports/ray_actors.py": "a copy for this process",
    "consilo/record/chain.py": "opens the file that `append` writes to",
    "consilo/record/run_record.py": "opens the file that `append` writes to",
    "silos/kept/own_figures.py": "shown to people; the coordinator's record has them, too",
    "silos/node/warm.py": "a setting of the kernel",
    "silos/membership/preflight.py": "measures how fast the disk is",
    "silos/rows/arrow.py": "cached rows, synced before they are named",
    "silos/rows/shelf.py": "encoded rows, synced before they are named",
    "silos/rows/spool.py": "rows on their way to the cache",
    "silos/rows/sources/files.py": "a memo of a file's hash; without it the file is hashed again",
    "silos/rows/sources/sqlite.py": "reads only",
    "silos/proposals/metadata.py": "shown in an editor, then kept by `write_atomic`",
    "silos/simulation/simulated.py": "made-up silos of one process",
    "flows/telling/live.py": "what a run is at now, for a page",
    "flows/demo/demo_data.py": "made-up data",
    "flows/demo/vertical_demo_data.py": "made-up data",
    "flows/rehearsal/acts.py": "breaks what a rehearsal's copies hold, on purpose",
    "flows/rehearsal/clocks.py": "settings of a rehearsal's process",
    "flows/rehearsal/copies.py": "copies of silos, thrown away after the rehearsal",
    "flows/rehearsal/disks.py": "copies of silos, thrown away after the rehearsal",
    "flows/rehearsal/made_up_silos.py": "made-up data",
    "flows/services/backup.py": "a folder that is synced whole before it has its name",
    "flows/services/turns.py": "who waits for its turn now",
    "flows/registry/tracking.py": "a folder that MLflow then takes whole",
    "flows/registry/vertical_registry.py": "a folder that MLflow then takes whole",
}
_CALLS = {
    "os.fsync", "os.replace", "os.rename", "os.renames", "os.link", "os.ftruncate", "os.truncate",
    "os.fdatasync", "sqlite3.connect", "json.dump", "shutil.move", "shutil.copyfile",
    "shutil.copy", "shutil.copy2",
}  # fmt: skip
_METHODS = {"write_text", "write_bytes", "hardlink_to"}
_MOVES = {"rename", "replace"}
_FLAGS = {"O_WRONLY", "O_RDWR", "O_APPEND"}


def writes(source: str) -> list[str]:
    """Return what a program writes, line by line, as far as its text tells."""
    return [
        f"{node.lineno}: {name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and (name := _written(node))
    ]


def _written(call: ast.Call) -> str:
    name = ast.unparse(call.func)
    method = name.rpartition(".")[2]
    if name in _CALLS or method in _METHODS:
        return name
    if name == "os.open":
        flags = {each.attr for each in ast.walk(call) if isinstance(each, ast.Attribute)}
        return name if flags & _FLAGS else ""
    if method == "open" and not name.startswith(("zipfile", "tarfile", "Image")):
        first = 1 if name in ("open", "io.open") else 0
        modes = [
            *call.args[first : first + 1],
            *(k.value for k in call.keywords if k.arg == "mode"),
        ]
        said = [each.value for each in modes if isinstance(each, ast.Constant)]
        return name if any(re.search("[wxa+]", str(each)) for each in said) else ""
    # Of a path: to one place. Of a text, a table or a tracker it takes two, or something else.
    if method in _MOVES and len(call.args) == 1 and not call.keywords:
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        return name if re.search(r"path|file|folder|made|part|place|building", owner) else ""
    return ""


FILES = [
    file.relative_to(ROOT).as_posix()
    for package in ("consilo", "silos", "flows", "dashboards")
    for file in sorted((ROOT / package).rglob("*.py"))
]


def test_all_that_must_last_is_written_at_one_place():
    found = {name: writes((ROOT / name).read_text(encoding="utf-8")) for name in FILES}
    strays = {n: each for n, each in found.items() if each and n not in (*PLACES, *NEED_NOT_LAST)}
    assert not strays, "write it by consilo.machine.files, or say here why it need not last"


def test_every_exception_still_writes_something():
    assert [n for n in NEED_NOT_LAST if not writes((ROOT / n).read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')",
        "Path('a').write_bytes(b'x')",
        "open('a', 'w')",
        "open('a', mode='ab')",
        "path.open('r+b')",
        "os.open('a', os.O_WRONLY | os.O_CREAT)",
        "os.replace('a', 'b')",
        "os.fsync(3)",
        "made.rename(place)",
        "part.replace(memo)",
        "sqlite3.connect('a.db')",
        "json.dump({}, file)",
        "shutil.move('a', 'b')",
    ],
)
def test_a_way_to_write_is_noticed(line):
    assert writes(f"def some():\n    {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "path.read_text()",
        "open('a')",
        "path.open('rb')",
        "os.open('a', os.O_RDONLY)",
        "text.replace('a', 'b')",
        "replace(outcome, status='x')",
        "webbrowser.open(url)",
    ],
)
def test_what_writes_nothing_is_let_be(line):
    assert not writes(line)


def test_what_lasts_when_is_told_of_each_fact_and_names_a_test_that_there_is():
    text = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
    for fact in ("membership", "decision", "reserve of ε", "reply", "checkpoint", "promotion"):
        assert f"| {fact}" in text.lower(), fact
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 6
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), (file, test)
