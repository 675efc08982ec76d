"""Since when a silo is online, or gone, as the SuperLink's account of its node says."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.proto.node_pb2 import NodeInfo

from consilo.transports.flower.superlink import Presence, presence_of

CAME = "2026-11-26T19:35:05+00:00"
NOON = 1_795_694_400.0


@pytest.mark.parametrize(
    ("account", "presence"),
    [
        ({"status": "registered"}, Presence("never online", "")),
        (
            {"status": "online", "last_activated_at": CAME, "online_until": NOON},
            Presence("online", CAME),
        ),
        (
            {"status": "offline", "last_activated_at": CAME, "online_until": NOON},
            Presence("gone", "2026-11-26T12:00:00+00:00"),
        ),
    ],
)
def test_a_silo_is_online_or_gone_since_a_moment(
    account: dict[str, Any], presence: Presence
) -> None:
    assert presence_of(NodeInfo(node_id=1, name="anna", **account)) == presence
