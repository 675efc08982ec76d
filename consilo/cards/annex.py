"""What Annex IV of the EU's AI Act (Regulation (EU) 2024/1689) asks a technical documentation for.

It is a help to whoever writes one: each point says what the record or the author states of it, and
``not stated`` where nobody did. It is no legal advice, and no declaration of conformity.
"""

from __future__ import annotations

from collections.abc import Sequence

from consilo.cards.document import NOT_STATED, Paragraph, Section, Table
from consilo.cards.quality import metrics_of
from consilo.cards.subject import Subject


def annex(subject: Subject) -> Section:
    """Return the section with Annex IV's points."""
    told = subject.told
    stated = told.stated

    def said(key: str) -> str:
        found = stated.get(key)
        if isinstance(found, Sequence) and not isinstance(found, str):
            found = "; ".join(str(each) for each in found)
        return str(found) if found else NOT_STATED

    software = told.opened.get("software") or {}
    version = f"version {subject.version}" if subject.version else "no registered version"
    measured = ", ".join(metrics_of(told)) or "none in the record"
    rows = (
        ("1(a) intended purpose", said("purpose")),
        ("1(a) name of the provider", said("contact")),
        ("1(a) version", version),
        ("1(a) how the version relates to earlier ones", said("changes")),
        ("1(c) versions of relevant software",
         ", ".join(f"{name} {each}" for name, each in sorted(software.items())) or NOT_STATED),
        ("1(e) hardware on which it is meant to run", NOT_STATED),
        ("1(h) instructions for use", "the file scoring.py in the model's folder, docs/models.md"
         if told.kind == "horizontal" else "docs/vertical.md, scoring"),
        ("2(a) methods and steps of the development", "section 'How it was made'"),
        ("2(b) design, and why", said("design")),
        ("2(d) data: provenance, scope, collection, labelling, cleaning", said("data")),
        ("2(d) data: what was required of them", "section 'Contract, and what the silos let out'"),
        ("2(e) human oversight", said("oversight")),
        ("2(f) pre-determined changes", said("changes")),
        ("2(g) validation and testing, metrics", f"section 'Performance': {measured}"),
        ("2(h) cybersecurity", "sections 'Privacy', 'Attacks' and 'Hashes and keys'"),
        ("3 capabilities and limits, performance for groups of people",
         "sections 'Performance', 'Fairness' and 'Known limits'"),
        ("3 foreseeable unintended outcomes, what it is not meant for", said("out_of_scope")),
        ("4 why these metrics are appropriate", NOT_STATED),
        ("5 risk management (Article 9)", said("risks")),
        ("6 changes through the lifecycle", said("changes")),
        ("7 harmonised standards applied", said("standards")),
        ("8 EU declaration of conformity", NOT_STATED),
        ("9 monitoring after it is in use (Article 72)", said("monitoring")),
    )  # fmt: skip
    return Section(
        "Fields of the EU AI Act, Annex IV",
        (
            Paragraph(
                "What a technical documentation has to hold, and where it stands here. 'Not "
                "stated' says that neither the record nor the author says it. This is a help to "
                "whoever writes such a documentation, and no declaration of conformity."
            ),
            Table(("point", "what is stated"), rows),
        ),
    )
