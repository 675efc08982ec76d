"""How good a model is, as its record has it: over all silos, by silo, by class, calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consilo.cards.document import Block, Bullets, Paragraph, Section, Table, between, figure
from consilo.cards.told import Told

CALIBRATION = ("calibration_error", "brier", "log_loss")
"""Figures that say how far probabilities can be taken at their word."""
_OF_CALIBRATION = {
    "calibration_error": "mean gap between the probability that is said and the share that is "
    "true; 0 is best",
    "brier": "mean squared error of the probability; 0 is best",
    "log_loss": "mean surprise at what is true, in nats; 0 is best",
}
_HIDDEN = ("num_silos/",)


def quality(told: Told) -> list[Section]:
    """Return the sections about figures, groups and calibration."""
    return [_figures(told), _groups(told), _calibration(told)]


def metrics_of(told: Told) -> dict[str, float]:
    """Return the finished model's figures over all silos, as the record has them."""
    found = told.evaluated.get("metrics") or told.closed.get("metrics") or {}
    return {name: value for name, value in sorted(found.items()) if _is_number(value)}


def intervals_of(told: Told) -> Mapping[str, Sequence[float]]:
    """Return 95 % intervals of these figures, those that the record has."""
    found: Mapping[str, Sequence[float]] = told.evaluated.get("intervals") or {}
    return found


def silo_metrics_of(told: Told) -> dict[str, dict[str, float]]:
    """Return silo → the finished model's figures on its own held-out rows."""
    found = told.evaluated.get("silos") or {}
    return {
        name: {key: value for key, value in sorted(each.items()) if _is_number(value)}
        for name, each in sorted(found.items())
    }


def _figures(told: Told) -> Section:
    metrics = metrics_of(told)
    if not metrics:
        why = "the job pays nothing for them" if told.privacy else "no silo let any out"
        return Section("Performance", (Paragraph(f"The record holds no figure of merit: {why}."),))
    intervals, constant = intervals_of(told), told.evaluated.get("constant") or {}
    noise = told.evaluated.get("noise") or {}
    rows = tuple(
        (
            name,
            figure(value),
            between(list(intervals.get(name, ()))),
            figure(constant[name]) if name in constant else "–",
            *((figure(noise[name]) if name in noise else "–",) if noise else ()),
        )
        for name, value in metrics.items()
        if not name.startswith(_HIDDEN)
    )
    head = ("figure", "value", "95 % interval", "best constant answer")
    blocks: list[Block] = [
        Table((*head, "standard error by noise") if noise else head, rows, _judged_on(told))
    ]
    if any(name.startswith("silo_mean/") for name in metrics):
        blocks.append(
            Paragraph("A figure silo_mean/… is a mean over silos, weighted by held-out rows.")
        )
    blocks += _by_silo(told)
    return Section("Performance", tuple(blocks))


def _judged_on(told: Told) -> str:
    by_silo, kind = told.held_out, told.kind
    if by_silo:
        return (
            f"The finished model on {told.num_held_out} held-out rows of {len(by_silo)} silos "
            "together; none of them trained it."
        )
    rows = told.evaluated.get("rows")
    if kind == "vertical" and isinstance(rows, int):
        return f"The finished model, judged in the label silo; the match has {rows} rows."
    return "The finished model on held-out rows."


def _by_silo(told: Told) -> list[Block]:
    silos, rows = silo_metrics_of(told), told.held_out
    ends = told.evaluated.get("silo_intervals") or {}
    if not silos:
        return [Paragraph("The record holds no figures by silo.")]
    names = list(dict.fromkeys(name for each in silos.values() for name in each))
    return [
        Table(
            ("figure", *silos),
            (
                ("held-out rows", *(figure(rows.get(silo)) for silo in silos)),
                *(
                    (name, *(_with_ends(silos[s], ends.get(s) or {}, name) for s in silos))
                    for name in names
                ),
            ),
            "By silo, each on its own held-out rows, with the 95 % interval where one is known.",
        )
    ]


def _with_ends(metrics: Mapping[str, float], ends: Mapping[str, Sequence[float]], name: str) -> str:
    if name not in metrics:
        return "–"
    known = ends.get(name)
    return figure(metrics[name]) + (f" ({between(list(known))})" if known else "")


def _groups(told: Told) -> Section:
    classes = [
        (name, figure(value), between(list(intervals_of(told).get(name, ()))))
        for name, value in metrics_of(told).items()
        if name.startswith(("recall/", "precision/", "roc_auc/"))
    ]
    blocks: list[Block] = [
        Paragraph(
            "The record of the training holds no figures by groups of people. Where silos voted on "
            "the model, the record of their vote has what they say of groups."
        )
    ]
    if classes:
        blocks.append(Table(("figure", "value", "95 % interval"), tuple(classes), "By class."))
    return Section("Fairness", tuple(blocks))


def _calibration(told: Told) -> Section:
    metrics = metrics_of(told)
    rows = tuple(
        (name, figure(metrics[name]), _OF_CALIBRATION[name])
        for name in CALIBRATION
        if name in metrics
    )
    if not rows:
        return Section("Calibration", (Paragraph("The record holds no figure about calibration."),))
    return Section(
        "Calibration",
        (
            Table(("figure", "value", "what it is"), rows),
            Bullets(
                ("Calibration is that of the held-out rows; where classes are rarer or more common "
                 "than there, probabilities have to be set anew.",)
            ),
        ),
    )  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
