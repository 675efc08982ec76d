"""Faults as data: which part, what is done to it, when, for how long, and what must come of it."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from consilo.config import Config, nearest, parse, read_yaml
from consilo.errors import ConfigInvalid

What = Literal[
    "kill",
    "stop",
    "slow",
    "cut",
    "lose packets",
    "narrow",
    "wipe",
    "fill disk",
    "shift clock",
    "poison",
    "corrupt checkpoint",
    "break contract",
    "exhaust budget",
    "start twice",
    "release before",
    "lose machine",
]
Part = Literal["silo", "superlink", "prefect", "mlflow", "pipeline", "worker", "coordinator"]
Promise = Literal["survives", "refuses", "by quorum"]

FITS: Mapping[str, tuple[str, ...]] = {
    "kill": ("silo", "superlink", "prefect", "mlflow", "pipeline", "worker"),
    "stop": ("silo", "superlink", "prefect", "mlflow"),
    "slow": ("silo",),
    "cut": ("silo",),
    "lose packets": ("silo",),
    "narrow": ("silo",),
    "wipe": ("silo", "superlink"),
    "fill disk": ("silo", "coordinator"),
    "shift clock": ("silo",),
    "poison": ("silo",),
    "corrupt checkpoint": ("pipeline",),
    "break contract": ("silo",),
    "exhaust budget": ("silo",),
    "start twice": ("pipeline",),
    "release before": ("silo",),
    "lose machine": ("coordinator",),
}
"""What is done → to which parts it can be."""

EXPLODING = 1e30
"""By what a poisoned update that is a number is too large."""
_MOST_LOSS = 0.9
_WHEN = re.compile(r"before|during round ([1-9][0-9]*)|after")
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def _seconds(value: Any) -> Any:
    """Read ``90 s``, ``2 min``, ``at once`` or ``for good`` as seconds."""
    if not isinstance(value, str):
        return value
    if value in ("at once", "for good"):
        return 0.0 if value == "at once" else None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h)", value)
    if found is None:
        raise ValueError("expected such as '90 s', '2 min', 'at once' or 'for good'")
    return float(found[1]) * _UNITS[found[2]]


class Fault(Config):
    """One fault of a rehearsal."""

    name: str = Field(min_length=1, max_length=80)
    part: Part
    silo: str | None = Field(None, description="which; unless said, one that the quorum can miss")
    what: What
    when: str = Field("during round 2", description="before, during round K, or after (training)")
    lasts: Annotated[float | None, BeforeValidator(_seconds)] = Field(
        None, ge=0, description="'90 s', 'at once', or 'for good': until the run has ended"
    )
    amount: float | None = Field(
        None,
        gt=0,
        description="of lose packets: the share, 0.9 at most; of narrow: bytes a second; of "
        "poison: 1e30, by which updates are too large, else they are no numbers",
    )
    promise: Promise = Field(
        "by quorum",
        description="survives: the run ends complete or degraded, with the result that those who "
        "were there make; refuses: it fails, and says why; by quorum: what the job's quorum says "
        "of a run that this silo is missing in",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Fault:
        if _WHEN.fullmatch(self.when) is None:
            raise ValueError(
                f"when: expected before, after or 'during round K', found '{self.when}'"
            )
        if self.part not in FITS[self.what]:
            raise ValueError(
                f"what: '{self.what}' can be done to {' or '.join(FITS[self.what])}, "
                f"not to '{self.part}'"
            )
        if self.silo is not None and self.part != "silo":
            raise ValueError(f"silo: the part is '{self.part}'; leave it out")
        if wrong := self._amount_fault():
            raise ValueError(f"amount: {wrong}, found {self.amount:g}")
        return self

    def _amount_fault(self) -> str:
        if self.amount is None or self.what == "narrow":
            return ""
        if self.what == "lose packets":
            return "" if self.amount <= _MOST_LOSS else f"expected a share up to {_MOST_LOSS}"
        if self.what == "poison":
            return "" if self.amount == EXPLODING else f"expected {EXPLODING:g}, or none"
        return f"'{self.what}' has none; leave it out"

    @property
    def round(self) -> int | None:
        """The round during which it strikes; None before or after training."""
        found = _WHEN.fullmatch(self.when)
        return None if found is None or found[1] is None else int(found[1])


def _known(name: str, part: Part, what: What, **more: Any) -> Fault:
    return Fault.model_validate({"name": name, "part": part, "what": what, **more})


CATALOGUE: tuple[Fault, ...] = (
    _known("silo-dead-before", "silo", "kill", when="before"),
    _known("silo-dead-during", "silo", "kill"),
    _known("silo-dead-after", "silo", "kill", when="after"),
    _known("silo-restarted", "silo", "kill", lasts="at once"),
    _known("silo-restarted-late", "silo", "kill", lasts="90 s"),
    _known("silo-stopped", "silo", "stop", lasts="90 s"),
    _known("silo-slow", "silo", "slow", promise="survives"),
    _known("link-lost", "silo", "cut", lasts="60 s"),
    _known("packets-lost", "silo", "lose packets", when="before", amount=0.2, promise="survives"),
    _known("low-rate", "silo", "narrow", when="before", amount=32_000, promise="survives"),
    _known("superlink-restarted", "superlink", "kill", lasts="at once", promise="survives"),
    _known("superlink-database-gone", "superlink", "wipe", lasts="at once", promise="survives"),
    _known("flow-killed", "pipeline", "kill", promise="survives"),
    _known("worker-killed", "worker", "kill", lasts="at once", promise="survives"),
    _known("prefect-down", "prefect", "kill", lasts="60 s", promise="survives"),
    _known("mlflow-down", "mlflow", "kill", lasts="60 s", promise="survives"),
    _known("silo-disk-full", "silo", "fill disk"),
    _known("coordinator-disk-full", "coordinator", "fill disk", lasts="60 s", promise="survives"),
    _known("silo-clock", "silo", "shift clock", when="before"),
    _known("silo-release-before", "silo", "release before", when="before"),
    _known("update-nan", "silo", "poison", when="before"),
    _known("update-exploding", "silo", "poison", when="before", amount=EXPLODING),
    _known("checkpoint-corrupted", "pipeline", "corrupt checkpoint", promise="survives"),
    _known("contract-broken", "silo", "break contract"),
    _known("budget-exhausted", "silo", "exhaust budget"),
    _known("two-schedules", "pipeline", "start twice", when="during round 1", promise="survives"),
    _known("cache-deleted", "silo", "wipe", lasts="at once", promise="survives"),
    _known("machine-lost", "coordinator", "lose machine", promise="survives"),
)
"""The faults that are tried unless a person says which."""


def chosen(said: str | None) -> tuple[Fault, ...]:
    """Return the faults that a person asks for: names of known ones, or a YAML file of their own.

    Args:
        said: names between commas, the path of a file, or None for all that are known.

    Raises:
        ConfigInvalid: where a name is not known or the file is not valid.
    """
    if said is None:
        return CATALOGUE
    if said.endswith((".yaml", ".yml")):
        return _read(Path(said))
    known = {each.name: each for each in CATALOGUE}
    found, findings = [], []
    for name in (each.strip() for each in said.split(",")):
        if name in known:
            found.append(known[name])
            continue
        guess = nearest(name, list(known))
        hint = f"did you mean '{guess}'?" if guess else f"there are {', '.join(known)}"
        findings.append(f"no fault is called '{name}'; {hint}")
    if findings:
        raise ConfigInvalid("--faults", findings)
    return tuple(found)


def together(said: str | None, *, pairs: int | None, seed: int) -> tuple[tuple[Fault, ...], ...]:
    """Return what is tried: faults one by one, or such as strike the same run.

    Args:
        said: as for `chosen`; names may be joined by ``+``.
        pairs: how many pairs are drawn of the faults that are said; None draws none.
        seed: of the draw.

    Raises:
        ConfigInvalid: as for `chosen`, or where there are not so many pairs.
    """
    if pairs is not None:
        of = chosen(said)
        drawn = list(itertools.combinations(of, 2))
        if pairs > len(drawn):
            raise ConfigInvalid("--pairs", [f"{len(of)} faults make {len(drawn)} pairs"])
        return tuple(random.Random(seed).sample(drawn, pairs))
    if said is None or said.endswith((".yaml", ".yml")):
        return tuple((each,) for each in chosen(said))
    return tuple(chosen(each.replace("+", ",")) for each in said.split(","))


class _Written(Config):
    """A file of faults: of a person's own, and names of known ones."""

    faults: tuple[Fault | str, ...] = Field(min_length=1)


def _read(path: Path) -> tuple[Fault, ...]:
    written: Sequence[Fault | str] = parse(_Written, read_yaml(path), where=str(path)).faults
    faults = [f for each in written for f in (chosen(each) if isinstance(each, str) else (each,))]
    names = [each.name for each in faults]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigInvalid(str(path), [f"'{name}' is there twice" for name in twice])
    return tuple(faults)
