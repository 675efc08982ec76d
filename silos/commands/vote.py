"""``consilo silo vote``: how the silo has voted on models, and its people's word on one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def vote(
    run: Annotated[
        str, typer.Argument(help="The run that trained the model; without it, all are listed.")
    ] = "",
    directory: Annotated[Path, typer.Option("--dir", help="The silo's directory.")] = Path("."),
    yes: Annotated[bool, typer.Option("--yes", help="Vote for the model.")] = False,
    no: Annotated[bool, typer.Option("--no", help="Vote against it.")] = False,
    abstain: Annotated[bool, typer.Option("--abstain", help="Say neither.")] = False,
    policy: Annotated[
        bool, typer.Option("--policy", help="Take people's word back: the policy votes again.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; it travels with the vote.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show how this silo has voted, with all figures; or overrule its policy, with a reason.

    People's word counts in every voting that comes, also before the silo was ever asked.

    Example: consilo silo vote heart-20270101T0900-3f5a2b --no --reason "ward 3 is missing" --dir .
    """
    from consilo.decisions.vote import Verdict
    from consilo.errors import ConfigInvalid
    from silos.gate.audit import audit_log
    from silos.gate.policy import Policy
    from silos.kept.votes import Votes
    from silos.silo_config import require_directory

    require_directory(directory)
    rules = Policy.load(directory / "policy.yaml").votes
    votes = Votes(directory, rules, audit_log(directory))
    choices: tuple[tuple[Verdict | None, bool], ...] = (
        ("yes", yes),
        ("no", no),
        ("abstain", abstain),
        (None, policy),
    )
    said = [verdict for verdict, is_said in choices if is_said]
    if len(said) > 1:
        raise ConfigInvalid("vote", ["give one of --yes, --no, --abstain and --policy"])
    if said and not run:
        raise ConfigInvalid("vote", ["which model? Give the run that trained it"])
    if reason and (not said or said[0] is None):
        raise ConfigInvalid("vote", ["--reason belongs to --yes, --no or --abstain"])
    if said and said[0] is not None:
        votes.overrule(run, said[0], reason)
    elif said:
        votes.withdraw(run)
    given, words = votes.given(run), votes.words()
    readings = votes.readings(run)
    if as_json:
        told = {r: {"verdict": v, "reason": w} for r, (v, w) in words.items() if run in ("", r)}
        found = {"votes": [each.to_json() for each in given], "people": told}
        print(json.dumps({**found, "monitored": [each.to_json() for each in readings]}))
        return
    for each in (*given, *readings):
        word = "" if each in given else "in use: "
        print(f"{each.to_json()['time']}  {each.vote.run}: {word}{each.vote.told}")
        figures = ", ".join(f"{name} {value:.4g}" for name, value in each.vote.figures.items())
        if figures:
            print(f"{'':<27}{figures}")
    for name, (verdict, why) in words.items():
        if run in ("", name):
            print(f"people here say of {name}: {verdict}: {why}")
    if not given and not readings and not any(run in ("", name) for name in words):
        print("this silo has not voted yet" if not run else f"no vote on a model of {run} yet")
