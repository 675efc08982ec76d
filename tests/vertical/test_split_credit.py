"""A split network over the credit default table, cut by columns between two silos; real rows."""

import os
from pathlib import Path

import pandas as pd
import pytest
import vertical

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CONSILO_DATA", ROOT.parent / "shared" / "data")) / "fate"
FILES = {"bank": "default_credit_hetero_guest.csv.gz", "shop": "default_credit_hetero_host.csv.gz"}
MLP = "consilo.learners.tabular:MLP"

pytestmark = pytest.mark.skipif(
    not (DATA / FILES["bank"]).exists(),
    reason="the FATE example files are not here; set CONSILO_DATA to the folder that holds them",
)


@pytest.mark.slow
def test_the_joined_network_gains_what_a_wrong_join_does_not():
    """30,000 rows, 13 columns with the label and 10 without; a fifth of the rows held out."""
    parts = {silo: pd.read_csv(DATA / file).set_index("id") for silo, file in FILES.items()}
    labels = parts["bank"].pop("y")
    parts = {silo: each.add_prefix(f"{silo}_") for silo, each in parts.items()}
    columns = {silo: tuple(each.columns) for silo, each in parts.items()}
    table = pd.concat([*parts.values(), labels], axis=1, join="inner")
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)
    job = vertical.job_of(
        "vertical_split",
        columns,
        args={"bottom": {"name": MLP, "args": {"hidden": [32]}}},
        model={"name": MLP, "args": {"hidden": [16]}},
        protocol={"rounds": 6},
        local={"batch_size": 500, "lr": 0.1, "momentum": 0.9},
    )
    found, _ = vertical.driven(
        job, vertical.contract_of(columns), vertical.silos_of(table, columns)
    )
    auc = {way: found.metrics[f"{way}/roc_auc"] for way in ("joined", "label_only", "shuffled")}
    assert auc["joined"] > 0.755
    assert auc["joined"] - auc["label_only"] > 0.05
    assert auc["shuffled"] < auc["label_only"] + 0.005
