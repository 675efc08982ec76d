"""What a node's keeper takes for news."""

from __future__ import annotations

import os
import queue
from pathlib import Path

from silos.node.lines import TICK, Event, Keeper
from silos.node_config import NodeConfig


def heard(events: queue.SimpleQueue[Event], ticks: int) -> list[object]:
    said: list[object] = []
    while said.count(TICK) < ticks:
        said.append(events.get(timeout=20)[1])
    return [each for each in said if each != TICK]


def test_a_file_written_again_with_the_same_content_is_no_new_authority(tmp_path: Path) -> None:
    # A node said "the coordinator has announced a certificate authority" when none had changed.
    authority = tmp_path / "ca.crt"
    authority.write_text("one")
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    config = NodeConfig(name="anna", superlink="127.0.0.1:1", refresh_s=3600)
    keeper = Keeper(tmp_path, config, events)
    keeper.start()
    try:
        assert heard(events, 1) == []
        authority.write_text("one")
        os.utime(authority, (1, 1))
        assert heard(events, 2) == []
        authority.write_text("one and another")
        assert heard(events, 2) == ["ca.crt"]
    finally:
        keeper.stop()
