"""A candidate becomes the champion, or not: the silos vote, gates are held, people decide.

What counts is the model's chain (`consilo.decisions`). This flow may die at any statement, and be
run again: it finds the proposal, the votes and the decision there and does the rest. While people
are waited for it is suspended, and its process free. A form in Prefect decides only where no
reviewer is enrolled and none must be, since Prefect asks nobody who they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefect import State, flow, get_run_logger, runtime, suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from flows.beginning import Seconds, flow_run_name

if TYPE_CHECKING:
    from consilo.decisions.deciding import Deciding
    from consilo.decisions.promotions import Proposal

Waiting = Annotated[int, Field(ge=60, le=90 * 86_400)]
_MOST_PAUSES = 100
"""A form that somebody sends though it decides nothing begins another pause."""


class Decide(RunInput):
    """What the form in Prefect asks."""

    decision: Literal["approve", "reject"]
    reason: str
    accept_degraded: bool = False


@flow(name="promote", flow_run_name=flow_run_name, persist_result=False)
def promote(
    job: str,
    version: int | None = None,
    wait_s: Seconds = 60.0,
    timeout_s: Waiting = 7 * 86_400,
    again: bool = False,
    home: str | None = None,
) -> Any:
    """Let silos vote on a candidate, wait for people's decision, and move the champion's alias.

    Args:
        job: the job file, which names the model: a path, a path below home, or the name of a job
            that comes with Consilo.
        version: which version of the model; empty takes the newest of a complete run.
        wait_s: how long to wait for silos that are not connected yet, in seconds.
        timeout_s: how long people are waited for, in seconds; the proposal stays open.
        again: propose a version that people have rejected once more.
        home: the coordinator's directory; empty takes the worker's CONSILO_HOME.
    """
    from consilo.decisions.candidates import look_up  # late, as in flows/pipeline.py
    from consilo.errors import ConsiloError
    from consilo.jobs.job import Job
    from flows.endings import quiet_errors, refused
    from flows.services.connection import home_directory, job_file
    from flows.services.decisions import deciding, proposed
    from flows.telling.shown import flow_run
    from flows.tending.servers import ask
    from flows.voting import collect_votes

    quiet_errors()
    try:
        place = home_directory(home)
        model = Job.load(job_file(job, place)).name
        candidate = look_up(place, model, version)
        work = deciding(place, model, ask)
        proposal = proposed(
            place,
            work,
            candidate,
            collect=collect_votes,
            wait_s=wait_s,
            flow_run=str(flow_run()) if runtime.deployment.id else "",
            again=again,
        )
        if proposal.decision is None and runtime.deployment.id:
            proposal = _waited_for(work, proposal, timeout_s)
        return _ending(proposal)
    except ConsiloError as error:
        return refused(error)


def _waited_for(work: Deciding, proposal: Proposal, timeout_s: int) -> Proposal:
    """Suspend until there is a decision; each pass finds the pauses that were before it."""
    from consilo.errors import DecisionRefused

    for number in range(_MOST_PAUSES):
        proposal = _now(work, proposal)
        if proposal.decision is not None:
            break
        form = suspend_flow_run(
            wait_for_input=Decide.with_initial_data(description=_told(work, proposal)),
            key=f"{proposal.line}-{number}",
            timeout=timeout_s,
        )
        proposal = _now(work, proposal)
        if form is None or proposal.decision is not None:
            continue  # a pause without an answer is no word of anybody's
        try:
            work.decide(
                proposal.candidate.version,
                approves=form.decision == "approve",
                reason=form.reason,
                by="a form in Prefect",
                how="form",
                accepts_degraded=form.accept_degraded,
            )
        except DecisionRefused as why:
            get_run_logger().warning("what the form said does not count: %s", why)
    return proposal


def _now(work: Deciding, proposal: Proposal) -> Proposal:
    return next(each for each in work.read().proposals if each.line == proposal.line)


def _told(work: Deciding, proposal: Proposal) -> str:
    """Return what the form says above its fields, in Markdown."""
    from consilo.decisions.deciding import signed_by
    from consilo.decisions.reviewers import Reviewers

    candidate = proposal.candidate
    lines = [f"**{candidate.model} version {candidate.version}**, run `{candidate.run}`", ""]
    lines += [
        f"- {'open' if each.open else 'shut'}: {each.name}: {each.told}"
        for each in work.gates(proposal)
    ]
    why = signed_by(proposal, Reviewers.open(work.home))
    command = f"consilo model approve {candidate.model} {candidate.version} --dir {work.home}"
    if why:
        lines += ["", f"**This form decides nothing**: {why}."]
        lines += ["", f"`{command} --reason … --key …`"]
    return "\n".join(lines)


def _ending(proposal: Proposal) -> State[Any]:
    from flows.telling.shown import flow_run, rename

    candidate, decision = proposal.candidate, proposal.decision
    told = {"model": candidate.model, "version": candidate.version, "proposal": proposal.line}
    verdict = "waiting" if decision is None else decision.verdict
    rename(flow_run(), f"{candidate.model} · {candidate.version} · {verdict}", tags=(verdict,))
    if decision is None:
        message = "it was proposed and voted on; 'consilo model approve' decides"
        return Completed(name="Waiting", message=message, data={**told, "verdict": verdict})
    message = f"{verdict} by {', '.join(decision.by)}: {decision.reason}"
    return Completed(name=verdict.capitalize(), message=message, data={**told, "verdict": verdict})
