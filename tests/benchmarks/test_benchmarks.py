import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
PROGRAMS = sorted(
    path.stem
    for path in BENCHMARKS.glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
METHODS = ("fedavg", "fedprox", "fedadam", "fedyogi", "dp_eps1")


def run(name: str, *options: str, timeout_s: float = 250.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *options],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
    )


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert set(report) == {"benchmark", "size", "load", "figures", "ratios", "left_out"}
    assert all(isinstance(value, int | float) for value in report["figures"].values())
    assert all(isinstance(value, int | float) for value in report["ratios"].values())
    return dict(report)


@pytest.fixture
def heart_data() -> Path:
    folder = Path(os.environ.get("CONSILO_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "heart_disease").is_dir():
        pytest.skip(f"no heart_disease/ in {folder}; name a folder that has it in CONSILO_DATA")
    return folder


def test_the_programs_are_found() -> None:
    assert {"flamby_heart", "rounds"} <= set(PROGRAMS)


def test_the_commands_in_the_docs_exist() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    said = re.findall(r"python benchmarks/(\w+)\.py([^`#\n]*)", text)
    assert len(said) > 10
    for name, arguments in said:
        assert name in PROGRAMS
        for option in re.findall(r"--[\w-]+", arguments):
            assert f'"{option}"' in (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_help_names_the_common_options(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert {"--quick", "--smoke", "--json"} <= set(re.findall(r"--\w+", done.stdout))


def test_a_missing_data_folder_is_a_usage_error(tmp_path: Path) -> None:
    done = run("flamby_heart", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "flamby_split.csv" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_flamby_heart_reports_every_method(heart_data: Path) -> None:
    report = report_of(run("flamby_heart", "--data", str(heart_data), "--quick", "--json"))
    assert report["benchmark"] == "flamby_heart"
    for method in METHODS:
        for figure in ("mean_of_clients", "pooled_test", "sd"):
            assert 0.0 <= report["figures"][f"{method}.{figure}"] <= 1.0
    assert report["figures"]["dp_eps1.epsilon"] <= 1.0


@pytest.mark.slow
@pytest.mark.federation
def test_rounds_compares_with_stock_flower() -> None:
    report = report_of(run("rounds", "--quick", "--json"))
    assert {"overhead_s_per_round", "cpu_s_per_round"} <= set(report["figures"])
    assert set(report["ratios"]) == {"overhead_vs_stock_flower", "cpu_vs_stock_flower"}
    assert all(ratio > 1.0 for ratio in report["ratios"].values())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_silos() -> None:
    report = report_of(run("memory", "--quick", "--json"))
    assert report["benchmark"] == "memory"
    assert report["ratios"]["growth_with_silos"] < 1.25


@pytest.mark.slow
def test_a_slow_silo_costs_fedbuff_little_and_counts() -> None:
    report = report_of(run("asynchronous", "--quick", "--json"))
    assert report["ratios"]["fedbuff.ratio"] <= 1.3 < report["ratios"]["fedavg.ratio"]
    assert report["figures"]["fedbuff.slow_answers"] >= 1
    assert report["figures"]["fedbuff.auc"] > report["figures"]["fedavg.auc"] - 0.02


@pytest.mark.slow
def test_data_path_reports_ours_and_plain() -> None:
    report = report_of(run("data_path", "--quick", "--json"))
    assert report["figures"]["second_read_ms"] < 50
    named = {"rows_per_s_vs_plain", "memory_vs_plain", "wide_check_vs_plain"}
    assert named == set(report["ratios"])


class TestPreparation:
    """FLamby's preparation, by what its paper and its split say of the result."""

    @pytest.fixture
    def flamby(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        import flamby_heart  # type: ignore[import-not-found]

        return flamby_heart

    def test_sizes_are_the_published_ones(self, flamby: Any, heart_data: Path) -> None:
        table = flamby.prepare(heart_data / "heart_disease")
        sizes = table.groupby(["centre", "set"]).size().unstack()
        assert sizes["train"].to_dict() == {
            "cleveland": 199,
            "hungarian": 172,
            "switzerland": 30,
            "va": 85,
        }
        assert sizes["test"].sum() == 254
        assert len(flamby.INPUTS) == 13

    def test_training_rows_are_standardised(self, flamby: Any, heart_data: Path) -> None:
        table = flamby.prepare(heart_data / "heart_disease")
        rows = flamby.prepared(table, pooled=False)["cleveland"]["train_features"]
        assert abs(rows.mean(axis=0)).max() < 1e-5
        assert abs(rows.std(axis=0, ddof=1) - 1).max() < 1e-4

    def test_the_initial_model_is_torchs_own(self, flamby: Any) -> None:
        import torch

        state = torch.random.get_rng_state()
        first, second = flamby.first_params(42), flamby.first_params(42)
        assert (first["linear.weight"] == second["linear.weight"]).all()
        assert abs(first["linear.weight"]).max() <= 13**-0.5
        assert torch.equal(torch.random.get_rng_state(), state)
