"""``node.yaml``: who a silo's node is and where its coordinator is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from consilo.config import Config, parse, read_yaml
from consilo.silo_name import SiloName

log = logging.getLogger("consilo.node")

PRELOAD = ("torch", "torch._dynamo", "opacus", "silos.node.ready")


class NodeConfig(Config):
    """``node.yaml``."""

    name: SiloName
    superlink: str = Field(description="host:port of the coordinator")
    preload: tuple[str, ...] = PRELOAD
    refresh_s: float = Field(
        default=60.0, gt=0, description="how often the coordinator's list of members is fetched"
    )
    drain_s: float = Field(
        default=60.0, gt=0, description="a replaced key is served until it was silent for so long"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_threads(cls, value: Any) -> Any:
        """Pass over what former releases took from here."""
        if isinstance(value, dict) and "threads" in value:
            log.warning(
                "node.yaml: 'threads' has no effect; a job says how many it computes with "
                "(local.threads), and limits.threads in policy.yaml how many it may"
            )
            value = {key: each for key, each in value.items() if key != "threads"}
        return value

    @classmethod
    def load(cls, folder: Path) -> NodeConfig:
        """Return the configuration of the silo in ``folder``.

        Raises:
            ConfigInvalid: with every finding.
        """
        path = folder / "node.yaml"
        return parse(cls, read_yaml(path), where=str(path))
