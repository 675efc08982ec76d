"""What every benchmark has in common: its options, the machine's load, and how it reports.

A benchmark is a program. Its docstring lists the figures that it promises, one name or more a line,
four spaces in; capitals and ``*`` stand for what varies. With ``--json`` its stdout is one object
and nothing else::

    {"benchmark": name, "size": "full", "load": number, "figures": {name: number},
     "ratios": {name: number}, "left_out": {name: why}}

``load`` is the one-minute load average before the benchmark began: how busy the machine was with
other things. Progress goes to stderr. ``size`` is ``full`` for what can be published; ``quick`` has
fewer repetitions, and its comparisons still hold; ``smoke`` is as small as it gets, a few seconds
to see that the program runs, and its figures say nothing. ``left_out`` has what was promised and
not measured in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeVar

ValueT = TypeVar("ValueT")


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    smaller = parser.add_mutually_exclusive_group()
    for size, what in (
        ("quick", "fewer repetitions: do its comparisons hold?"),
        ("smoke", "tiny, once, some seconds: does it run? Its figures say nothing"),
    ):
        smaller.add_argument(
            f"--{size}", dest="size", action="store_const", const=size, default="full", help=what
        )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def sized(chosen: argparse.Namespace, *, full: ValueT, quick: ValueT, smoke: ValueT) -> ValueT:
    """Return what goes with the size that was asked for."""
    return {"full": full, "quick": quick, "smoke": smoke}[chosen.size]


def load_now() -> float:
    """Return the one-minute load average."""
    return round(os.getloadavg()[0], 2)


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Args:
        benchmark: its name.
        size: that was asked for.
        load: the machine's before it began.
        figures: what was measured, by name; the unit is part of the name.
        ratios: comparisons made in the same run.
        left_out: what the docstring promises and this run did not measure: name → why.
    """

    benchmark: str
    size: Literal["full", "quick", "smoke"]
    load: float
    figures: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def show(self, *, as_json: bool, table: str = "") -> None:
        """Print to stdout.

        Args:
            as_json: the object above, and nothing else.
            table: for people; without one, a line per figure.
        """
        if as_json:
            print(json.dumps(_rounded(asdict(self)), allow_nan=False))
            return
        size = "" if self.size == "full" else f", {self.size} size: not to be published"
        print(f"{self.benchmark}: load {self.load:.2f} before it, {os.cpu_count()} CPUs{size}")
        if table:
            print(table)
        else:
            for name, value in {**self.figures, **self.ratios}.items():
                print(f"  {name:<34}{value:>12.4g}")
        for name, why in self.left_out.items():
            print(f"  {name} left out: {why}")


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as aligned columns; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 6) if isinstance(value, float) else value
