"""A silo over a directory with the rows of a clinic."""

import clinic
import yaml

from silos.proposals import onboard
from silos.silo import Silo

POLICY = "allow: [{jobs: ['*']}]\ndisclosures: {metric: yes, statistic: yes, update: yes}\n"


def make(path, rows=None, *, mapping=None, name="north", policy=POLICY):
    path.mkdir(parents=True, exist_ok=True)
    (clinic.frame(30) if rows is None else rows).to_csv(path / "rows.csv", index=False)
    config = {"name": name, "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    (path / "policy.yaml").write_text(policy)
    if mapping is not None:
        (path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    if mapping is None or mapping.get("contract") == clinic.contract().ref:
        onboard.confirm(path, clinic.contract(), clinic.contract().digest)
    return Silo.open(path)
