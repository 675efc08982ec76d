"""A model's card: its sections, in the order in which people read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from consilo.cards.annex import annex
from consilo.cards.document import (
    NOT_STATED,
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Paragraph,
    Section,
    Table,
    figure,
)
from consilo.cards.privacy import lets_out, privacy
from consilo.cards.quality import quality
from consilo.cards.subject import Subject

FORMAT = 1
"""Raised when a card of the same record would read otherwise: only its own format is drawn anew
where a card is checked."""


def card(subject: Subject) -> Document:
    """Return a model's card."""
    return Document(
        title=subject.title,
        lead=_lead(subject),
        sections=(
            _purpose(subject),
            _making(subject),
            _participants(subject),
            _contract(subject),
            *quality(subject.told),
            privacy(subject.told),
            _attacks(),
            _limits(subject),
            _environment(subject),
            annex(subject),
            _hashes(subject),
            _verifying(),
        ),
    )


def _lead(subject: Subject) -> str:
    told = subject.told
    count = len(told.trained) or len(told.silos)
    silos = "1 organisation" if count == 1 else f"{count} organisations"
    privately = "with" if told.privacy else "without"
    return (
        f"A {told.job.get('task', 'trained')} model, learnt over {silos} whose rows stayed where "
        f"they are, {privately} differential privacy. Its run was {told.status}."
    )


def _purpose(subject: Subject) -> Section:
    told = subject.told
    stated = told.stated
    description = str(told.job.get("description") or "")
    blocks: list[Block] = [Paragraph(str(stated.get("purpose") or NOT_STATED.capitalize() + "."))]
    if description:
        blocks.append(Paragraph(f"The job's description: {description}"))
    rows: list[tuple[Cell, ...]] = [
        ("purpose that silos allowed", told.purpose or NOT_STATED),
        ("licence", str(stated.get("license") or NOT_STATED)),
        ("contact", str(stated.get("contact") or NOT_STATED)),
        ("learns to predict", ", ".join(subject.targets) or NOT_STATED),
    ]
    blocks.append(Table(("about", "value"), tuple(rows)))
    if stated.get("out_of_scope"):
        blocks.append(Paragraph("Not meant for:"))
        blocks.append(Bullets(tuple(stated["out_of_scope"])))
    blocks.append(
        Paragraph(
            "Purpose, licence, contact and limits are stated by the author of the job; nobody "
            "checked them. All else is from the record of the run."
        )
    )
    return Section("Purpose", tuple(blocks))


def _making(subject: Subject) -> Section:
    told = subject.told
    job = told.job
    protocol, local = job.get("protocol") or {}, job.get("local") or {}
    model = (job.get("model") or {}).get("name") or NOT_STATED
    reduce = job.get("reduce") or {}
    rows: list[tuple[Cell, ...]] = [
        ("run", Code(told.run_id)),
        ("began, ended (UTC)", f"{told.began}, {told.ended}"),
        ("status", told.status),
        ("kind of job", told.kind),
        ("model", Code(str(model))),
        ("algorithm", Code(str(protocol.get("name", "")))),
        ("rounds done", str(max(told.rounds, default=0))),
        ("optimiser of a silo", f"{local.get('optimizer')}, learning rate {local.get('lr')}"),
        ("how updates are combined", str(reduce.get("rule", "mean"))),
        ("the coordinator sees sums only", "yes" if reduce.get("secure") else "no"),
        ("seed", str(job.get("seed", 0))),
    ]
    before = (job.get("continues") or {}).get("runs") or ()
    if before:
        rows.append(("goes on with the runs", ", ".join(before)))
    blocks: list[Block] = [Table(("of the run", "value"), tuple(rows))]
    troubles = list(_degradations(subject))
    if troubles:
        blocks.append(Paragraph("What did not go as asked:"))
        blocks.append(Bullets(tuple(troubles)))
    else:
        blocks.append(Paragraph("Nothing went otherwise than asked, as far as the record tells."))
    return Section("How it was made", tuple(blocks))


