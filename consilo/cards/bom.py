"""A model's bill of materials: CycloneDX 1.6, the part for machine learning.

It is plain JSON, made of the record alone, so that whoever checks a card can make it anew without a
library; tests hold it against the schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from consilo.cards.quality import intervals_of, metrics_of, silo_metrics_of
from consilo.cards.subject import Subject

_NAMESPACE = uuid.UUID("6f3c6bb0-8f0e-5d0c-9d0a-0b7f6d1c2a11")
"""Of the serial numbers of our bills: one for each record and version."""
_SUPERVISED = {"binary", "multiclass", "regression"}
_PACKAGES = {"flwr", "numpy", "opacus", "pandas", "torch", "cryptography", "consilo"}


def bill(subject: Subject) -> dict[str, Any]:
    """Return the bill of materials of a model's version as plain JSON values."""
    told = subject.told
    model = _ref("model", subject.name)
    parts = [*_files(subject), *_software(subject), _contract(subject)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{told.head} {subject.version}')}",
        "version": 1,
        "metadata": {"timestamp": told.ended, "component": _model(subject, model)},
        "components": parts,
        "dependencies": [
            {"ref": model, "dependsOn": sorted(each["bom-ref"] for each in parts)},
            *({"ref": each["bom-ref"]} for each in parts),
        ],
    }


def text_of(bom: Mapping[str, Any]) -> str:
    """Return a bill as it stands in its file."""
    return json.dumps(bom, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _ref(kind: str, name: str) -> str:
    return f"{kind}:{name}"


def _model(subject: Subject, ref: str) -> dict[str, Any]:
    told = subject.told
    stated = told.stated
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": subject.name,
        "version": subject.version or told.run_id,
        "description": str(stated.get("purpose") or told.job.get("description") or "not stated"),
        "modelCard": _model_card(subject),
        "properties": [
            {"name": f"consilo:{name}", "value": value} for name, value in _properties(subject)
        ],
    }
    if stated.get("license"):
        found["licenses"] = [{"license": {"name": str(stated["license"])}}]
    if told.registered.get("files"):
        found["hashes"] = [{"alg": "SHA-256", "content": str(told.registered["files"])}]
    return found


def _properties(subject: Subject) -> list[tuple[str, str]]:
    told = subject.told
    found = [
        ("run", told.run_id),
        ("status", told.status),
        ("params", str(told.model["params"])),
        ("record_head", told.head),
        ("job_digest", str(told.opened["job_digest"])),
        ("contract_digest", str(told.opened["contract_digest"])),
        ("silos", ", ".join(told.trained)),
    ]
    if told.privacy:
        found += [("epsilon", str(told.privacy["epsilon"])), ("delta", str(told.privacy["delta"]))]
    return found


def _model_card(subject: Subject) -> dict[str, Any]:
    told = subject.told
    job, stated = told.job, told.stated
    parameters: dict[str, Any] = {
        "task": str(job.get("task", "")),
        "modelArchitecture": str((job.get("model") or {}).get("name") or told.kind),
        "datasets": [{"ref": _ref("contract", str(told.opened["contract"]))}],
        "inputs": [{"format": f"{each['name']}: {each.get('type')}"} for each in subject.columns
                   if each["name"] in subject.features],
        "outputs": [{"format": name} for name in subject.targets],
    }  # fmt: skip
    if job.get("task") in _SUPERVISED:
        parameters["approach"] = {"type": "supervised"}
    considerations: dict[str, Any] = {}
    if stated.get("purpose"):
        considerations["useCases"] = [str(stated["purpose"])]
    if stated.get("limits"):
        considerations["technicalLimitations"] = [str(each) for each in stated["limits"]]
    if stated.get("risks"):
        considerations["ethicalConsiderations"] = [{"name": str(each)} for each in stated["risks"]]
    found: dict[str, Any] = {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": _performance(subject)},
    }
    return {**found, "considerations": considerations} if considerations else found


def _performance(subject: Subject) -> list[dict[str, Any]]:
    told = subject.told
    own_ends = told.evaluated.get("silo_intervals") or {}
    found = [
        _figure(name, value, "all silos", intervals_of(told).get(name))
        for name, value in metrics_of(told).items()
    ]
    return found + [
        _figure(name, value, f"silo {silo}", (own_ends.get(silo) or {}).get(name))
        for silo, metrics in silo_metrics_of(told).items()
        for name, value in metrics.items()
    ]


def _figure(name: str, value: float, part: str, ends: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": name, "value": repr(value), "slice": part}
    if ends:
        low, high = ends
        found["confidenceInterval"] = {"lowerBound": repr(low), "upperBound": repr(high)}
    return found


def _files(subject: Subject) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": _ref("file", name),
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        }
        for name, sha256 in sorted(subject.files.items())
    ]


def _software(subject: Subject) -> list[dict[str, Any]]:
    software = subject.told.opened.get("software") or {}
    found = []
    for name, version in sorted(software.items()):
        each: dict[str, Any] = {
            "type": "library" if name in _PACKAGES else "platform",
            "bom-ref": _ref("software", name),
            "name": name,
            "version": str(version),
        }
        if name in _PACKAGES - {"consilo"}:
            each["purl"] = f"pkg:pypi/{name}@{str(version).partition('+')[0]}"
        found.append(each)
    return found


def _contract(subject: Subject) -> dict[str, Any]:
    opened = subject.told.opened
    ref = str(opened["contract"])
    return {
        "type": "data",
        "bom-ref": _ref("contract", ref),
        "name": ref.partition("@")[0],
        "version": ref.partition("@")[2],
        "description": "what every silo's rows obey; the rows stay in the silos",
        "hashes": [{"alg": "SHA-256", "content": str(opened["contract_digest"])}],
        "data": [{"type": "dataset", "name": ref}],
    }
