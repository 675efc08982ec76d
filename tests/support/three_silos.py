"""Three real silos in this process that know each other, and a run over them."""

from __future__ import annotations

from pathlib import Path

import clinic
import yaml
from agreed import agree
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.kernel.loop import Party
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import Run
from consilo.transports.local import LocalTransport
from consilo.wire.signing import public_hex
from silos.gate.partners import Partner
from silos.gate.policy import TEMPLATE
from silos.silo import Silo

KEY = Ed25519PrivateKey.generate()
NAMES = ("east", "north", "south")


def silo(path: Path, name: str, partners: dict[str, Partner]) -> Silo:
    path.mkdir(parents=True)
    clinic.frame(40, NAMES.index(name)).to_csv(path / "rows.csv", index=False)
    config = {"name": name, "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    (path / "policy.yaml").write_text(TEMPLATE.replace("min_cohort: 2", "min_cohort: 3"))
    pinned = {"signing_keys": [public_hex(KEY)]}
    agree(path, clinic.contract())
    (path / "coordinator.yaml").write_text(yaml.safe_dump(pinned))
    return Silo.open(path, partners=partners)


def run_of(
    folder: Path, silos: dict[str, Silo], change=lambda name, answer: answer, **changes: object
) -> Run:
    answers = {name: change(name, answerer(each)) for name, each in silos.items()}
    return Run(
        clinic.job(**{"protocol": {"rounds": 2}, **changes}),
        clinic.contract(),
        LocalTransport(answers),
        silos=NAMES,
        directory=folder,
        run_id=folder.name,
        key=KEY,
        parties={name: Party(each.signing_key) for name, each in silos.items()},
    )


def silos_in(folder: Path) -> dict[str, Silo]:
    partners: dict[str, Partner] = {}
    made = {name: silo(folder / name, name, partners) for name in NAMES}
    partners |= {name: Partner(signing_key=each.signing_key) for name, each in made.items()}
    return made
