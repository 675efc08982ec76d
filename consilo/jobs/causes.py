"""Why a run that lacks answers failed: faults of silos → one error, of the class of their cause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from consilo.errors import (
    BudgetExhausted,
    BundleNotApproved,
    MatchUnusable,
    ModelDiverged,
    PartnerRejected,
    QuorumLost,
    Refused,
    ReplyInvalid,
    RunFailed,
    SchemaDrift,
    SiloDiskFull,
    SiloFailed,
    SiloMisconfigured,
    SiloOutdated,
    SourceUnreadable,
    TooFewRows,
    UpdateRejected,
)
from consilo.wire.parcel import Fault

TOO_FEW_ROWS = "too_few_rows"
"""A fault's code: a policy's floor of rows, or of people in common, is not reached."""
MATCH = "match"
"""A fault's code: the silo has no match of rows that fits the job, or its rows are others now."""
PARTNER = "partner"
"""A fault's code: what another silo has sealed for this one cannot be used."""
REFUSALS = ("refused", MATCH, TOO_FEW_ROWS, "bundle_not_approved", "budget_exhausted")
"""Codes of faults by which a silo says no: asked again in the same run, it would say so again."""
FOR_GOOD = (*REFUSALS, "contract")
"""Faults after which a silo is not asked again in the same run: it has said no."""
DISK_FULL = "disk_full"
"""A fault's code: the silo had no room to keep what it must before it may answer."""
AWAY = ("unreachable", "deadline", "crashed", DISK_FULL)
"""Codes of faults of a silo that may answer when it is back, or has room again."""
BAD_UPDATE = "bad_update"
"""A fault's code: an update is unlike those of the rounds before, and not counted."""
MOST_LINES = 20
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


@dataclass(frozen=True)
class Cause:
    """One kind of reason.

    Args:
        error: the class of an error of this cause.
        codes: the faults that are of it.
        told: what happened; the silos' names follow.
        advice: what to do.
    """

    error: type[RunFailed]
    codes: tuple[str, ...]
    told: str
    advice: str


CAUSES = (
    Cause(
        ModelDiverged,
        ("diverged",),
        "training diverged in",
        "Lower the learning rate, or look at the scale of features and target",
    ),
    Cause(
        SchemaDrift,
        ("contract",),
        "the contract is not kept by",
        "'consilo silo check CONTRACT' shows each silo what breaks it: mend data or mapping there, "
        "or agree on another contract",
    ),
    Cause(
        BudgetExhausted,
        ("budget_exhausted",),
        "the privacy budget does not suffice in",
        "Ask for less (privacy.epsilon, rounds), or have a silo's people raise its limit; 'consilo "
        "silo ledger' tells them what is spent",
    ),
    Cause(
        BundleNotApproved,
        ("bundle_not_approved",),
        "the job's code is not approved by",
        "There, 'consilo silo bundles' shows what waits and 'consilo silo approve' lets it run; "
        "then run again",
    ),
    Cause(
        TooFewRows,
        (TOO_FEW_ROWS,),
        "there are too few rows for",
        "Bring silos with more rows, or have their people lower the floors in policy.yaml; of a "
        "match, look whether the keys of the silos are written alike",
    ),
    Cause(
        Refused,
        ("refused",),
        "refused by",
        "Ask for what their policies allow, or have their people change policy.yaml",
    ),
    Cause(
        MatchUnusable,
        (MATCH,),
        "the match of rows cannot be used in",
        "Match the rows again ('consilo match run'), with the data as they are now; then run again",
    ),
    Cause(
        SourceUnreadable,
        ("source",),
        "the data cannot be read by",
        "'consilo silo check CONTRACT' tells each silo why",
    ),
    Cause(
        SiloMisconfigured,
        ("configuration",),
        "files of their own are invalid in",
        "'consilo silo preflight' tells each silo which, and why",
    ),
    Cause(
        SiloOutdated,
        ("version",),
        "the release of Consilo does not fit in",
        "Upgrade Consilo there, or leave out of the job what its release does not know",
    ),
    Cause(
        ReplyInvalid,
        ("invalid_reply",),
        "an answer that is not what was declared came from",
        "Look at the code of the job's model and protocol, and at the versions of Consilo",
    ),
    Cause(
        PartnerRejected,
        (PARTNER,),
        "what another silo sent cannot be used in",
        "Have the people of the silo that is named below look at its software and data",
    ),
    Cause(
        UpdateRejected,
        (BAD_UPDATE,),
        "an update that cannot be honest work came from",
        "Look at the learning rate and at the data there; 'reduce: {outliers: keep}' counts such "
        "updates",
    ),
    Cause(
        SiloDiskFull,
        (DISK_FULL,),
        "the disk is full in",
        "Have room made there, then run again; with 'quorum: {on_loss: wait}' a run waits for it",
    ),
    Cause(
        SiloFailed,
        ("failed",),
        "the computation failed in",
        "The silo's log says why; the job's own code fails in 'consilo job run --local' as well, "
        "which shows how",
    ),
    Cause(
        QuorumLost,
        tuple(each for each in AWAY if each != DISK_FULL),
        "no answer from",
        "Bring the silos back and run again, or lower the job's quorum",
    ),
)
"""All causes; of two that are as common the first one counts, and silos that are away last."""

