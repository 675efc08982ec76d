"""Prefect's and MLflow's servers, asked over HTTP: neither library is imported for it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

WITHIN_S = 5.0


def ask(url: str, body: Mapping[str, Any] | None = None, *, within_s: float = WITHIN_S) -> Any:
    """Return a server's answer in JSON; with a body it is a POST.

    Raises:
        OSError: where it does not answer, or with an error, or breaks its answer off.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=within_s) as answer:
            return json.loads(answer.read() or b"null")
    except (HTTPException, ValueError) as cause:  # neither is an OSError
        raise OSError(f"{url} gave no whole answer ({type(cause).__name__})") from None
