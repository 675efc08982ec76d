"""The registry's aliases of champions, over MLflow's HTTP API: MLflow itself is not imported.

Who may move an alias MLflow does not ask (mlflow#24742). So `consilo.decisions` decides, and
`flows.tending.champions` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import urlencode

from flows.registry import names

_PAGE = 200


class Ask(Protocol):
    """Asks a server over HTTP: `flows.tending.servers.ask`."""

    def __call__(
        self, url: str, body: Mapping[str, Any] | None = None, *, method: str | None = None
    ) -> Any:
        """Return its answer in JSON."""


class Champions:
    """The aliases in one registry.

    Args:
        tracking_uri: of the MLflow server.
        ask: how it is asked.
    """

    def __init__(self, tracking_uri: str, ask: Ask) -> None:
        self._api = f"{tracking_uri}/api/2.0/mlflow/registered-models"
        self._ask = ask

    def pointing(self, model: str) -> dict[str, int]:
        """Return every alias of a model → version; none where there is no such model."""
        try:
            found = self._ask(f"{self._api}/get?{urlencode({'name': model})}")
        except HTTPError as cause:
            if cause.code != 404:
                raise
            return {}
        return _aliases(found["registered_model"])

    def everywhere(self) -> dict[str, tuple[dict[str, int], str]]:
        """Return every model → its aliases, and what `mark` kept with it last."""
        found: dict[str, tuple[dict[str, int], str]] = {}
        token = ""
        while True:
            query = {"max_results": _PAGE} | ({"page_token": token} if token else {})
            page = self._ask(f"{self._api}/search?{urlencode(query)}")
            for each in page.get("registered_models", []):
                tags = {tag["key"]: tag["value"] for tag in each.get("tags", [])}
                found[str(each["name"])] = (_aliases(each), tags.get(names.TAG_DECISIONS, ""))
            token = page.get("next_page_token", "")
            if not token:
                return found

    def point(self, model: str, alias: str, version: int | None) -> None:
        """Let an alias point at a version; None takes the alias away."""
        told = {"name": model, "alias": alias}
        if version is not None:
            self._ask(f"{self._api}/alias", {**told, "version": str(version)})
        elif alias in self.pointing(model):
            self._ask(f"{self._api}/alias", told, method="DELETE")

    def mark(self, model: str, head: str) -> None:
        """Keep the chain's head with the model."""
        told = {"name": model, "key": names.TAG_DECISIONS, "value": head}
        self._ask(f"{self._api}/set-tag", told)


def _aliases(model: Mapping[str, Any]) -> dict[str, int]:
    return {str(each["alias"]): int(each["version"]) for each in model.get("aliases", [])}
