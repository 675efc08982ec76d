"""Three silos on disk that hold different columns of partly the same people; a seam for tests.

Each has one table: what identifies people, with faults here and there, and columns of its own. The
bank calls the target by another name and writes it in words.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.kernel.loop import Party
from consilo.protocols.dispatch import answerer
from consilo.runs.vertical import VerticalRun
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Answer
from silos.simulation.simulation import acquainted

LABEL = "bank"
COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1", "s2"), "telecom": ("t0", "t1")}
NAMES = tuple(name for names in COLUMNS.values() for name in names)
_WORDS = {"left": 1, "stayed": 0}
_IDS = ("number", "surname", "born")
_STRING = {"type": "string", "role": "id", "nullable_share": 1.0}

PEOPLE = {"name": "people", "version": 1, "columns": dict.fromkeys(_IDS, _STRING)}
JOINT = {
    "name": "joint",
    "version": 1,
    "columns": {
        "account": {"type": "string", "role": "id"},
        **{name: {"type": "float"} for name in NAMES},
        "churned": {"type": "integer", "role": "target", "allowed": [0, 1]},
    },
}
RECIPE = {
    "keys": [
        {"parts": [{"column": "number", "steps": ["digits"]}, {"column": "born"}]},
        {"parts": [{"column": "number", "steps": ["digits"]}, {"column": "surname"}]},
        {"parts": [{"column": "surname"}, {"column": "born"}]},
    ]
}
MATCH = {"recipe": RECIPE, "contract": "people@1"}
POLICY: dict[str, Any] = {
    "allow": [{"jobs": ["joint*"]}],
    "disclosures": {
        **dict.fromkeys(("sealed", "match", "statistic", "metric"), True),
        **dict.fromkeys(("embedding", "label", "update"), True),
    },
    "matching": {"min_set_size": 50, "min_intersection": 20},
}


def everybody(num_people: int = 260, *, seed: int = 0) -> pd.DataFrame:
    """Return all people with all columns, one row each, as nobody holds them."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(num_people, 2))
    raw = common @ rng.normal(size=(2, len(NAMES))) + rng.normal(size=(num_people, len(NAMES)))
    score = raw @ np.array([0.3, 0.2, 1.0, -0.8, 0.6, 0.9, -0.7])
    born = pd.Timestamp("1950-01-01") + pd.to_timedelta(rng.integers(0, 18_000, num_people), "D")
    return pd.DataFrame(
        {
            "number": [f"{each:07d}" for each in rng.permutation(10**6)[:num_people] + seed],
            "surname": [f"Sentinel{each}" for each in rng.permutation(num_people)],
            "born": born.strftime("%Y-%m-%d"),
            **dict(zip(NAMES, (raw * np.arange(1, 8) + 5).T, strict=True)),
            "churned": (score + rng.logistic(size=num_people) > 0).astype(int),
        }
    )


def holds(people: pd.DataFrame, silo: str, *, seed: int = 0) -> pd.DataFrame:
    """Return a silo's table: most people, in an order of its own; the index says who is who."""
    rng = np.random.default_rng([seed, *silo.encode()])
    mine = people.iloc[rng.permutation(len(people))[: int(0.85 * len(people))]].copy()
    for place, column in ((0, "number"), (1, "born"), (2, "surname")):  # a fault in one field each
        mine.iloc[place::17, mine.columns.get_loc(column)] = None
    if silo == LABEL:
        mine["account"] = [f"ACC-{each}" for each in mine.index]
        said = {number: word for word, number in _WORDS.items()}
        mine["OUTCOME"] = mine["churned"].map(said)
        return mine[[*_IDS, "account", *COLUMNS[silo], "OUTCOME"]]
    return mine[[*_IDS, *COLUMNS[silo]]]


def write_silo(
    folder: Path,
    name: str,
    table: pd.DataFrame,
    policy: Mapping[str, Any] = POLICY,
) -> Path:
    """Write a silo's directory below ``folder`` and return it."""
    place = folder / name
    (place / "mappings").mkdir(parents=True, mode=0o700)
    table.to_csv(place / "rows.csv", index=False)
    source = {"type": "csv", "path": "rows.csv"}
    _write(place / "silo.yaml", {"name": name, "data": {"customers": source}})
    _write(place / "policy.yaml", policy)
    _write(place / "mappings" / "people@1.yaml", _agreed("people@1", PEOPLE))
    joint: dict[str, Any] = _agreed("joint@1", JOINT)
    if name == LABEL:
        joint["columns"] = {"churned": {"from": "OUTCOME", "recode": _WORDS}}
    _write(place / "mappings" / "joint@1.yaml", joint)
    return place


def _agreed(ref: str, contract: Mapping[str, Any]) -> dict[str, Any]:
    return {"contract": ref, "agreed": Contract.parse(contract, where="here").digest}


def write_silos(
    folder: Path, people: pd.DataFrame, policy: Mapping[str, Any] = POLICY
) -> dict[str, Path]:
    """Write three silos and both contracts below ``folder``; return the silos' directories."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "people.yaml", PEOPLE)
    _write(folder / "joint.yaml", JOINT)
    return {name: write_silo(folder, name, holds(people, name), policy) for name in COLUMNS}


def job_of(**changes: Any) -> Job:
    """Return a vertical job over the three silos; ``protocol`` and ``args`` are merged into it."""
    args = {
        "match": "customers",
        "label_silo": LABEL,
        "columns": {name: list(names) for name, names in COLUMNS.items()},
        **changes.pop("args", {}),
    }
    protocol = {"name": "vertical_linear", "rounds": 5, "args": args, **changes.pop("protocol", {})}
    said = {"name": "joint", "kind": "vertical", "contract": "joint@1", "protocol": protocol}
    return Job.from_json({**said, "match": MATCH, **changes})


def copied(silos: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return copies of silos, and of the contracts beside them, in another folder."""
    (source,) = {directory.parent for directory in silos.values()}
    for place in source.glob("*.yaml"):
        shutil.copy2(place, folder)
    return {name: shutil.copytree(each, folder / name) for name, each in silos.items()}


class Federation:
    """Real silos in this process, which can be reached, or not, as a test wants.

    Args:
        silos: name → directory.
        folder: where runs keep their files, and contracts lie.
    """

    def __init__(self, silos: Mapping[str, Path], folder: Path) -> None:
        self.folder = folder
        self.key = Ed25519PrivateKey.generate()
        self.hosts = acquainted(silos, folder, self.key, (folder,))
        self.parties = {name: Party(host.signing_key) for name, host in self.hosts.items()}

    def opened(
        self,
        job: Job,
        run_id: str,
        *,
        online: Sequence[str] | None = None,
        answers: Mapping[str, Answer] | None = None,
        resume: bool = False,
    ) -> VerticalRun:
        """Return a run that is opened and has asked nothing yet.

        Args:
            job: what is run.
            run_id: unique.
            online: who can be reached; None is everybody.
            answers: in place of what silos answer themselves.
            resume: go on with this run, whose process died.
        """
        reached = {n: answerer(host) for n, host in self.hosts.items()} | dict(answers or {})
        here = self.hosts if online is None else online
        return VerticalRun(
            job,
            Contract.load(job.contract, search=[self.folder]),
            LocalTransport({name: reached[name] for name in here}),
            silos=tuple(self.hosts),
            directory=self.folder / "coordinator" / run_id,
            run_id=run_id,
            key=self.key,
            parties=self.parties,
            search_path=[self.folder],
            resume=resume,
        )


def _write(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False))
