"""``node.yaml``: who a silo's node is, where its coordinator is, and the limits of a message."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from consilo.config import Config, parse, read_yaml

PRELOAD = ("torch", "torch._dynamo", "opacus", "silos.node.ready")


class NodeConfig(Config):
    """``node.yaml``."""

    name: str = Field(min_length=1, max_length=64)
    superlink: str = Field(description="host:port of the coordinator")
    answerer: str = "silos.silo:answerer"
    preload: tuple[str, ...] = PRELOAD
    threads: int = Field(default=1, gt=0)
    refresh_s: float = Field(
        default=60.0, gt=0, description="how often the coordinator's list of members is fetched"
    )
    drain_s: float = Field(
        default=60.0, gt=0, description="a replaced key is served until it was silent for so long"
    )

    @classmethod
    def load(cls, folder: Path) -> NodeConfig:
        """Return the configuration of the silo in ``folder``.

        Raises:
            ConfigInvalid: with every finding.
        """
        path = folder / "node.yaml"
        return parse(cls, read_yaml(path), where=str(path))