_BY_CODE = {code: each for each in CAUSES for code in each.codes}
_FAILED, _SILENT = _BY_CODE["failed"], CAUSES[-1]
_NOT_ASKED = "not_asked"
NOT_DRAWN = "not_drawn"
"""A fault's code: a silo was not in the cohort that was drawn for a round."""


def failure(where: str, why: str, missing: Mapping[str, Fault]) -> RunFailed:
    """Return the error of a step that too few silos have answered; the cause comes first.

    Its class is the commonest cause, so that it is `QuorumLost` where silos are really missing.

    Args:
        where: the place in the run.
        why: what is not reached, such as ``1 of at least 2 silos answered``.
        missing: silo → why it gave no answer.
    """
    groups: dict[str, list[str]] = {}
    missing = {name: fault for name, fault in missing.items() if fault.code != NOT_DRAWN}
    for name, fault in sorted(missing.items()):
        if fault.code != _NOT_ASKED:
            groups.setdefault(cause_of(fault).told, []).append(name)
    found = sorted(
        (each for each in CAUSES if each.told in groups),
        key=lambda each: -len(groups[each.told]),
    )
    first = "; ".join(f"{each.told} {_listed(groups[each.told])}" for each in found)
    first = first or "nobody else could be asked"
    found = found or [_SILENT]
    advice = ". ".join(each.advice for each in found)
    reasons = {name: f"{fault.code}: {fault.reason}" for name, fault in missing.items()}
    text = f"{where}: {first}, so there is no quorum: {why}. {advice}{_lines(missing)}"
    return found[0].error(text, missing=reasons)


def cause_of(fault: Fault) -> Cause:
    """Return a fault's cause; a code that this release does not know is a failed computation."""
    return _BY_CODE.get(fault.code, _FAILED)


def not_asked() -> Fault:
    """Return why a silo gave no answer that nobody wanted one of."""
    return Fault(_NOT_ASKED, "not asked in this step")


def not_drawn() -> Fault:
    """Return why a silo has no part in a round that was asked of others."""
    return Fault(NOT_DRAWN, "not drawn for this round")


def shortened(text: str) -> str:
    """Return text with twelve digits of each SHA-256 in it.

    >>> shortened("bundle " + 32 * "ab" + " waits")
    'bundle abababababab… waits'
    """
    return _DIGEST.sub(r"\1…", text)


def _lines(missing: Mapping[str, Fault]) -> str:
    """Return one line a silo; of more than `MOST_LINES` the others' causes are counted."""
    names = sorted(missing)
    lines = [f"{n}: {missing[n].code}: {shortened(missing[n].reason)}" for n in names[:MOST_LINES]]
    more = Counter(missing[name].code for name in names[MOST_LINES:])
    if more:
        counted = ", ".join(f"{code} {count}" for code, count in more.most_common())
        lines.append(f"{more.total()} more: {counted}")
    return "".join(f"\n  - {line}" for line in lines)


def _listed(names: list[str]) -> str:
    if len(names) > 5:
        return f"{len(names)} silos"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
