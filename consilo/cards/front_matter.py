"""The YAML before a card's Markdown, with the keys that model hubs read."""

from __future__ import annotations

from typing import Any

from consilo.cards.quality import intervals_of, metrics_of
from consilo.cards.subject import Subject
from consilo.printable import printable
from consilo.yaml_text import to_yaml

_TASKS = {
    "binary": "tabular-classification",
    "multiclass": "tabular-classification",
    "regression": "tabular-regression",
}
_LIBRARY = "consilo"


def front_matter(subject: Subject) -> str:
    """Return the block between its lines of dashes; values are one line each, and exact."""
    return f"---\n{to_yaml(fields_of(subject))}---\n\n"


def fields_of(subject: Subject) -> dict[str, Any]:
    """Return the front matter as plain values; what nobody stated is left out."""
    told = subject.told
    stated = told.stated
    contract = str(told.opened["contract"])
    task = _TASKS.get(str(told.job.get("task", "")))
    metrics = metrics_of(told)
    fields: dict[str, Any] = {}
    if stated.get("license"):
        fields["license"] = str(stated["license"]).lower()
    fields["library_name"] = _LIBRARY
    fields["tags"] = [
        *dict.fromkeys(
            (
                "federated-learning",
                told.kind,
                *(("differential-privacy",) if told.privacy else ()),
                *stated.get("tags", ()),
            )
        )
    ]
    fields["datasets"] = [contract]
    fields["metrics"] = list(metrics)
    if task:
        fields["pipeline_tag"] = task
    if metrics:
        fields["model-index"] = [
            {
                "name": _line(subject.name),
                "results": [
                    {
                        "task": {"type": task or "other"},
                        "dataset": {
                            "type": contract.partition("@")[0],
                            "name": f"held-out rows under contract {contract}",
                            "revision": str(told.opened["contract_digest"]),
                        },
                        "metrics": [_metric(subject, *each) for each in metrics.items()],
                    }
                ],
            }
        ]
    return fields


def _metric(subject: Subject, name: str, value: float) -> dict[str, Any]:
    found: dict[str, Any] = {"type": _line(name), "value": value, "name": _line(name)}
    ends = intervals_of(subject.told).get(name)
    if ends:
        found["args"] = {"interval_95": [float(each) for each in ends]}
    return found


def _line(text: str) -> str:
    return printable(" ".join(text.split()))
