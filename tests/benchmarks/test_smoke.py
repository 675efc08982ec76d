"""Every benchmark runs, in its smoke size, and prints the figures that its docstring promises.

Three of them could not be run any more while everything else was tested: an interface had moved
away from under them.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
PROGRAMS = sorted(
    path.stem
    for path in BENCHMARKS.glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
WHOLE = {"at_once", "large", "soak", "split"}
"""These bring up all of a federation's services, or move what is large: with the slow tests."""
LEAVE_OUT = {"rounds": ["--ours-only"]}
"""Parts that take too long even when they are small: stock Flower, 14 s a round and a minute's
start. `test_benchmarks.py` runs them."""

Done = subprocess.CompletedProcess[str]


def promised(name: str) -> list[str]:
    """Return the figures in a program's docstring: names, in which capitals and * are anything."""
    text = ast.get_docstring(ast.parse((BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")))
    lines = re.findall(r"^ {4}((?:[\w.*]+, )*[\w.*]+)(?: {2,}.*)?$", text or "", re.MULTILINE)
    return [each for line in lines for each in line.split(", ")]


def pattern(promise: str) -> str:
    """Return the regular expression of a promised name.

    >>> pattern("METHOD.sd"), pattern("few_*")
    ('.+\\\\.sd', 'few_.+')
    """
    return re.sub(r"[A-Z]+|\*", ".+", promise.replace(".", r"\."))


@pytest.fixture(scope="module")
def done(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Done]]:
    """Run what is selected, two at a time: most of it is one process that imports."""

    def run(name: str) -> Done:
        options = ["--smoke", "--json", *LEAVE_OUT.get(name, [])]
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=ROOT)

    chosen = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_it_runs
    ]
    with ThreadPoolExecutor(2) as pool:
        running: dict[str, Future[Done]] = {name: pool.submit(run, name) for name in chosen}
        yield lambda name: running[name].result()
        for each in running.values():
            each.cancel()


@pytest.mark.federation
@pytest.mark.parametrize(
    "name",
    [pytest.param(p, marks=pytest.mark.slow) if p in WHOLE else p for p in PROGRAMS],
)
def test_it_runs(name: str, done: Callable[[str], Done]) -> None:
    found = done(name)
    assert found.returncode == 0, found.stderr[-3000:]
    report: dict[str, Any] = json.loads(found.stdout)
    assert set(report) == {"benchmark", "size", "load", "figures", "ratios", "left_out"}
    assert (report["benchmark"], report["size"]) == (name, "smoke")
    measured = {**report["figures"], **report["ratios"]}
    assert all(isinstance(value, int | float) for value in measured.values())
    promises = promised(name)
    assert promises
    missing = [
        each
        for each in promises
        if each not in report["left_out"]
        and not any(re.fullmatch(pattern(each), figure) for figure in measured)
    ]
    assert missing == []
    assert set(report["left_out"]) <= set(promises)


def test_a_programs_promises_are_read_from_its_docstring() -> None:
    assert "s_per_round.N" in promised("scale")
    assert {"flow_cpu_s", "silos_cpu_s", "peak_models"} <= set(promised("large"))
    assert not re.fullmatch(pattern("s_per_round.N"), "overhead_s_per_round.3")
