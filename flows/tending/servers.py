"""Prefect's and MLflow's servers, asked over HTTP: neither library is imported for it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

WITHIN_S = 5.0


def ask(url: str, body: Mapping[str, Any] | None = None) -> Any:
    """Return a server's answer in JSON; with a body it is a POST.

    Raises:
        OSError: where it does not answer, or with an error.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
        return json.loads(answer.read() or b"null")
