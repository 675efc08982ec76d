"""Prefect's and MLflow's servers, asked over HTTP: neither library is imported for it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from flows.registry import names

WITHIN_S = 5.0
NOT_FINAL = ("RUNNING", "PENDING", "SCHEDULED", "PAUSED", "CANCELLING")
"""Types of states of flow runs that may still do something."""


def ask(
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    method: str | None = None,
    within_s: float = WITHIN_S,
) -> Any:
    """Return a server's answer in JSON; with a body it is a POST, unless ``method`` says else.

    Raises:
        OSError: where it does not answer, or with an error, or breaks its answer off.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=within_s) as answer:
            return json.loads(answer.read() or b"null")
    except (HTTPException, ValueError) as cause:  # neither is an OSError
        raise OSError(f"{url} gave no whole answer ({type(cause).__name__})") from None


def end_died(api: str, flow_run: Mapping[str, Any], message: str) -> None:
    """Let Prefect show that the process of a flow run has died; one that was to be cancelled, is.

    Args:
        api: of the Prefect server.
        flow_run: as that server tells it.
        message: how it died.

    Raises:
        OSError: where the server does not answer.
    """
    place = f"{api}/flow_runs/{flow_run['id']}"
    ending = "Cancelled" if flow_run["state"]["type"] == "CANCELLING" else "Crashed"
    state = {"type": ending.upper(), "name": ending, "message": message}
    # Forced: orchestration would let a run that is Cancelling go nowhere else.
    ask(f"{place}/set_state", {"state": state, "force": True})
    name, tags = names.of_died(str(flow_run["name"]), flow_run["tags"])
    ask(place, {"name": name, "tags": tags}, method="PATCH")
