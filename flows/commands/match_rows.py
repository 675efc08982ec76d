"""``consilo match run`` and ``consilo match show``: match rows, and look at what a silo keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.terminal import AuthorsBundle

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


def run(
    job: Annotated[Path | None, typer.Argument(help="A job file with a section match.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A key recipe, in place of a job.")] = None,
    contract: Annotated[str, typer.Option(help="With --recipe: whose columns it names.")] = "",
    handle: Annotated[str, typer.Option(help="The match's name; else as the job says.")] = "",
    hub: Annotated[str, typer.Option(help="The silo with the labels, which learns who.")] = "",
    purpose: Annotated[str, typer.Option(help="With --recipe: what for.")] = "unstated",
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Coordinator's directory, of a federation that is up."),
    ] = None,
    silos: Annotated[
        Path | None,
        typer.Option(help="Folder of silo directories: match them here, in this process."),
    ] = None,
    bundle: AuthorsBundle = None,
    wait_s: Annotated[float, typer.Option(min=0, help="For silos to connect, in seconds.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Find which rows of the silos are the same people, and keep that in each silo.

    Exit code 1 where they were not matched.

    Example: consilo match run job.yaml --dir coordinator/
    """
    from consilo.machine.environment import quieten
    from consilo.record.run_record import new_run_id
    from consilo.runs.match import contract_of, run_match
    from flows.services.ask import opened

    quieten()
    folder = (job or recipe or Path.cwd()).resolve().parent
    asked = _job(job, recipe, contract, purpose, folder)
    changes = {"handle": handle or None, "hub": hub or None}
    changes = {key: each for key, each in changes.items() if each}
    asked = (asked.changed(match=changes) if changes else asked).to_match()
    wanted = contract_of(asked, [folder])
    with opened(asked, wanted, folder, directory, silos, bundle) as connection:
        run_id = new_run_id(asked.name, "match")
        home = connection.home if directory is not None else (silos or folder).resolve()
        result = run_match(
            asked,
            wanted,
            connection.transport,
            silos=connection.silos,
            directory=home / "runs" / run_id,
            run_id=run_id,
            key=connection.signing_key,
            parties=connection.parties,
            absent=connection.absent,
            bundle=connection.bundle,
            wait_s=wait_s,
        )
        connection.finish(result["status"] == "complete", result["reason"] or "matched")
    if as_json:
        print(json.dumps(result))
    else:
        _show_result(result)
    raise typer.Exit(0 if result["status"] == "complete" else 1)


def show(
    silo: Annotated[Path, typer.Option("--silo", help="A silo's directory.")] = Path("."),
    handle: Annotated[str, typer.Argument(help="A match; without it, all are listed.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the matches that a silo keeps, with their quality reports; for people in the silo.

    Example: consilo match show --silo silos/bank
    """
    from silos.kept.matches import every_match, read_match

    matches = [read_match(silo, handle)] if handle else every_match(silo)
    told = [
        {
            "handle": each.handle,
            "matched": len(each.rows),
            "partners": list(each.partners),
            "purpose": each.purpose,
            "contract": each.contract,
            "created": each.created.isoformat(),
            "expires": each.expires.isoformat(),
            "recipe_hash": each.recipe_hash,
            "report": dict(each.report),
        }
        for each in matches
    ]
    if as_json:
        print(json.dumps({"matches": told}))
        return
    for each in matches:
        rate = each.report.get("match_rate", 0.0)
        print(
            f"{each.handle}: {len(each.rows)} people shared with {', '.join(each.partners)} "
            f"({rate:.1%} of those here), until {each.expires.isoformat()}"
        )
        if handle:
            for name, value in each.report.items():
                print(f"  {name}: {json.dumps(value)}")
    if not matches:
        print("no match is kept here")


def _job(job: Path | None, recipe: Path | None, contract: str, purpose: str, folder: Path) -> Any:
    from consilo.jobs.job import Job
    from consilo.jobs.recipe import Recipe

    if (job is None) == (recipe is None):
        raise typer.BadParameter("give a job file, or --recipe with --contract")
    if job is not None:
        return Job.load(job)
    if not contract:
        raise typer.BadParameter("--recipe needs --contract, whose columns it names")
    from consilo.contracts.contract import Contract

    assert recipe is not None
    spec = {"recipe": Recipe.load(recipe).model_dump(mode="json"), "contract": contract}
    return Job.from_json(
        {
            "name": "match",
            "kind": "match",
            "purpose": purpose,
            "contract": Contract.load(contract, search=[folder]).ref,
            "match": spec,
        }
    )


def _show_result(result: dict[str, Any]) -> None:
    if result["status"] != "complete":
        print(f"not matched: {result['reason']}")
    else:
        print(
            f"matched under '{result['handle']}' in {result['seconds']:.1f} s; hub {result['hub']}"
        )
        for name, each in result["silos"].items():
            print(f"  {name}: {each['matched']:.0f} of {each['entities']:.0f} people")
        print("each silo keeps its half: consilo match show --silo DIR")
    print(f"record: {result['record']}")
