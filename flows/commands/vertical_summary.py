"""What a person reads of a vertical run: who holds what, joined against alone, where parts lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

_WAYS = {
    "joined": "joined: all silos' columns",
    "label_only": "{label} alone",
    "shuffled": "shuffled join, a control",
}


def silos(summary: Mapping[str, Any]) -> Table:
    """Return the table of silos: part in the run, rows used, what each keeps."""
    table = Table("silo", "status", "rounds", "rows", "contract", "ε", "part of the model")
    references, label = summary.get("references") or {}, summary.get("label_silo")
    for name, silo in summary["silos"].items():
        epsilon = silo.get("epsilon")
        table.add_row(
            f"{name} (labels)" if name == label else name,
            str(silo["status"]).replace("_", " "),
            str(len(silo["rounds"])),
            str(silo["num_examples"]),
            str(silo.get("contract", "")).replace("_", " "),
            "" if epsilon is None else f"{epsilon:.3f}",
            f"kept there, {references[name][:12]}" if name in references else "",
        )
    return table


def metrics(figures: Mapping[str, float], label: str = "label silo") -> list[tuple[str, Any]]:
    """Return the figures of merit by what they were made of; means over held-out folds."""
    rows = []
    for way, title in _WAYS.items():
        mine = {n.split("/", 1)[1]: v for n, v in figures.items() if n.startswith(f"{way}/")}
        rows.append((title.format(label=label), mine))
    rest = {name: value for name, value in figures.items() if name.split("/")[0] not in _WAYS}
    return [row for row in [*rows, ("", rest)] if row[1]]


def lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is said of the match, of parts, and of scores."""
    match = summary.get("match") or {}
    if match:
        how = "used again" if match["reused"] else f"made by {match['run_id']}"
        yield f"{'match':<12} '{match['handle']}', {match['rows']} rows, {how}"
    if unlabelled := summary.get("unlabelled"):
        yield (
            f"{'labels':<12} {unlabelled} of the matched rows have none: they are not trained on "
            "and judge nothing; a scoring job scores them"
        )
    if truth := match.get("truth"):
        yield (
            f"{'':<12} {truth['right']} of {truth['matched']} are right, of {truth['in_all']} "
            f"people that all silos have: precision {truth['precision']:.4f}, recall "
            f"{truth['recall']:.4f} (the demo made them up and knows)"
        )
    kept = summary.get("references") or {}
    if kept and not summary.get("parts"):
        yield f"{'parts':<12} models/{summary['run_id']} in the directory of each silo"
    if summary.get("kind") == "scoring" and summary["status"] != "failed":
        place = f"scores/{summary['run_id']}.csv"
        yield f"{'scores':<12} {place} in the directory of silo '{summary['label_silo']}'"
    for at, place in enumerate((summary.get("parts") or {}).values()):
        yield f"{'parts' if not at else '':<12} {place}"
    scoring = summary.get("scoring")
    if scoring:
        outcome = scoring["scores"] or f"{scoring['status']}: {scoring['reason']}"
        yield f"{'scores':<12} {outcome}"
