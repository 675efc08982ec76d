"""What every benchmark has in common: its options, the machine's load, and how it reports.

A benchmark is a program. With ``--json`` its stdout is one object and nothing else::

    {"benchmark": name, "load": number, "figures": {name: number}, "ratios": {name: number}}

``load`` is the one-minute load average before the benchmark began: how busy the machine was with
other things. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: does it work?")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


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
        load: the machine's before it began.
        figures: what was measured, by name; the unit is part of the name.
        ratios: comparisons made in the same run.
    """

    benchmark: str
    load: float
    figures: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict)

    def show(self, *, as_json: bool, table: str = "") -> None:
        """Print to stdout.

        Args:
            as_json: the object above, and nothing else.
            table: for people; without one, a line per figure.
        """
        if as_json:
            print(json.dumps(_rounded(asdict(self)), allow_nan=False))
            return
        print(f"{self.benchmark}: load {self.load:.2f} before it, {os.cpu_count()} CPUs")
        if table:
            print(table)
            return
        for name, value in {**self.figures, **self.ratios}.items():
            print(f"  {name:<34}{value:>12.4g}")


def columns(rows: list[tuple[str, ...]]) -> str:
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
