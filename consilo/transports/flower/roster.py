"""Keeps Flower's list of nodes what the list of members says; runs in the SuperLink.

The members decide. A node key of theirs is registered with Flower under the silo's name (two keys
while one replaces the other: two nodes of one name); a suspended silo's node is taken offline, so
that a run does not wait for it; a node whose key is no member's is struck off.
"""

from __future__ import annotations

import logging
from typing import Any

from consilo.membership.keys import public_key_pem
from consilo.membership.members import Members
from consilo.transports.flower.version import require_flower

log = logging.getLogger("consilo.roster")


def reconcile(state: Any, members: Members) -> None:
    """Bring Flower's nodes in line with the members.

    Args:
        state: Flower's ``LinkState``.
        members: the list.
    """
    require_flower()
    from flwr.common.constant import (
        HEARTBEAT_DEFAULT_INTERVAL,
        NOOP_ACCOUNT_NAME,
        NOOP_FLWR_AID,
    )
    from flwr.supercore.constant import NodeStatus

    wanted: dict[bytes, tuple[str, bool]] = {}
    for member in members.all().values():
        if member.state in ("admitted", "suspended"):
            for key in member.keys:
                pem = public_key_pem(key.public)
                wanted[pem] = (member.name, member.state == "admitted")
    for node in state.get_node_info(owner_aids=[NOOP_FLWR_AID]):
        if node.status == NodeStatus.UNREGISTERED:
            continue
        name, admitted = wanted.pop(bytes(node.public_key), ("", False))
        if not name:
            state.delete_node(owner_aid=NOOP_FLWR_AID, node_id=node.node_id)
            log.info("struck off the node of %s", node.name or "nobody")
        elif not admitted and node.status == NodeStatus.ONLINE:
            state.deactivate_node(node.node_id)
            log.info("took the node of %s offline: suspended", name)
    for pem, (name, _) in wanted.items():
        try:
            state.create_node(
                owner_aid=NOOP_FLWR_AID,
                owner_name=NOOP_ACCOUNT_NAME,
                public_key=pem,
                heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL,
                name=name,
            )
            log.info("registered a node of %s", name)
        except ValueError:
            log.warning("a key of %s was struck off here before; it needs a new one", name)
