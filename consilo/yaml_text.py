"""YAML as people mean it: the one place where it is read and written.

YAML 1.1, which the usual parsers read, makes ``no`` a boolean, ``1:30`` ninety, ``010`` eight,
``2024-01-01`` an object and ``1e3`` a text, and of two equal keys it keeps the last. Here a word is
a text, a number is what a calculator takes for one, and what people read in two ways is an error
that says the line: a key that stands there twice, one that a merge (``<<``) would override, a
numeral such as ``007`` or ``1_000``, NaN and infinity, a tag, a text that runs over a comment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import yaml

_TAG = "tag:yaml.org,2002:"
_STR, _INT, _FLOAT, _BOOL = f"{_TAG}str", f"{_TAG}int", f"{_TAG}float", f"{_TAG}bool"
_NULL, _MERGE, _ODD = f"{_TAG}null", f"{_TAG}merge", "!odd"
_WORDS = frozenset({"yes", "no", "on", "off", "y", "n"})
_MAX_NODES = 2_000_000
_MAX_DEPTH = 64
_RULES = (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    (
        _ODD,
        r"[-+]?0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?0[xX][0-9a-fA-F_]+"
        r"|[-+]?0[oO][0-7_]+|[-+]?0[bB][01_]+|[-+]?[0-9]+(?:_[0-9]+)+(?:\.[0-9_]*)?",
        list("-+0123456789"),
    ),
    (_MERGE, r"<<", ["<"]),
)


class YamlInvalid(ValueError):
    """A text is no YAML, or some that people read in two ways.

    Args:
        findings: one sentence for each fault, with its line.
    """

    def __init__(self, findings: list[str]) -> None:
        self.findings = findings
        super().__init__("; ".join(findings))


class PlainWord(str):
    """``yes``, ``no``, ``on`` or ``off`` without quotes: a text, or a boolean to some."""

    __slots__ = ()


# libyaml's parser, 20 times as fast: a silo reads some files again with every message.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML would take for something else than a text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(PlainWord, yaml.SafeDumper.represent_str)
for _tag, _pattern, _first in _RULES:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    if _tag in (_FLOAT, _ODD):
        _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def from_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        YamlInvalid: with every fault.

    >>> from_yaml("{country: NO, at: 12:30, lr: 1e-3, on: [yes, true]}")
    {'country': 'NO', 'at': '12:30', 'lr': 0.001, 'on': ['yes', True]}
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as cause:
        raise YamlInvalid([f"the file is not valid YAML: {_told(cause)}"]) from None
    except (yaml.YAMLError, ValueError) as cause:
        raise YamlInvalid([f"the file is not valid YAML: {cause}"]) from None
    except RecursionError:
        raise YamlInvalid(["lists and mappings lie too deep in each other"]) from None
    if root is None:
        return None
    builder = _Builder()
    value = builder.build(root, ())
    if builder.findings:
        raise YamlInvalid(builder.findings)
    return value


def to_yaml(value: Any, *, sort_keys: bool = False) -> str:
    """Return plain values as YAML, a key a line, that `from_yaml` reads as they were.

    >>> print(to_yaml({"name": "no", "codes": ["007", "1e3"], "lr": 1e-3}), end="")
    name: 'no'
    codes:
    - '007'
    - '1e3'
    lr: 0.001
    """
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=sort_keys, allow_unicode=True, width=10**6
    )
    return text


def to_yaml_line(value: Any) -> str:
    """Return plain values as YAML on one line.

    >>> to_yaml_line({"allowed": ["yes", "no"]})
    "{allowed: ['yes', 'no']}"
    """
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=10**6,
        default_flow_style=True,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _told(cause: yaml.MarkedYAMLError) -> str:
    mark = cause.problem_mark or cause.context_mark
    parts = [each for each in (cause.context, cause.problem) if each]
    return ", ".join(parts) + (f" in line {mark.line + 1}" if mark is not None else "")


class _Builder:
    """Makes plain values of nodes, and notes what is wrong with them."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self._above: set[int] = set()
        self._left = _MAX_NODES

    def build(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        self._left -= 1
        if self._left == 0:
            raise YamlInvalid(
                ["the file says more than anybody wrote: its aliases repeat too much"]
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._above:
            self._note(node, path, "an alias names what it lies in")
            return None
        if len(path) > _MAX_DEPTH:
            raise YamlInvalid([f"lists and mappings lie more than {_MAX_DEPTH} deep in each other"])
        self._above.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, path, f"{_TAG}seq")
                return [self.build(each, (*path, str(at))) for at, each in enumerate(node.value)]
            self._refuse_tag(node, path, f"{_TAG}map")
            return self._mapping(node, path)
        finally:
            self._above.discard(id(node))

    def _mapping(self, node: yaml.Node, path: tuple[str, ...]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        lines: dict[Any, int] = {}

        def put(key: Any, value: Any, line: int) -> None:
            if not isinstance(key, Hashable):
                self.findings.append(f"line {line}: a key must be a text or a number")
                return
            # 1, 1.0 and true are one key to Python, and 1 and "1" are to whoever reads the file.
            same = str(key)
            if same in lines or key in found:
                place = ".".join((*path, same))
                self.findings.append(
                    f"{place}: the key '{same}' is written twice, in line "
                    f"{lines.get(same, line)} and in line {line}; keep one"
                )
            lines.setdefault(same, line)
            found[key] = value

        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                for key, value in self._merged(value_node, path):
                    put(key, value, line)
                continue
            key = self.build(key_node, path)
            put(key, self.build(value_node, (*path, str(key))), line)
        return found

    def _merged(self, node: yaml.Node, path: tuple[str, ...]) -> list[tuple[Any, Any]]:
        several = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(each, yaml.MappingNode) for each in several):
            self._note(node, path, "'<<' takes in a mapping, or a list of them")
            return []
        built = [self.build(each, path) for each in several]
        return [pair for each in built if isinstance(each, Mapping) for pair in each.items()]

    def _scalar(self, node: yaml.ScalarNode, path: tuple[str, ...]) -> Any:
        tag, text = node.tag, node.value
        if tag == _STR:
            plain = not node.style and text.lower() in _WORDS
            return PlainWord(text) if plain else text
        if (tag == _NULL and text in ("", "~")) or (tag == _NULL and text.lower() == "null"):
            return None
        if tag == _BOOL and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if tag == _ODD:
            self._note(
                node, path, f'{text} may be a number or a text; write "{text}", or a plain number'
            )
        elif tag in (_INT, _FLOAT):
            return self._number(node, path)
        elif tag == _MERGE:
            return text
        else:
            self._note(node, path, f"the tag {tag.removeprefix(_TAG)} is not read; leave it out")
        return None

    def _number(self, node: yaml.ScalarNode, path: tuple[str, ...]) -> int | float | None:
        text = node.value
        try:
            number = int(text) if node.tag == _INT else float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        if isinstance(number, float):
            self._note(node, path, f"{text} is no number to compute with; a text has quotes")
        return None

    def _refuse_tag(self, node: yaml.Node, path: tuple[str, ...], tag: str) -> None:
        if node.tag != tag:
            self._note(
                node, path, f"the tag {node.tag.removeprefix(_TAG)} is not read; leave it out"
            )

    def _note(self, node: yaml.Node, path: tuple[str, ...], fault: str) -> None:
        place = f"{'.'.join(path)}: " if path else ""
        self.findings.append(f"{place}line {node.start_mark.line + 1}: {fault}")
