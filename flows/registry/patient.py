"""A client of MLflow that waits while its server is away, and asks again when it is back.

A run does not end because its tracker did: `consilo up` starts a server that died within half a
minute, and what was to be written is written then. Metrics keep the time that they were measured
at, so that MLflow takes a repeated batch for the same points. What is made under a new id is looked
for first, since an answer may have been lost after it was made.
"""

from __future__ import annotations

import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from consilo.errors import ServiceAway

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE_S = 600.0
"""How long a server may be away."""
_LOOK_S = 0.5
_ANSWERS_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class Patient:
    """Every method of an `MlflowClient`, each as often as the server went away meanwhile.

    Args:
        client: of the tracking server.
        uri: the server's address.
        stopped: set by who wants the run to end; nothing is waited for then.
        say: told once when the server is away, and once when it is back.
        patience_s: how long it may be away; `PATIENCE_S` unless said.
        require: asked before each call; raises where the run is no longer ours to write about.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        *,
        stopped: threading.Event | None = None,
        say: Callable[[str], None] = log.warning,
        patience_s: float | None = None,
        require: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._uri = uri
        self._stopped = stopped or threading.Event()
        self._say = say
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._require = require

    def __getattr__(self, name: str) -> Any:
        """Return the client's own, made patient where it is a method."""
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def asked(*args: Any, **settings: Any) -> Any:
            while True:
                self._require()
                try:
                    return found(*args, **settings)
                except Exception as cause:
                    if not _is_of_the_way(cause):
                        raise
                    self._wait()
                made = _MADE.get(name, _nothing)(self._client, args, settings)
                if made is not None:
                    return made

        return asked

    def _wait(self) -> None:
        """Return once the server answers.

        Raises:
            ServiceAway: where it is away for too long, or the run shall end.
        """
        began = time.monotonic()
        if not self._answers():
            self._say(f"MLflow at {self._uri} is away; the run waits for it")
        while not self._answers():
            if self._stopped.wait(_LOOK_S):
                raise ServiceAway(f"MLflow at {self._uri} is away, and the run ends") from None
            if time.monotonic() - began > self._patience_s:
                raise ServiceAway(
                    f"MLflow at {self._uri} has been away for {self._patience_s:.0f} s; start it "
                    "again ('consilo up'), then go on with the run ('--resume')"
                ) from None
        if time.monotonic() - began > _LOOK_S:
            self._say(f"MLflow is back after {time.monotonic() - began:.0f} s")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._uri}/health", timeout=_ANSWERS_WITHIN_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def patient(
    client: MlflowClient,
    uri: str,
    *,
    stopped: threading.Event | None = None,
    require: Callable[[], None] = lambda: None,
) -> MlflowClient:
    """Return a client that waits for its server; see `Patient`."""
    return cast("MlflowClient", Patient(client, uri, stopped=stopped, require=require))


def _is_of_the_way(cause: Exception) -> bool:
    """Return whether a request or its answer was lost, rather than answered with an error."""
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import ConnectionError as Broken
    from requests.exceptions import Timeout

    if isinstance(cause, RestException):
        return False
    if isinstance(cause, MlflowException):
        inner = cause.__cause__ or cause.__context__
        return isinstance(inner, Broken | Timeout)
    return isinstance(cause, Broken | Timeout | ConnectionError)


def _run(client: MlflowClient, args: tuple[Any, ...], settings: Mapping[str, Any]) -> Any:
    from flows.registry import names

    wanted = dict(settings.get("tags") or {}).get(names.TAG_RUN)
    if wanted is None:
        return None
    query = f"tags.`{names.TAG_RUN}` = '{wanted}'"
    found = client.search_runs([args[0]], filter_string=query, max_results=1)
    return found[0] if found else None


def _model_version(client: MlflowClient, args: tuple[Any, ...], settings: Mapping[str, Any]) -> Any:
    found = client.search_model_versions(f"name = '{args[0]}'")
    source = settings.get("source")
    return next((each for each in found if each.source == source), None)


def _nothing(client: MlflowClient, args: tuple[Any, ...], settings: Mapping[str, Any]) -> Any:
    return None


_MADE: Mapping[str, Callable[[MlflowClient, tuple[Any, ...], Mapping[str, Any]], Any]] = {
    "create_run": _run,
    "create_model_version": _model_version,
}
"""What looks whether a call has made its thing already."""