def _degradations(subject: Subject) -> Iterator[str]:
    told = subject.told
    if told.status != "complete":
        yield f"The run is {told.status}: {told.reason}"
    for name, each in told.silos.items():
        if each.get("status") not in ("trained", "answered", "not_drawn") or each.get("reason"):
            yield f"{name} {str(each.get('status')).replace('_', ' ')}: {each.get('reason')}"
    for number, line in told.rounds.items():
        faults = line.get("faults") or {}
        if faults:
            told_of = ", ".join(f"{name} ({code})" for name, code in sorted(faults.items()))
            yield f"Round {number} went on without {told_of}."
    narrowed = told.last("narrowed")
    if narrowed:
        yield f"It was narrowed to the columns of {', '.join(narrowed['silos'])}."
    excluded = told.opened.get("excluded") or ()
    if excluded:
        yield f"By the job, these were not asked: {', '.join(excluded)}."
    for each in told.all("resumed"):
        changed = ", ".join(each.get("changed") or ())
        yield "Its process died and another went on with it" + (
            f", with other hardware or software ({changed})." if changed else "."
        )
    if told.last("restored"):
        yield "The coordinator was restored from a backup during the run."
    if told.last("checkpoint_damaged"):
        yield "A checkpoint was damaged; the run went on from its beginning, at no further cost."


def _participants(subject: Subject) -> Section:
    told = subject.told
    rows = tuple(
        (
            name,
            str(each.get("status", "")).replace("_", " "),
            str(len(each.get("rounds") or ())),
            figure(each.get("num_examples")),
            figure(told.weights[name]) if name in told.weights else "–",
            figure(told.held_out[name]) if name in told.held_out else "–",
            figure(each["epsilon"]) if each.get("epsilon") is not None else "–",
            "yes" if told.signing_keys.get(name) else "no: simulated, or of an old release",
        )
        for name, each in told.silos.items()
    )
    head = ("silo", "status", "rounds", "training rows", "mean weight", "held-out rows", "ε spent",
            "signs its answers")  # fmt: skip
    return Section(
        "Participants",
        (
            Table(head, rows, "Every silo that could be asked, and its part."),
            Paragraph(
                "The weight is the mean, over the rounds in which its update counted, of what the "
                "update was weighed by. With differential privacy of subjects, rows are subjects."
            ),
        ),
    )


def _contract(subject: Subject) -> Section:
    told = subject.told
    opened = told.opened
    blocks: list[Block] = [
        Table(
            ("of the contract", "value"),
            (
                ("name and version", str(opened["contract"])),
                ("description", str((subject.contract or {}).get("description") or NOT_STATED)),
                ("digest (SHA-256)", Code(str(opened["contract_digest"]))),
            ),
        )
    ]
    if subject.columns:
        blocks.append(
            Table(
                ("column", "role", "type", "unit", "range or values"),
                tuple(_column(each) for each in subject.columns),
                "The canonical columns, which every silo maps its own to.",
            )
        )
    rules = told.column_rules
    blocks.append(
        Table(
            ("silo", "contract", "rules checked", "broken", "mapping"),
            tuple(
                (
                    name,
                    str(each.get("verdict", "")).replace("_", " "),
                    str(rules[name][0]),
                    str(rules[name][1]),
                    "the silo's own matter",
                )
                for name, each in sorted(told.verdicts.items())
            ),
            "What each silo said of its rows. How its columns became the contract's (the mapping) "
            "stays in the silo.",
        )
    )
    blocks += lets_out(told)
    return Section("Contract, and what the silos let out", tuple(blocks))


def _column(column: Any) -> tuple[Cell, ...]:
    bounds = column.get("range") or {}
    allowed = column.get("allowed")
    if allowed:
        limits = ", ".join(str(each) for each in allowed[:12])
        limits += f" and {len(allowed) - 12} more" if len(allowed) > 12 else ""
    elif bounds:
        limits = f"{_end(bounds.get('min'))} to {_end(bounds.get('max'))}"
    else:
        limits = "any"
    role, unit = str(column.get("role") or "feature"), str(column.get("unit") or "–")
    return (str(column["name"]), role, str(column.get("type", "")), unit, limits)


