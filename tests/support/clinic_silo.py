"""A silo over a directory with the rows of a clinic."""

import clinic
import yaml

from silos.silo import Silo
from silos.simulation.in_memory import write_made_up_root

POLICY = "allow: [{jobs: ['*']}]\ndisclosures: {metric: yes, statistic: yes, update: yes}\n"


def make(path, rows=None, *, mapping=None, name="north", policy=POLICY):
    path.mkdir(parents=True, exist_ok=True)
    (clinic.frame(30) if rows is None else rows).to_csv(path / "rows.csv", index=False)
    config = {"name": name, "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    write_made_up_root(path, config["name"])  # the same rows are held out in every test
    (path / "policy.yaml").write_text(policy)
    said = {"contract": clinic.contract().ref, "agreed": clinic.contract().digest}
    (path / "mapping.yaml").write_text(yaml.safe_dump({**said, **(mapping or {})}))
    return Silo.open(path)
