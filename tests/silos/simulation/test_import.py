"""A script beside the folder of its silos, the layout of docs/jobs.md, finds what it imports."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import clinic
import pytest
import yaml

ROOT = Path(__file__).parents[3]
RUN = """
import pandas as pd
{imports}
rows = pd.read_csv("rows.csv")
result = simulate("job.yaml", {{"north": rows, "south": rows}})
print(result.status, len(result.silos))
"""
FIND = """
{imports}
print(simulate.__module__.partition(".")[0])
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "silos" / "north").mkdir(parents=True)
    (tmp_path / "silos" / "north" / "silo.yaml").write_text("name: north\n")
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    job = {**clinic.JOB, "protocol": {"rounds": 1}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    clinic.frame(60, missing=0.0).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("imports", "then", "said"),
    [
        ("from consilo import simulate", RUN, ["complete", "2"]),
        ("import consilo; simulate = consilo.simulate", FIND, ["silos"]),
        ("from consilo import Job, simulate; from silos import load_source", FIND, ["silos"]),
        # A namespace package that somebody has imported before is no reason either.
        ("import silos; del silos; from consilo import simulate", FIND, ["silos"]),
    ],
    ids=["simulate", "package", "both", "imported before"],
)
def test_a_folder_called_silos_beside_a_script_is_no_package(
    place: Path, imports: str, then: str, said: list[str]
) -> None:
    script = place / "study.py"
    script.write_text(then.format(imports=imports))
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-len(said) :] == said


def test_an_editable_install_puts_the_packages_before_folders_of_their_names(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Built as pip builds it: the wheel names a folder, and no finder that comes after the path."""
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    code = "import sys, setuptools.build_meta as b; b.build_editable(sys.argv[1])"
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in ("consilo", "silos", "flows", "dashboards", "schemas"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-c", code, str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        paths = [each for each in archive.namelist() if each.endswith((".pth", ".py"))]
        assert [Path(each).suffix for each in paths] == [".pth"]
        assert archive.read(paths[0]).decode().strip() == str(source)
