"""The newest signed reply of each silo, as the coordinator's runs have it, beside their records.

At the next run the silo is shown its own. A silo that does not remember it has lost what came
after some moment: its log and its privacy ledger are older than what it has said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from consilo.machine.files import write_atomic
from consilo.machine.locks import file_lock

_FILE = "silo-heads.json"


class SiloHeads:
    """The file of one coordinator's runs.

    Args:
        runs: the folder in which each run has its own.
    """

    def __init__(self, runs: Path) -> None:
        self._path = runs / _FILE

    def newest(self, silo: str) -> dict[str, Any] | None:
        """Return the header of the newest reply that a silo signed; None where none is known."""
        found = self._read().get(silo)
        return found if isinstance(found, dict) else None

    def note(self, headers: Iterable[Mapping[str, Any]]) -> None:
        """Keep the last header of each silo, in the order in which they came."""
        new = {str(each["silo"]): dict(each) for each in headers}
        if not new:
            return
        with file_lock(self._path.with_suffix(".lock")):
            said = json.dumps({**self._read(), **new}, indent=1, sort_keys=True)
            write_atomic(self._path, said.encode())

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        return found if isinstance(found, dict) else {}
