"""``consilo silo policy``: a policy to start from, and whether the present one is valid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def policy(
    directory: Annotated[Path, typer.Option("--dir", help="The silo's directory.")] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write policy.yaml to start from, where there is none; say whether the present one is valid.

    Example: consilo silo policy --dir silos/cleveland
    """
    from consilo.machine.files import write_atomic
    from silos.gate.policy import TEMPLATE, Policy

    path = directory / "policy.yaml"
    is_new = not path.exists()
    if is_new:
        write_atomic(path, TEMPLATE.encode(), mode=0o600)
    rules = len(Policy.load(path).allow)
    if as_json:
        import json

        print(json.dumps({"policy": str(path), "written": is_new, "rules": rules}))
    elif is_new:
        print(f"wrote {path}; read it: it decides what may run on your rows and what may leave")
    else:
        print(f"{path} is valid; it allows {rules} {'kind' if rules == 1 else 'kinds'} of job")
