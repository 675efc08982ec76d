"""``consilo silo policy``: the narrowest policy for a job, and whether the present one is valid."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from consilo.jobs.job import Job
    from silos.gate.narrow_policy import Waiting


def policy(
    directory: Annotated[Path, typer.Option("--dir", help="The silo's directory.")] = Path("."),
    job: Annotated[
        str | None,
        typer.Option(help="A job file, as its coordinator gave it, or a job that ships."),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Say in sentences what it allows.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write the narrowest policy that a job needs; or say whether the present one is valid.

    Example: consilo silo policy --job study.yaml --dir silos/cleveland
    """
    import json

    from consilo.errors import ConfigInvalid
    from consilo.machine.files import write_atomic
    from silos.gate.narrow_policy import narrowest
    from silos.gate.policy import Policy
    from silos.gate.policy_words import in_words

    path = directory / "policy.yaml"
    is_new = not path.exists()
    if is_new and job is None:
        raise ConfigInvalid(
            str(path), [f"there is none, so nothing is allowed. {_advice(directory)}"]
        )
    text = ""
    if job is not None:
        asked = _job(job)
        text = narrowest(asked, _waiting(directory, asked))
    if is_new:
        write_atomic(path, text.encode(), mode=0o600)
    found = Policy.load(path)
    rules = len(found.allow)
    sections = in_words(found, today=datetime.now(UTC).date()) if words else []
    if as_json:
        told = {"policy": str(path), "written": is_new, "rules": rules}
        said = {"words": {each.title: list(each.sentences) for each in sections}} if words else {}
        print(json.dumps({**told, **({"narrowest": text} if job else {}), **said}))
    elif is_new:
        print(f"wrote {path}; read it: it decides what may run on your rows and what may leave")
    else:
        print(f"{path} is valid; it allows {rules} {'kind' if rules == 1 else 'kinds'} of job")
        if job is not None:
            print(f"it was left as it is; what '{asked.name}' alone needs:\n\n{text}")
    if words and not as_json:
        for each in sections:
            print(f"\n{each.title}")
            print("\n".join(f"  {sentence}" for sentence in each.sentences))


def _job(named: str) -> Job:
    from consilo.contracts.contract import SHIPPED
    from consilo.errors import JobInvalid
    from consilo.jobs.job import Job

    for path in (Path(named), SHIPPED / "jobs" / f"{named}.yaml"):
        if path.is_file():
            return Job.load(path)
    raise JobInvalid(named, ["no such file, and no job of this name comes with Consilo"])


def _refused(directory: Path) -> list[dict[str, str]]:
    """Return the requests that this silo refused, the newest last."""
    from consilo.record.chain import read

    log = directory / "audit.jsonl"
    bodies = [each["body"] for each in read(log) if each["kind"] == "asked"] if log.exists() else []
    return [each for each in bodies if each["decision"] == "refused" and "job_digest" in each]


def _waiting(directory: Path, job: Job) -> Waiting | None:
    """Return what the newest refused request of just this job said; None where there is none."""
    from silos.gate.narrow_policy import Waiting

    found = [each for each in _refused(directory) if each["job_digest"] == job.digest]
    return Waiting(found[-1]["bundle"], found[-1]["contract"]) if found else None


def _advice(directory: Path) -> str:
    names = sorted({each["job"] for each in _refused(directory)})
    waits = f"; refused so far: {', '.join(names)}" if names else ""
    return (
        "Ask the coordinator for the job's file, then: consilo silo policy --job FILE writes the "
        f"narrowest policy that it needs{waits}"
    )
