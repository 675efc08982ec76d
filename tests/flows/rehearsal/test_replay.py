"""What a record says of a run that a rehearsal compares."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.record.run_record import RunRecord
from flows.rehearsal.replay import ended


def _record(folder: Path, rounds: Iterable[dict[str, Any]]) -> Path:
    record = RunRecord(folder / "record.jsonl", Ed25519PrivateKey.generate())
    for number, said in enumerate(rounds, start=1):
        record.add("round", **{"round": number, "silos": {}, "faults": {}, **said})
    return record.path


def _parts(**outcomes: str) -> dict[str, Any]:
    parts = [{"silo": name, "outcome": each} for name, each in outcomes.items()]
    return {"participation": parts}


def test_a_round_is_whole_where_all_took_part_who_were_to(tmp_path: Path) -> None:
    """Rounds that wait for two of three, or draw them, were told as lost."""
    to_come = {**_parts(anna="trained", berta="late"), "late": ["berta"], "arrivals": []}
    record = _record(
        tmp_path,
        [
            _parts(anna="trained", berta="trained"),
            _parts(anna="trained", berta="not_drawn"),
            to_come,
            _parts(anna="trained", berta="late"),
            _parts(anna="trained", berta="dropped"),
        ],
    )
    assert ended(record, {}).whole == {1, 2, 3}
