"""JSON Schemas of a silo's own files; ``python -m silos.schema --write`` writes them."""

from __future__ import annotations

from pydantic import BaseModel

from consilo.schema import Schema, main, schema_of
from silos.mapping import Mapping
from silos.metadata import Metadata
from silos.policy import Policy
from silos.silo_config import SiloConfig

MODELS: dict[str, tuple[type[BaseModel], str]] = {
    "mapping": (Mapping, "Consilo mapping"),
    "metadata": (Metadata, "Consilo metadata"),
    "policy": (Policy, "Consilo policy"),
    "silo": (SiloConfig, "Consilo silo"),
}


def schemas() -> dict[str, Schema]:
    """Return the schema of each file that a silo's operator writes, by the file's name."""
    return {name: schema_of(model, title) for name, (model, title) in MODELS.items()}


if __name__ == "__main__":
    raise SystemExit(main(schemas(), "silos.schema"))
