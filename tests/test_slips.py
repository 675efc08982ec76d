"""Slips of the pen that no linter sees: a name defined twice, a text that documents nothing."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("consilo", "silos", "flows", "dashboards", "benchmarks", "tests")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
SEVERAL = {"setter", "getter", "deleter", "overload", "register"}
"""Decorators of a name that is defined more than once on purpose."""


def named(node: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module or class defines."""
    if isinstance(node, ast.Assign):
        return [each.id for each in node.targets if isinstance(each, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        said = {ast.unparse(each).partition("(")[0].split(".")[-1] for each in node.decorator_list}
        return [] if said & SEVERAL else [node.name]
    return []


def is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def slips(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            decorators = Counter(ast.unparse(each) for each in node.decorator_list)
            yield from (f"{node.name}: @{name} twice" for name, n in decorators.items() if n > 1)
            yield from texts(node.body)
        if isinstance(node, ast.Module):
            yield from texts(node.body)
        if isinstance(node, ast.Module | ast.ClassDef):
            counted = Counter(name for each in node.body for name in named(each))
            yield from (f"{name} defined {n} times" for name, n in counted.items() if n > 1)


def texts(body: list[ast.stmt]) -> Iterator[str]:
    for before, each in pairwise(body):
        if is_text(each) and not isinstance(before, ast.Assign | ast.AnnAssign):
            yield f"line {each.lineno}: a text that documents no name"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_name_is_defined_once_and_a_text_documents_one(file):
    # consilo/runs/horizontal.py had FOR_GOOD twice, the first time under the text of another name.
    assert list(slips(ast.parse(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "source",
    [
        'import re\n"""Of the second name."""\nA = 1\n',
        "A = 1\nB = 2\nA = 1\n",
        "class C:\n    def f(self): ...\n    def f(self): ...\n",
        "@cache\n@cache\ndef f(): ...\n",
        'def f():\n    """Doc."""\n    """More."""\n',
    ],
)
def test_each_kind_of_slip_is_seen(source):
    assert len(list(slips(ast.parse(source)))) == 1


def test_what_is_meant_is_no_slip():
    source = 'A = 1\n"""Of A."""\n@property\ndef f(x): ...\n@f.setter\ndef f(x, y): ...\n'
    assert list(slips(ast.parse(source))) == []
