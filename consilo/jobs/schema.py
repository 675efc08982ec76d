"""JSON Schemas of the files that people write, generated from the objects that check them.

``python -m consilo.jobs.schema --write`` writes them into ``schemas/``; without ``--write`` it
exits with 1 where one is out of date. Editors use them: see the first line of
``schemas/jobs/*.yaml``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from consilo.contracts.contract import SHIPPED, Contract
from consilo.jobs.kinds import AnyJob

Schema = dict[str, Any]

_SHORT: dict[str, Schema] = {
    "Unique": {"type": "array", "items": {"type": "string"}},
    "MinRows": {"type": "integer", "minimum": 1},
    "ClassBalance": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
}
"""What may stand in place of a table rule: the one value that matters."""


def schema_of(model: type[BaseModel], title: str) -> Schema:
    """Return the JSON Schema of what a person writes for ``model``."""
    schema = model.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def job_schema() -> Schema:
    """Return the JSON Schema of a job file."""
    return schema_of(AnyJob, "Consilo job")


def contract_schema() -> Schema:
    """Return the JSON Schema of a contract file; columns take their names from their keys."""
    schema = schema_of(Contract, "Consilo data contract")
    definitions = schema["$defs"]
    definitions["Column"]["required"].remove("name")
    for name, short in _SHORT.items():
        definitions[name] = {"anyOf": [short, definitions[name]]}
    return schema


SCHEMAS = {"job": job_schema, "contract": contract_schema}


def text_of(schema: Schema) -> str:
    """Return a schema as it stands in its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def stale(schemas: Mapping[str, Schema], folder: Path = SHIPPED) -> dict[Path, str]:
    """Return file → right content, for each schema whose file is missing or out of date."""
    right = {folder / f"{name}.schema.json": text_of(each) for name, each in schemas.items()}
    return {
        path: text
        for path, text in right.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main(schemas: Mapping[str, Schema], module: str) -> int:
    """Check the files in ``schemas/`` or, with ``--write``, write them; return the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write what is out of date")
    write = parser.parse_args().write
    outdated = stale(schemas)
    for path, text in outdated.items():
        if write:
            path.write_text(text, encoding="utf-8")
        print(f"{'wrote' if write else 'out of date'}: {path.name}")
    return 1 if outdated and not write else 0


if __name__ == "__main__":
    raise SystemExit(main({name: make() for name, make in SCHEMAS.items()}, "consilo.jobs.schema"))
