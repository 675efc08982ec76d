"""A policy in plain sentences: what may happen here, for people who do not read YAML.

Each sentence says what the policy does, defaults too: what is not written down counts as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from consilo.kernel.verbs import Disclosure
from silos.gate.policy import FLOORS, MOST_DELTA, MOST_EPSILON, Leaving, Policy, Rule

_WHAT = {
    Disclosure.METRIC: "figures of how well a model predicts held-out rows",
    Disclosure.STATISTIC: "counts and aggregates over rows",
    Disclosure.UPDATE: "changes of a model's parameters",
    Disclosure.MASKED_UPDATE: "changes of a model's parameters of which only the sum is readable",
    Disclosure.SEALED: "bytes that other silos alone can read",
    Disclosure.MATCH: "which of the people here are known to a partner",
    Disclosure.EMBEDDING: "what a model makes of the columns here, row by row",
    Disclosure.LABEL: "what the target of single rows can be read off from",
    Disclosure.METADATA: "words about columns that people here have released",
}


@dataclass(frozen=True)
class Section:
    """Some sentences about one thing.

    Args:
        title: the thing.
        sentences: what the policy says of it.
    """

    title: str
    sentences: tuple[str, ...]


def in_words(policy: Policy, *, today: date) -> list[Section]:
    """Return what a policy says, section by section.

    Args:
        policy: of `silos.gate.policy.Policy.load`.
        today: for what has ended.
    """
    found = [
        Section("What may run", tuple(_running(policy, today))),
        Section("What may leave", tuple(_leaving(policy))),
        Section("Who must take part", tuple(_cohort(policy))),
        Section("Privacy", tuple(_privacy(policy))),
        Section("How models are judged", tuple(_judging(policy))),
        Section("How this silo votes on models", tuple(_votes(policy))),
        Section("Matching people", tuple(_matching(policy))),
        Section("How much, when, and how", tuple(_limits(policy))),
    ]
    return [each for each in found if each.sentences]


def _running(policy: Policy, today: date) -> Iterator[str]:
    if policy.expires is not None:
        if policy.expires < today:
            yield f"This policy ended on {policy.expires}: nothing is allowed any more."
        else:
            yield f"It ends on {policy.expires}; from the next day on nothing is allowed."
    if not policy.allow:
        yield "No job may run: nothing is listed under 'allow'."
    for rule in policy.allow:
        yield _rule(rule)
    if policy.allow_unsigned:
        yield "A coordinator that does not sign its requests is answered, too (allow_unsigned)."


def _rule(rule: Rule) -> str:
    jobs = "Any job" if rule.jobs in (None, ("*",)) else f"Jobs called {_some(rule.jobs or ())}"
    parts = []
    if rule.purposes is not None:
        parts.append(f"for the purpose {_some(rule.purposes)}")
    if rule.contracts is not None:
        parts.append(f"under the contract {_some(rule.contracts)}")
    if rule.bundles is not None:
        parts.append(f"with the code {_some([each[:12] + '…' for each in rule.bundles])}")
    if rule.signers is not None:
        parts.append(f"with code signed by {_some([each[:12] + '…' for each in rule.signers])}")
    return f"{jobs} may run{', ' + ', '.join(parts) if parts else ', whatever it is for'}."


def _leaving(policy: Policy) -> Iterator[str]:
    for each in Disclosure:
        said = policy.disclosures.get(each, False)
        what = _WHAT[each]
        name = f"{what[0].upper()}{what[1:]} ({each})"
        if said is False:
            if each != Disclosure.MASKED_UPDATE:
                yield f"{name}: never leave."
            continue
        rule = said if isinstance(said, Leaving) else Leaving(secure=said == "secure")
        least = rule.min_rows if rule.min_rows is not None else FLOORS.get(each)
        rows = f" where they are made of {least} rows or more" if least and least > 1 else ""
        if rule.secure:
            yield f"{name}: may leave{rows} only so that nobody but silos together can read them."
        else:
            yield f"{name}: may leave{rows}."


def _cohort(policy: Policy) -> Iterator[str]:
    if policy.min_cohort > 1:
        yield (
            f"What is computed from rows leaves only where {policy.min_cohort} silos or more are "
            "asked together, this one included; each other one must have signed that it takes part."
        )
    else:
        yield "A job may ask this silo alone."
    if policy.partners == "confirmed":
        yield "Only silos count whose key a person here has confirmed."
    else:
        yield "A silo counts from the first time that the coordinator lists its key."


def _privacy(policy: Policy) -> Iterator[str]:
    rules = policy.privacy
    of = "person, with all of their rows," if rules.unit == "subject" else "row"
    if rules.is_wanted:
        yield (
            f"What is computed from rows leaves only with noise that hides every single {of} "
            "(differential privacy); exempt are one bit of a contract check, the number of rows, "
            "and matches."
        )
    elif rules.exact_statistics:
        yield "Differential privacy is not required: what leaves may be exact."
    else:
        yield "Sums over rows (statistics, figures of merit) leave with noise only."
    if rules.allow_reproducible:
        yield "WHOEVER KNOWS A JOB'S SEED MAY BE ABLE TO TAKE ITS NOISE AWAY (allow_reproducible)."
    most = max([MOST_EPSILON, *(each.epsilon for each in rules.budgets.values())])
    epsilon = most if rules.max_epsilon is None else rules.max_epsilon
    delta = MOST_DELTA if rules.max_delta is None else rules.max_delta
    if rules.is_wanted or not rules.allow_reproducible:
        yield f"One run that has privacy may cost ε {epsilon:g} at δ {delta:g} at most."
    for name, budget in sorted(rules.budgets.items()):
        data = "each other data set" if name == "*" else f"the data set '{name}'"
        if name == "*" and len(rules.budgets) == 1:
            data = "each data set"
        span = "for ever" if budget.window_days is None else f"within {budget.window_days} days"
        total = "" if budget.total_epsilon is None else f", and {budget.total_epsilon:g} for ever"
        yield (
            f"All runs together may cost ε {budget.epsilon:g} {span}{total} of {data}, "
            f"at δ {budget.delta:g}."
        )
        if budget.min_noise_multiplier:
            yield f"No noise multiplier may be below {budget.min_noise_multiplier:g} there."
    if rules.is_wanted and not rules.budgets:
        yield "There is no budget: nothing bounds what all runs together cost."


def _judging(policy: Policy) -> Iterator[str]:
    rules = policy.evaluation
    yield f"A job may hold out {rules.max_holdout:g} of the rows at most."
    if rules.splits is None:
        yield "It may split the rows by any column."
    elif rules.splits:
        columns = sorted({str(each.column) for each in rules.splits})
        yield f"It may split the rows by {_some(columns)}, just where the policy says."
    else:
        yield "It may not split the rows by the values of a column."
    per = [
        f"{most} in a {span}"
        for most, span in ((rules.per_run, "run"), (rules.per_day, "day"))
        if most is not None
    ]
    yield (
        f"Models judged here: {' and '.join(per)} at most."
        if per
        else ("Any number of models may be judged here.")
    )
    if not policy.privacy.exact_statistics or policy.privacy.is_wanted:
        yield f"The rows are cut at {rules.shares} places at most, over all jobs."


def _votes(policy: Policy) -> Iterator[str]:
    rules = policy.votes
    if rules.decided_by == "people":
        yield "Nobody but people here votes on a model; until they do, the silo abstains."
        return
    yield (
        f"It says no to a model that is worse than the champion, or than the silo's own, by more "
        f"than {rules.tolerance:g} of the job's metric, as {rules.level:.0%} intervals tell, and "
        f"abstains where they do not, or where fewer than {rules.min_rows} rows are held out."
    )
    if rules.fairness is not None:
        yield "It says no where the model treats groups unlike, beyond what the policy bears."
    for name, most in (
        ("a calibration error", rules.max_ece),
        ("a Brier score", rules.max_brier),
        ("a training that cost here an ε", rules.max_epsilon),
    ):
        if most is not None:
            yield f"It says no to {name} above {most:g}."
    if rules.figures == "verdict":
        yield "The vote alone leaves, without the numbers behind it."
    else:
        yield "The numbers behind a vote leave with it."


def _matching(policy: Policy) -> Iterator[str]:
    rules = policy.matching
    if rules is None:
        yield "Rows here are never matched with those of other silos."
        return
    who = "any known partner" if rules.partners is None else _some(rules.partners)
    yield f"Rows may be matched with {who}."
    if rules.recipes is not None:
        yield f"People are compared by the recipes {_some([each[:12] for each in rules.recipes])}."
    yield (
        f"Each silo must have {rules.min_set_size} people, and two must share "
        f"{rules.min_intersection}, or nobody learns who is known to both."
    )
    yield (
        f"One partner may ask {rules.queries_per_partner} times within {rules.window_days:g} days; "
        f"a set that differs from an earlier one by less than {rules.refuse_similar:g} is refused."
    )


def _limits(policy: Policy) -> Iterator[str]:
    limits = policy.limits
    threads = "any number of threads" if limits.threads is None else f"{limits.threads} thread(s)"
    yield (
        f"One message may use {limits.memory_mib} MiB, {limits.wall_s:g} s and {threads}"
        + (f"; {limits.per_hour} messages an hour are answered." if limits.per_hour else ".")
    )
    if policy.hours is not None:
        hours = policy.hours
        yield (
            f"Messages are answered on {', '.join(hours.days)} from {hours.start:%H:%M} to "
            f"{hours.end:%H:%M} ({hours.zone})."
        )
    if policy.sandbox == "required":
        yield "Code that a job brings runs locked in, or not at all."
    else:
        yield "CODE THAT A JOB BRINGS MAY DO ALL THAT THE NODE'S USER MAY DO (sandbox: off)."


def _some(words: Sequence[str]) -> str:
    quoted = [f"'{each}'" for each in words]
    if len(quoted) < 2:
        return "".join(quoted) or "none"
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
