"""A first study from one table: contract, mapping, job and model, ready for `job validate`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consilo.config import nearest
from consilo.errors import ConfigInvalid
from consilo.machine.files import write_atomic
from silos.proposals.new_contract import new_contract
from silos.proposals.onboard import sample
from silos.proposals.profile import Profile, answers_in, profile
from silos.rows.sources.found_out import source_at

MOST_CLASSES = 20
"""A target of whole numbers with more values is a number to predict."""
_KEY_SHARE = 0.95
_KEY_WORDS = {"id", "key", "mrn", "nbr", "no", "nr", "num", "number", "pid", "uid"}
"""A column of numbers that are all different and whose name has one of these holds keys."""
_HEAD = """\
# Drafted from one table, for people to mend before anybody else reads it: say what each column
# means, and hold each range against what you know of the measurement. Ranges are those of the rows,
# widened; whoever reads this learns that much of them. Codes that few rows hold are left out: rows
# that have them break the contract until they are added. Mark whose row it is (role: subject), and
# take out what nobody else should see.
"""
_JOB = """\
# Check it: consilo job validate {file}
name: {name}
contract: {name}@1
task: {task}{about}
model: my_model:Net              # class Net in my_model.py beside this file
protocol: {{name: fedavg, rounds: 10}}
local: {{batch_size: 32, epochs: 1, optimizer: adam, lr: 0.01}}
quorum: {{min_silos: 2}}
"""
_MODEL = '''\
"""The network that the job trains: its inputs are encoded and standardised."""

import torch


class Net(torch.nn.Module):
    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(num_inputs, 16), torch.nn.ReLU(), torch.nn.Linear(16, num_outputs)
        )

    def forward(self, features):
        return self.layers(features)
'''


def new_study(directory: Path, table: Path, name: str, target: str) -> dict[str, Path]:
    """Write a study's first files.

    Args:
        directory: made here, or empty.
        table: a CSV or Parquet file.
        name: the job's and the contract's.
        target: the column to predict, as the table calls it.

    Returns:
        What was written: contract, mapping, job, model.

    Raises:
        ConfigInvalid: where there are files already, or the table has no such column, or one that
            nobody could predict.
        SourceUnreadable: where the table cannot be read.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigInvalid(str(directory), ["it is not empty; give a fresh directory"])
    rows = sample(source_at(table))
    if target not in rows.columns:
        guess = nearest(target, [str(each) for each in rows.columns])
        hint = (
            f"did you mean '{guess}'?" if guess else f"it has {', '.join(map(str, rows.columns))}"
        )
        raise ConfigInvalid(str(table), [f"no column '{target}' to predict; {hint}"])
    profiles = {
        str(n): profile(rows[n], place, answers_in(rows[n]) if n == target else ())
        for place, n in enumerate(rows.columns)
    }
    task, column = _target(profiles[target])
    known: dict[str, Mapping[str, Any]] = {
        local: _known(each, len(rows)) for local, each in profiles.items()
    }
    known[target] = column
    contract, mapping = new_contract(
        directory, "data", rows, name, known=known, head=_HEAD, target=target
    )
    job, model = directory / "job.yaml", directory / "my_model.py"
    about = _about(task, target, column)
    write_atomic(
        job, _JOB.format(name=name, task=task, about=about, file=job.name).encode(), mode=0o644
    )
    write_atomic(model, _MODEL.encode(), mode=0o644)
    return {"contract": contract, "mapping": mapping, "job": job, "model": model}


def _target(found: Profile) -> tuple[str, dict[str, Any]]:
    """Return the task that a target makes, and what the contract says of it."""
    if found.distinct < 2:
        raise ConfigInvalid(found.name, ["holds one value or none: there is nothing to predict"])
    codes = list(found.codes)
    whole = found.numeric_share == 1.0 and all(float(each).is_integer() for each in found.numbers)
    if found.numeric_share == 1.0 and not (whole and found.distinct <= MOST_CLASSES):
        return "regression", {"type": "float", "role": "target"}
    if found.distinct > MOST_CLASSES:
        raise ConfigInvalid(
            found.name,
            [f"has {found.distinct} different texts; a target has {MOST_CLASSES} classes at most, "
             "or is a number"],
        )  # fmt: skip
    allowed = sorted({int(each) for each in found.numbers}) if whole else sorted(codes)
    task = "binary" if len(allowed) == 2 else "multiclass"
    kind = "integer" if whole else "category"
    return task, {"type": kind, "allowed": allowed, "role": "target"}


def _about(task: str, target: str, column: Mapping[str, Any]) -> str:
    """Return a comment that says which of two classes figures and probabilities are of."""
    if task != "binary":
        return ""
    second = str(column["allowed"][1])
    return (
        f"{' ' * 21}# of {target!r}: probability, recall, f1 are of {second!r}, the second allowed"
    )


def _known(found: Profile, num_rows: int) -> dict[str, Any]:
    """Return what a draft says of a column besides its type: no keys, and ranges of numbers."""
    words = set(re.split(r"[\W_]+", found.name.lower()))
    is_text = found.numeric_share < 1.0
    is_numbered = bool(_KEY_WORDS & words) and all(float(n).is_integer() for n in found.numbers)
    if found.present and found.distinct > _KEY_SHARE * num_rows and (is_text or is_numbered):
        return {"type": "string", "role": "ignore"}  # a name, a key, a free text
    if found.numeric_share < 1.0 or not found.present:
        return {}
    low, high = widened(float(found.numbers.min()), float(found.numbers.max()))
    return {"range": {"min": low, "max": high}}


def widened(low: float, high: float) -> tuple[float, float]:
    """Return an interval of round numbers around one, at least a quarter of its width wider.

    >>> widened(21.0, 77.0)
    (10, 85)
    >>> widened(0.013, 0.4)
    (0, 0.45)
    """
    width = high - low or max(abs(high), 1.0)
    tens = 10.0 ** math.floor(math.log10(width))
    step = next((each for each in (tens * 0.1, tens * 0.5) if width / each <= 12), tens)
    down = math.floor((low - width / 8) / step) * step
    up = math.ceil((high + width / 8) / step) * step
    return _plain(max(down, 0.0) if low >= 0 else down), _plain(up)


def _plain(value: float) -> float:
    """Return a number as a person would write it."""
    short = round(value, 12)
    return int(short) if short.is_integer() else short
