"""Sums and ratios of local columns, as a mapping writes them: ``weight / height ** 2``.

Python's own parser makes the tree; only numbers, the columns' names, ``+ - * / **`` and brackets
may be in it. Nothing is ever handed to ``eval``. A name with blanks or signs stands in backquotes.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MAX_LENGTH = 200
_MAX_POWER = 10
_QUOTED = re.compile(r"`([^`]+)`")
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Expression:
    """A formula over columns.

    >>> Expression.parse("weight / `height in m` ** 2").of({"weight": 80.0, "height in m": 2.0})
    20.0
    """

    tree: ast.expr
    quoted: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Return the formula that a text is.

        Raises:
            ValueError: where it is none, or has more in it than a formula may.
        """
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"is longer than {_MAX_LENGTH} characters")
        quoted: dict[str, str] = {}

        def placed(match: re.Match[str]) -> str:
            place = f"_quoted_{len(quoted)}_"
            quoted[place] = match[1]
            return place

        try:
            tree = ast.parse(_QUOTED.sub(placed, text).strip(), mode="eval").body
            _require_formula(tree)
        except (SyntaxError, RecursionError, MemoryError):
            raise ValueError(
                "is no formula; write names, numbers, + - * / ** and brackets, such as a / b; a "
                "name with blanks or signs stands in backquotes"
            ) from None
        return cls(tree, quoted)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in it, once each, in order."""
        nodes = [each for each in ast.walk(self.tree) if isinstance(each, ast.Name)]
        nodes.sort(key=lambda node: node.col_offset)
        return tuple(dict.fromkeys(self.quoted.get(each.id, each.id) for each in nodes))

    def of(self, values: Mapping[str, Any]) -> Any:
        """Return what it gives for numbers, arrays or quantities, by column."""
        return self._value(self.tree, values)

    def _value(self, node: ast.expr, values: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return values[self.quoted.get(node.id, node.id)]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp):
            inner = self._value(node.operand, values)
            return -inner if isinstance(node.op, ast.USub) else inner
        assert isinstance(node, ast.BinOp)  # _require_formula has seen to it
        left, right = self._value(node.left, values), self._value(node.right, values)
        return _BINARY[type(node.op)](left, right)


def _require_formula(node: ast.expr) -> None:
    if isinstance(node, ast.Name):
        return
    if isinstance(node, ast.Constant) and (number := _number(node)) is not None:
        if abs(number) > 1e300:
            raise ValueError("has a number that is too large")
        return
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        _require_formula(node.operand)
        return
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _require_formula(node.left)
        _require_formula(node.right)
        if isinstance(node.op, ast.Pow):
            _require_power(node)
        return
    what = type(node).__name__
    raise ValueError(f"may have names, numbers, + - * / ** and brackets in it, found {what}")


def _number(node: ast.Constant) -> int | float | None:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def _require_power(node: ast.BinOp) -> None:
    power = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
    number = _number(power) if isinstance(power, ast.Constant) else None
    if number is not None and abs(number) <= _MAX_POWER:
        if any(isinstance(each, ast.Name) for each in ast.walk(node.left)):
            return
        raise ValueError("raises a number to a power; write the number that it is")
    raise ValueError(f"may have numbers from -{_MAX_POWER} to {_MAX_POWER} as powers, nothing else")
