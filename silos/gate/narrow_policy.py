"""The narrowest policy that one job needs, each line with its reason; a person decides each.

It is worked out from what the job's protocols declare, so it says of every class of what leaves who
asks for it. What a job does not need is not in it, and is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from consilo.errors import JobInvalid
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.jobs.table_job import TableJob
from consilo.kernel.verbs import AskedField, Disclosure, FromRows
from consilo.protocols.names import NAMES, asked_besides, asked_of, find_protocol

_WHAT = {
    Disclosure.METRIC: "figures of merit on held-out rows",
    Disclosure.STATISTIC: "counts and aggregates over rows, and whether they keep the contract",
    Disclosure.UPDATE: "changes of the model's parameters",
    Disclosure.SEALED: "what other silos alone can read",
    Disclosure.MATCH: "which of the people here are known there",
    Disclosure.EMBEDDING: "what a model makes of the columns here, where the target is not",
    Disclosure.LABEL: "what the target may be read off from, where it is",
}
_WIDTH = 34


@dataclass(frozen=True)
class Waiting:
    """What a job that was refused here has said of itself.

    Args:
        bundle: SHA-256 of its code; empty where it has no modules of its own.
        contract: ``name@version`` of the text that came with it.
    """

    bundle: str = ""
    contract: str = ""


def narrowest(job: Job, waiting: Waiting | None = None) -> str:
    """Return the text of a policy under which one job can run, and no other.

    Args:
        job: what its coordinator wants to run.
        waiting: what is known of it where it was refused here.

    Raises:
        JobInvalid: where its algorithm is of its own modules: what that discloses says its bundle.
    """
    if job.algorithm not in NAMES:
        raise JobInvalid(
            job.name,
            [f"'{job.algorithm}' is code of the job's own; `consilo silo bundles` shows what its "
             "bundle discloses: write the policy by that, from docs/threat-model.md"],
        )  # fmt: skip
    known = waiting or Waiting()
    lines = [
        f"# The narrowest policy that the job '{job.name}' needs. Each line is a decision:",
        "# read its reason. What is not allowed here is refused.",
        "allow:",
        _line(f"  - jobs: [{_text(job.name)}]", "this job alone"),
        _line(f"    purposes: [{_text(job.purpose)}]", "what it says that it is for"),
    ]
    contract = known.contract or (job.contract if "@" in job.contract else "")
    if contract:
        lines.append(_line(f"    contracts: [{_text(contract)}]", "what your rows are mapped to"))
    if known.bundle:
        lines.append(_line(f"    bundles: [{known.bundle}]", "the code that waits here"))
    lines += ["", "disclosures:", *_disclosures(job), ""]
    least = max(2, job.quorum.min_silos)
    lines.append(_line(f"min_cohort: {least}", "silos asked together: its quorum, 2 at least"))
    lines += [_line("partners: pinned", "confirmed: only silos whose fingerprint you compared"), ""]
    lines += [*_privacy(job), "", *_evaluation(job), *_matching(job), "limits:"]
    lines.append(_line(f"  threads: {job.threads}", "what the job computes with (local.threads)"))
    lines.append(_line("  memory_mib: 4096", "of one message; more than most models need"))
    lines += [_line("  wall_s: 3600", "of one message"), ""]
    lines.append(_line("sandbox: required", "code of its own runs locked in, or not at all"))
    return "\n".join(lines) + "\n"


def _fields(job: Job) -> Iterator[tuple[str, AskedField]]:
    """Yield what a run of the job would let leave: protocol, declared field."""
    for name in (job.algorithm, *asked_besides(job)):
        kind = find_protocol(name)
        asked = kind.asks(job)
        for verb in kind.verbs().values():
            if verb.name in asked:
                yield from ((name, field) for field in asked_of(name, verb).fields)


def _disclosures(job: Job) -> list[str]:
    askers: dict[Disclosure, set[str]] = {}
    required: set[Disclosure] = set()
    for name, field in _fields(job):
        for each in field.disclosures:
            if each == Disclosure.METRIC and not _has_figures(job):
                continue
            askers.setdefault(each, set()).add(name)
            if not field.optional:
                required.add(each)
    lines = []
    for each in sorted(askers):
        free = "" if each in required else "; no: the job goes on without"
        why = f"{_WHAT.get(each, each)} ({', '.join(sorted(askers[each]))}){free}"
        lines.append(_line(f"  {each}: yes", why))
    return lines


def _has_figures(job: Job) -> bool:
    """Return whether a model is judged on held-out rows, exactly or paid for."""
    if not isinstance(job, ModelJob):
        return False
    return job.privacy is None or job.privacy.metrics_epsilon is not None


def _is_all_private(job: Job) -> bool:
    """Return whether everything that the job needs of rows is noisy and paid."""
    privacy = job.privacy
    if privacy is None:
        return False
    scales = isinstance(job, TableJob) and job.features.standardize == "global"
    if scales and privacy.statistics_epsilon is None:  # by exact moments
        return False
    return all(
        field.optional
        or field.rows in (FromRows.NONE, FromRows.CHECKED, FromRows.MATCH)
        or privacy.pays(field.rows.price)
        for _, field in _fields(job)
    )


def _privacy(job: Job) -> list[str]:
    privacy = job.privacy
    if privacy is None:
        return [
            "privacy:",
            _line("  required: no", "the job has no differential privacy: what leaves is exact"),
        ]
    private = _is_all_private(job)
    why = "all that it needs of rows is noisy" if private else "the job needs exact statistics"
    lines = ["privacy:", _line(f"  required: {'yes' if private else 'no'}", why)]
    if private:
        lines.append(_line("  exact_statistics: no", "nor does it need exact sums"))
    if job.hides_subjects:
        lines.append(_line("  unit: subject", "a person is hidden with all of their rows"))
    if privacy.reproducible:
        lines.append(
            _line("  allow_reproducible: yes", "WHOEVER KNOWS ITS SEED CAN TAKE THE NOISE AWAY")
        )
    lines.append(_line(f"  max_epsilon: {privacy.epsilon:g}", "what one run costs"))
    lines.append(_line(f"  max_delta: {privacy.delta:g}", "the job's"))
    if private:
        lines += [
            "  budgets:",
            '    "*":',
            _line(f"      epsilon: {privacy.epsilon:g}", "one run, for ever: raise it for more"),
            _line(f"      delta: {privacy.delta:g}", "keep it below 1 / your number of rows"),
        ]
    return lines


def _evaluation(job: Job) -> list[str]:
    if not isinstance(job, TableJob):
        return []
    named = job.evaluation.named
    share = job.evaluation.holdout
    if named is not None and named.folds is not None:
        share = math.ceil(1e6 / named.folds) / 1e6
    lines = [
        "evaluation:",
        _line(f"  max_holdout: {share:g}", "the share that the job holds out"),
    ]
    if named is not None and named.column is not None:
        said = named.model_dump(mode="json", exclude_defaults=True)
        lines.append(_line(f"  splits: [{json.dumps(said)}]", "by this column, just so"))
    if isinstance(job, ModelJob) and job.trains:
        most = job.protocol.rounds + 1
        lines.append(_line(f"  per_run: {most}", "models judged: one a round, and the last"))
    return [*lines, ""]


def _matching(job: Job) -> list[str]:
    if job.matching is None:
        return []
    recipe = job.matching.recipe.hash
    return [
        "matching:",
        _line(f"  recipes: [{recipe}]", "how people are compared: docs/vertical.md"),
        _line("  min_set_size: 1000", "people in each silo; lower it if you are fewer"),
        _line("  min_intersection: 100", "people in both, or nobody learns who"),
        "",
    ]


def _line(said: str, why: str) -> str:
    return f"{said:<{_WIDTH}} # {why}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
