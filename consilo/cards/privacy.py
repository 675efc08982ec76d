"""A run's privacy account, and in plain words what it protects and what it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from consilo.cards.document import Block, Bullets, Paragraph, Section, Table, figure
from consilo.cards.told import Told

_PRICES = {
    "noisy_training": "epsilon",
    "noisy_statistics": "statistics_epsilon",
    "noisy_figures": "metrics_epsilon",
}
"""As `consilo.kernel.verbs.FromRows.price`: a card is read without the code that trains."""
_WORDS = {
    "none": "no value of a row",
    "checked": "whether rows keep the contract, in coarse counts",
    "match": "blinded identifiers, for a partner",
    "exact": "exact, from rows",
}


def privacy(told: Told) -> Section:
    """Return the section about differential privacy."""
    section = told.privacy
    if section is None:
        blocks: list[Block] = [
            Paragraph(
                "This model was trained without differential privacy. What protects the people in "
                "the data is that rows stay in their silos, and what each silo's policy lets out."
            ),
            Bullets(tuple(_unprotected(told))),
        ]
        return Section("Privacy", tuple(blocks))
    blocks = [_account(told, section), Paragraph(_promise(section))]
    blocks.append(Bullets(tuple(_limits(told, section))))
    if told.spent:
        rows = tuple((name, figure(each)) for name, each in sorted(told.spent.items()))
        blocks.append(Table(("silo", "ε spent"), rows, "What the run cost each silo."))
    return Section("Privacy", tuple(blocks))


def lets_out(told: Told) -> list[Block]:
    """Return what a silo may let out for this run, at most, field by field."""
    leaves = told.opened.get("leaves")
    if leaves is None:
        return [
            Paragraph(
                "What a silo may let out is not in this record: it was written by a release that "
                "did not note it."
            )
        ]
    rows = tuple(
        (
            f"{protocol}: {verb}",
            field,
            told_of.partition(";")[0],
            exactness(told_of.partition(";")[2].strip(), told.privacy),
        )
        for protocol, verbs in leaves.items()
        for verb, fields in verbs.items()
        for field, told_of in fields.items()
    )
    own = [name for name, verbs in leaves.items() if not verbs]
    blocks: list[Block] = [
        Table(
            ("asked", "field", "class", "made of"),
            rows,
            "What an answer of a silo may hold, at most; a silo's own policy may hold some of it "
            "back.",
        )
    ]
    if own:
        blocks.append(
            Paragraph(
                f"The algorithm {', '.join(own)} is the job's own code: silos take every field of "
                "it for exact and made of rows."
            )
        )
    return blocks


def exactness(rows: str, section: Mapping[str, object] | None) -> str:
    """Return in words what a field is made of, and how exactly, under a job's privacy."""
    price = _PRICES.get(rows)
    if price is None:
        return _WORDS.get(rows, rows)
    if section is not None and section.get(price) is not None:
        return f"noisy, paid by {price}"
    return _WORDS["exact"]


def _account(told: Told, section: Mapping[str, object]) -> Table:
    rows = [
        ("unit", "one row" if section.get("unit", "record") == "record" else "one subject"),
        ("ε, the most a silo may spend", figure(_number(section["epsilon"]))),
        ("δ", figure(_number(section["delta"]))),
        ("norm to which a unit's gradient is clipped", figure(_number(section["max_grad_norm"]))),
        ("accountant", str(section.get("accountant", ""))),
    ]
    for key in ("statistics_epsilon", "metrics_epsilon", "max_rows_per_subject"):
        if section.get(key) is not None:
            rows.append((key, figure(_number(section[key]))))
    rows.append(("noise", "reproducible" if told.opened.get("reproducible") else "secret"))
    return Table(("of the account", "value"), tuple(rows))


def _promise(section: Mapping[str, object]) -> str:
    epsilon, delta = _number(section["epsilon"]), _number(section["delta"])
    unit = "one row" if section.get("unit", "record") == "record" else "one person's rows together"
    odds = (
        f"at most {figure(math.exp(epsilon))} times" if epsilon < 20 else "without a useful bound"
    )
    return (
        f"What it protects: whether {unit} took part. Whoever sees all that a silo let out for "
        f"this run, and the model, can raise the odds of a guess about that {odds} "
        f"(e to the power of ε), but for an event of probability δ = {figure(delta)}."
    )


def _limits(told: Told, section: Mapping[str, object]) -> Iterator[str]:
    if told.opened.get("reproducible"):
        yield (
            "The noise is drawn from the job's seed: whoever knows the seed can take it away. This "
            "run hides nothing from them."
        )
    if section.get("unit", "record") == "record":
        yield "Not protected: a person with several rows, as well as one with a single row."
    yield "Not protected: the number of rows, or of subjects, which every silo releases exactly."
    yield (
        "Not protected: what is true of people at large. The model tells it whether or not a "
        "person took part; that is what it is for."
    )
    if section.get("statistics_epsilon") is None:
        yield (
            "Not protected: statistics that the run asked for. The job pays nothing for them "
            "(statistics_epsilon), so where it asked for any they are exact."
        )
    if section.get("metrics_epsilon") is None:
        yield "The run has no figures of merit: the job pays nothing for them (metrics_epsilon)."
    yield (
        "The ε is that of this run. Other runs, analytics and models from the same rows cost more; "
        "each silo's ledger adds them up."
    )


def _unprotected(told: Told) -> Iterator[str]:
    if told.job.get("reduce", {}).get("secure"):
        yield (
            "The coordinator saw the sum of the silos' updates only. A sum over few silos still "
            "tells of each of them."
        )
    elif told.kind == "horizontal":
        yield (
            "The coordinator saw each silo's exact updates. From an update rows can be guessed, in "
            "part or whole, the more so the fewer rows it is made of."
        )
    yield (
        "Whoever has the model may be able to find out whether a row was in the training, above "
        "all of rows that are rare or that the model learnt by heart."
    )
    yield "No ε was spent: the record promises nothing about single people."


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number in the job's section privacy, found {value!r}")
    return value
