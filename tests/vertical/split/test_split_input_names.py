"""A bottom model gets to know which input is which, when it trains and when it scores."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import vertical

from consilo.vertical.parts import Part
from consilo.vertical.split.score import SplitScorer

COLUMNS = {"bank": ("a", "b"), "shop": ("c", "d")}
BOTTOM = """
import torch

class Second(torch.nn.Module):
    '''Sees its silo's last column alone, which it finds by its name.'''

    def __init__(self, num_inputs, num_outputs, input_names):
        super().__init__()
        self.place = input_names.index(max(input_names))
        self.layer = torch.nn.Linear(1, num_outputs)

    def forward(self, rows):
        return self.layer(rows[:, self.place : self.place + 1])
"""


def test_a_bottom_model_slices_by_name_in_training_and_in_scoring(tmp_path):
    (tmp_path / "second.py").write_text(BOTTOM)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 4)), columns=list("abcd"))
    table["y"] = (table["d"] > 0).astype(int)
    hosts = vertical.silos_of(table, COLUMNS)
    for name, host in hosts.items():
        host.search_path = (tmp_path,)
        host.run_secrets.setdefault("r", hashlib.sha256(name.encode()).digest())
    job = vertical.job_of(
        "vertical_split",
        COLUMNS,
        protocol={"rounds": 2},
        args={"width": 3, "bottom": {"name": "second:Second"}, "controls": False},
        model="consilo.learners.tabular:MLP",
        local={"batch_size": 16, "lr": 0.2},
    )
    vertical.driven(job, vertical.contract_of(COLUMNS), hosts)
    part = Part.from_bytes(hosts["shop"].part("r"))
    assert part.inputs == ("c", "d")
    rows = rng.normal(size=(5, 2)).astype(np.float32)
    shown = SplitScorer(part, (tmp_path,)).outward(rows)["embedding"]
    other = rows.copy()
    other[:, 0] += 1  # of column c, which the model does not look at
    np.testing.assert_array_equal(SplitScorer(part, (tmp_path,)).outward(other)["embedding"], shown)
    other[:, 1] += 1
    assert (SplitScorer(part, (tmp_path,)).outward(other)["embedding"] != shown).any()
