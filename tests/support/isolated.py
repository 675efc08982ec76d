"""An interpreter for processes that start isolated, which takes no code from any variable."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def interpreter(folder: Path, *paths: Path, base: str = "", packages: tuple[str, ...] = ()) -> str:
    """Return a Python in ``folder`` that has our packages, and further folders on its path.

    It is an environment as ``venv`` makes one, with the programs of ours beside it.

    Args:
        folder: where; may exist.
        paths: further folders; a ``sitecustomize`` in one is run.
        base: the Python that it stands for; ours unless given.
        packages: folders of packages; ours unless given.
    """
    base = base or sys._base_executable  # type: ignore[attr-defined]
    site = folder / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "pyvenv.cfg").write_text(
        f"home = {Path(base).parent}\ninclude-system-site-packages = false\n"
    )
    for program in Path(sys.executable).parent.iterdir():
        if not program.name.startswith(("python", "pip")):
            link = folder / "bin" / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    python = folder / "bin" / "python"
    python.unlink(missing_ok=True)
    python.symlink_to(base)
    more = [f"import site; site.addsitedir({each!r})" for each in packages or _ours()]
    (site / "more.pth").write_text("\n".join([*map(str, paths), *more, ""]))
    return str(python)


def _ours() -> tuple[str, ...]:
    return (sysconfig.get_path("purelib"),)
