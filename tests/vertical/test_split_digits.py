"""Handwritten digits cut into a left and a right half: as good as the joined network."""

import os
import sys
from pathlib import Path

import pytest
import vertical

from consilo.job import Job

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CONSILO_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark's digits, settings and joined network."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import split

    yield split
    del sys.modules["split"]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 4])
def test_halves_are_within_a_point_of_the_whole(benchmark, bits):
    """MNIST where it is there, else scikit-learn's digits; the same start, so bits alone differ."""
    has_mnist = (DATA / "mnist").is_dir()
    digits = benchmark.mnist(DATA / "mnist") if has_mnist else benchmark.small_digits()
    epochs = benchmark.EPOCHS if has_mnist else benchmark.SMALL_EPOCHS
    whole = benchmark.joined(digits, epochs=epochs)
    assert whole > 0.9
    columns = {"bank": digits.halves["left"], "shop": digits.halves["right"]}
    said = benchmark.job_of(digits, bits=bits, epochs=epochs)
    said["protocol"]["args"] |= {"match": "m", "label_silo": "bank", "columns": columns}
    job = Job.from_json(said | {"contract": "joint@1"})
    contract = vertical.contract_of(columns, classes=10)
    hosts = vertical.silos_of(digits.table.rename(columns={"digit": "y"}), columns)
    for host, half in (("bank", "left"), ("shop", "right")):
        hosts[host].secrets["r"] = benchmark.secret_of(half, 0)
    found, _ = vertical.driven(job, contract, hosts)
    assert found.metrics["joined/accuracy"] == pytest.approx(whole, abs=0.01 if bits < 32 else 1e-3)
