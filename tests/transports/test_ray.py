"""The same run on Ray as in one process; needs the extra ``ray``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import clinic
import psutil
import pytest

from consilo.errors import ConfigInvalid
from consilo.horizontal.partition import Partition
from consilo.transports.ray_actors import RayTransport
from consilo.wire.payload import pack, unpack
from silos.simulation.simulation import simulate_cut

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_way_to_install_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"pip install 'consilo\[ray\]'"):
        RayTransport(["a"], "silos.simulation.simulated:open_cut", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="needs the extra 'ray' (pip install 'consilo[ray]')")
@pytest.mark.filterwarnings("default")
def test_ray_gives_the_parameters_of_one_process(tmp_path: Path) -> None:
    results = []
    for engine in ("inline", "ray"):
        result = simulate_cut(
            clinic.job(protocol={"rounds": 2}),
            clinic.frame(120),
            Partition(silos=5, rule="dirichlet", min_rows=5),
            contract=clinic.contract(),
            directory=tmp_path / engine,
            engine=engine,  # type: ignore[arg-type]
            workers=2,
        )
        assert result.status == "complete", result.reason
        kept = (tmp_path / engine / "run" / "checkpoint.safetensors").read_bytes()
        results.append(pack(unpack(kept)["state"]))
    assert results[0] == results[1]
    left = [each for each in psutil.Process().children(recursive=True) if each.is_running()]
    assert [each.name() for each in left if "ray" in each.name()] == []
