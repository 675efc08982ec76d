"""One training step whose model is a bundle's: ``walled_step.py FOLDER [CALL ...]``.

Prints two lines: whether code can be locked in here, and what the silo, made in FOLDER, answered.
Where system calls are named, these alone are let through from the start (`unit_filter`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import unit_filter

NET = b"""
from torch import nn


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, features):
        return self.layer(features)
"""


def step(folder: Path) -> None:
    """Make a silo, ask it, and print."""
    import clinic
    import numpy as np
    import warm_silo

    from consilo.kernel.verbs import Disclosure
    from consilo.machine import sandbox
    from consilo.transports.flower.bundle import build_bundle

    silo = warm_silo.make(folder / "north")
    print("wall", sandbox.fault(hidden=silo) or "stands")
    classes = (Disclosure.METRIC, Disclosure.STATISTIC, Disclosure.UPDATE)
    bundle = warm_silo.approved(silo, build_bundle({"net.py": NET}, disclosures=classes))
    sizes = warm_silo.parameters()["linear.weight"].shape
    zero = {"layer.weight": np.zeros(sizes, "f4"), "layer.bias": np.zeros(sizes[0], "f4")}
    payload = {"params": zero, "scale": None}
    with warm_silo.warm(silo) as process:
        process.start()
        reply, _ = warm_silo.ask(process, bundle, clinic.job(model="net:Net"), payload=payload)
    print("step", " ".join([reply.status, reply.reason]).strip())


if __name__ == "__main__":
    if sys.argv[2:]:
        unit_filter.lay_on(set(sys.argv[2:]))
    step(Path(sys.argv[1]))