def _end(value: Any) -> str:
    if value is None:
        return "…"
    return figure(value) if isinstance(value, int | float) else str(value)


def _attacks() -> Section:
    return Section(
        "Attacks",
        (
            Paragraph(
                "The record tells of no attack that was tried on this model: nothing is known here "
                "of how well membership or rows could be guessed from it."
            ),
        ),
    )


def _limits(subject: Subject) -> Section:
    told = subject.told
    points = [str(each) for each in told.stated.get("limits", ())]
    known = [f"Stated: {each}" for each in points] or ["No limits are stated by the author."]
    small = [name for name, rows in told.held_out.items() if rows < 30]
    if small:
        known.append(
            f"Fewer than 30 held-out rows in {', '.join(small)}: figures of a single silo say "
            "little there."
        )
    if not told.evaluated.get("intervals"):
        known.append("There are no intervals around its figures.")
    known.append(
        "It was judged on rows of the silos that trained it. How well it does on rows of others "
        "is not known from this record."
    )
    known.append(
        f"A row outside of the contract {told.opened['contract']} is refused, not answered."
        if told.kind == "horizontal"
        else "Its parts lie in the silos: rows are scored by a job of kind scoring, not by a file."
    )
    return Section("Known limits", (Bullets(tuple(known)),))


def _environment(subject: Subject) -> Section:
    opened = subject.told.opened
    hardware, software = opened.get("hardware") or {}, opened.get("software") or {}
    rows: list[tuple[Cell, ...]] = [
        (f"hardware: {name}", str(each)) for name, each in sorted(hardware.items())
    ]
    rows += [("threads of a step", str(opened.get("threads", NOT_STATED)))]
    rows += [(str(name), str(each)) for name, each in sorted(software.items())]
    rows.append(("code that silos ran (SHA-256)", Code(str(opened.get("bundle") or "in process"))))
    return Section(
        "Environment",
        (
            Table(("of the coordinator", "value"), tuple(rows)),
            Paragraph("A silo's own machine is not in the record."),
        ),
    )


def _hashes(subject: Subject) -> Section:
    told = subject.told
    rows: list[tuple[Cell, ...]] = [
        ("parameters", Code(str(told.model["params"]))),
        ("record, its last line", Code(told.head)),
        ("job", Code(str(told.opened["job_digest"]))),
        ("contract", Code(str(told.opened["contract_digest"]))),
        ("manifest, which the silos attested to", Code(str(told.opened.get("manifest", "")))),
        ("coordinator's key (Ed25519)", Code(str(told.closed.get("public_key", "")))),
    ]
    if told.registered.get("files"):
        rows.append(("all files of the model together", Code(str(told.registered["files"]))))
    rows += [(f"file {name}", Code(each)) for name, each in sorted(subject.files.items())]
    rows += [(f"key of silo {name}", Code(each)) for name, each in told.signing_keys.items()]
    return Section("Hashes and keys", (Table(("of", "SHA-256, or public key"), tuple(rows)),))


def _verifying() -> Section:
    return Section(
        "How to verify",
        (
            Paragraph(
                "This file comes in a folder with the model, the record, a bill of materials, a "
                "signed statement and the public keys. On any machine with Consilo, without a "
                "network:"
            ),
            Paragraph(Code("consilo model verify FOLDER --key coordinator.pub")),
            Paragraph(
                "It holds the bytes of the model against the statement and the record, the record "
                "against its chain and its signatures, every silo's signed answers against its "
                "key, and draws this card anew. What people have decided about the version is not "
                "in this folder: the coordinator's promotions have it. Take the "
                "coordinator's key from somewhere else than this folder: whoever can change the "
                "folder can change the keys in it, too."
            ),
        ),
    )
