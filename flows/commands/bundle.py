"""``consilo job bundle``: the author of a job's code signs it, apart from who runs the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from consilo.errors import ConfigInvalid
from flows.commands.terminal import JsonFlag


def sign_bundle(
    job: Annotated[Path, typer.Argument(help="The job file, beside its modules.")],
    sign_key: Annotated[
        Path, typer.Option(help="The author's Ed25519 key in PEM; made if there is none.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    as_json: JsonFlag = False,
) -> None:
    """Sign a job's code as its author, for a coordinator that carries it as it is.

    Example: consilo job bundle job.yaml --sign-key author.key --out job.bundle
    """
    from consilo.jobs.job import Job
    from consilo.machine.files import write_atomic
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.transports.flower.bundle import bundle_hash, read_label
    from flows.services import federation

    loaded = Job.load(job)
    key = load_or_create_signing_key(sign_key)
    content = federation.job_bundle(loaded, (job.parent,), key)
    label = read_label(content)
    if label is None:
        raise ConfigInvalid(str(job), ["names no module beside it: there is no code to sign"])
    write_atomic(out, content, mode=0o644)
    told = {
        "bundle": bundle_hash(content),
        "signer": label.signer,
        "files": sorted(label.files),
        "disclosures": list(label.disclosures),
        "out": str(out),
    }
    if as_json:
        print(json.dumps(told))
        return
    print(f"bundle {told['bundle']}: {', '.join(told['files'])}")
    print(f"may let leave: {', '.join(label.disclosures)}")
    print(f"signed by {label.signer}; {out} is for the coordinator, {sign_key} stays with you")
