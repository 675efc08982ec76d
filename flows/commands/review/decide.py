"""``consilo model list | propose | request | sign | approve | reject | rollback``.

All of them work on the coordinator's files, whether or not Prefect and MLflow are up: an alias of a
registry that is away moves once ``consilo up`` has it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.commands.terminal import JsonFlag

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.decisions.promotions import Promotions, Proposal

Home = Annotated[Path, typer.Option("--dir", help="The coordinator's directory.")]
Model = Annotated[str, typer.Argument(help="The registered model's name.")]
Version = Annotated[int, typer.Argument(min=1, help="Which version.")]
Reason = Annotated[str, typer.Option(help="Why, for everybody who looks at the model.")]
Key = Annotated[Path | None, typer.Option(help="A reviewer's private key: signs what is decided.")]
Envelope = Annotated[
    Path | None, typer.Option(help="What a reviewer has signed elsewhere ('consilo model sign').")
]
Accept = Annotated[
    bool, typer.Option("--accept-degraded", help="Approve although the run was degraded.")
]


def list_models(
    directory: Home,
    model: Annotated[str, typer.Argument(help="One model; else all.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """List champions, proposals with their votes and gates, and who decided what.

    Example: consilo model list --dir coordinator/
    """
    from consilo.decisions.promotions import Promotions, models

    home = directory.resolve()
    found = [Promotions.open(home, each) for each in ([model] if model else models(home))]
    if as_json:
        print(json.dumps({"models": [_told(home, each) for each in found]}))
        return
    for each in found:
        _show(home, each)
    if not found:
        print("no version of a model was proposed here yet")


def propose(
    model: Model,
    directory: Home,
    version: Annotated[
        int | None, typer.Argument(min=1, help="Which version; else the newest candidate.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for silos.")] = 60.0,
    again: Annotated[
        bool, typer.Option("--again", help="Also where people have rejected it.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Propose a version: the silos vote on it now, people decide then.

    Example: consilo model propose heart 3 --dir coordinator/
    """
    from consilo.decisions.candidates import look_up
    from flows.services.decisions import proposed
    from flows.voting import collect_votes

    home = directory.resolve()
    candidate = look_up(home, model, version)
    work = _deciding(home, model)
    made = proposed(home, work, candidate, collect=collect_votes, wait_s=wait, again=again)
    if as_json:
        print(json.dumps(_proposal(home, made)))
    else:
        _show(home, work.read())
    verdict = "" if made.decision is None else made.decision.verdict
    raise typer.Exit(1 if verdict in ("blocked", "rejected") else 0)


def request(
    model: Model,
    directory: Home,
    version: Version,
    out: Annotated[Path, typer.Option(help="A file that does not exist yet.")],
    as_json: JsonFlag = False,
) -> None:
    """Write down what a reviewer decides about, to be signed on the reviewer's own machine.

    Example: consilo model request heart 3 --dir coordinator/ --out heart-3.json
    """
    from consilo.errors import ConfigInvalid, DecisionRefused
    from consilo.machine.files import write_new

    home = directory.resolve()
    work = _deciding(home, model)
    found = work.read()
    proposal = found.of(version)
    if proposal is not None and proposal.decision is None:
        told = {"asked": proposal.asked(), **_proposal(home, proposal)}
    elif version in [each.version for each in found.champions[:-1]]:
        told = {"asked": _way_back(found, version), "word": "rollback"}
    else:
        raise DecisionRefused(f"{model} version {version} waits for no decision")
    try:
        write_new(out, json.dumps(told, indent=1).encode(), mode=0o644)
    except FileExistsError:
        raise ConfigInvalid(str(out), ["the file exists; choose another --out"]) from None
    print(json.dumps(told) if as_json else f"{out}; there: consilo model sign {out.name} …")


def sign(
    request_file: Annotated[Path, typer.Argument(metavar="REQUEST", help="Of 'model request'.")],
    word: Annotated[
        Literal["approve", "reject", "rollback"], typer.Argument(help="What you decide.")
    ],
    reason: Reason,
    key: Annotated[Path, typer.Option(help="Your private key.")],
    out: Annotated[Path, typer.Option(help="A file for the envelope, that does not exist yet.")],
    accept_degraded: Accept = False,
    as_json: JsonFlag = False,
) -> None:
    """Sign a decision, on any machine; the coordinator takes it by 'approve --envelope'.

    Example: consilo model sign heart-3.json approve --reason "fair" --key bea.key --out bea.json
    """
    from consilo.decisions.envelopes import Statement, sealed
    from consilo.errors import ConfigInvalid
    from consilo.machine.files import write_new

    try:
        asked = json.loads(request_file.read_bytes())["asked"]
        said = Statement(**asked, word=word, reason=reason, accepts_degraded=accept_degraded)
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigInvalid(str(request_file), ["no request of 'consilo model request'"]) from None
    envelope = sealed(said, reviewers_key(key))
    try:
        write_new(out, json.dumps(envelope, indent=1).encode(), mode=0o644)
    except FileExistsError:
        raise ConfigInvalid(str(out), ["the file exists; choose another --out"]) from None
    text = f"{word} of {said.model} version {said.version} ({said.digest[:12]}…) is signed: {out}"
    print(json.dumps(envelope) if as_json else text)


def approve(
    model: Model,
    version: Version,
    directory: Home,
    reason: Reason = "",
    key: Key = None,
    envelope: Envelope = None,
    accept_degraded: Accept = False,
    as_json: JsonFlag = False,
) -> None:
    """Approve a version that was proposed; with enough approvals it is the champion.

    Example: consilo model approve heart 3 --dir coordinator/ --reason "better everywhere"
    """
    _decide(model, version, directory, "approve", reason, key, envelope, accept_degraded, as_json)


def reject(
    model: Model,
    version: Version,
    directory: Home,
    reason: Reason = "",
    key: Key = None,
    envelope: Envelope = None,
    as_json: JsonFlag = False,
) -> None:
    """Reject a version that was proposed; the champion stays.

    Example: consilo model reject heart 3 --dir coordinator/ --reason "slow"
    """
    _decide(model, version, directory, "reject", reason, key, envelope, False, as_json)


def rollback(
    model: Model,
    directory: Home,
    to: Annotated[
        int | None, typer.Option(min=1, help="A former champion; else the one before.")
    ] = None,
    reason: Reason = "",
    key: Key = None,
    envelope: Envelope = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a former champion be the champion again.

    Example: consilo model rollback heart --dir coordinator/ --reason "worse in use"
    """
    from consilo.decisions.envelopes import Statement, sealed
    from consilo.machine.environment import login

    home = directory.resolve()
    work = _deciding(home, model)
    version = work.former(to).version
    signed = _envelope(envelope)
    if key is not None:
        asked = _way_back(work.read(), version)
        said = Statement(**asked, word="rollback", reason=reason)
        signed = sealed(said, reviewers_key(key))
    found = work.roll_back(version, reason=reason, by=login(), envelope=signed)
    told = _told(home, found)
    text = f"{model}: version {version} is the champion" + _pending(found)
    print(json.dumps(told) if as_json else text)


def reviewers_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a file that nobody else may read.

    Raises:
        ConfigInvalid: where it is none, or others may read it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from consilo.errors import ConfigInvalid

    try:
        if path.stat().st_mode & 0o077:
            raise ConfigInvalid(str(path), [f"others may read this key; chmod 600 {path}"])
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise ConfigInvalid(str(path), ["the file does not exist"]) from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigInvalid(str(path), ["expected an Ed25519 private key ('consilo reviewer key')"])
    return key


def _decide(
    model: str,
    version: int,
    directory: Path,
    word: Literal["approve", "reject"],
    reason: str,
    key: Path | None,
    envelope: Path | None,
    accept_degraded: bool,
    as_json: bool,
) -> None:
    from consilo.decisions.envelopes import Sealed, Statement, sealed
    from consilo.errors import ConfigInvalid, DecisionRefused
    from consilo.machine.environment import login
    from flows.services.decisions import resume
    from flows.tending.servers import ask

    if key is not None and envelope is not None:
        raise ConfigInvalid(f"model {word}", ["--key and --envelope are two ways; give one"])
    home = directory.resolve()
    work = _deciding(home, model)
    signed = _envelope(envelope)
    if key is not None:
        proposal = work.read().of(version)
        if proposal is None:
            raise DecisionRefused(f"{model} version {version} was not proposed")
        said = Statement(
            **proposal.asked(), word=word, reason=reason, accepts_degraded=accept_degraded
        )
        signed = sealed(said, reviewers_key(key))
    if signed is not None:
        told = Sealed.read(signed).statement
        if (told.word, told.version) != (word, version):
            raise DecisionRefused(
                f"the envelope says {told.word} of version {told.version}, not {word} of {version}"
            )
        made = work.sign(signed)
    else:
        made = work.decide(
            version,
            approves=word == "approve",
            reason=reason,
            by=login(),
            how="shell",
            accepts_degraded=accept_degraded,
        )
    if made.decision is not None and made.flow_run:
        resume(home, made.flow_run, made.decision.verdict, ask)
    found = work.read()
    if as_json:
        print(json.dumps(_told(home, found)))
        return
    if made.decision is None:
        from consilo.decisions.reviewers import Reviewers

        lacks = made.lacking(Reviewers.open(home).enrolled)
        print(f"{model} version {version}: your word is written down; so far {lacks}")
        return
    print(f"{model} version {version} is {made.decision.verdict}" + _pending(found))


def _pending(found: Promotions) -> str:
    if not found.unmoved:
        return ""
    return "; the registry is away: its aliases move once 'consilo up' has it again"


def _deciding(home: Path, model: str) -> Any:
    from flows.services.decisions import deciding
    from flows.tending.servers import ask

    return deciding(home, model, ask)


def _envelope(path: Path | None) -> Any:
    from consilo.errors import ConfigInvalid

    if path is None:
        return None
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise ConfigInvalid(str(path), ["no envelope of 'consilo model sign'"]) from None


def _way_back(found: Promotions, version: int) -> dict[str, Any]:
    from consilo.decisions.promotions import rollback_asked

    former = next(each for each in found.champions[:-1] if each.version == version)
    return rollback_asked(found.champions, former)


def _told(home: Path, found: Promotions) -> dict[str, Any]:
    champion = found.champion
    return {
        "model": found.model,
        "champion": None if champion is None else champion.version,
        "previous": found.wanted["previous"],
        "aliases_moved": not found.unmoved,
        "moved_by_hand": dict(found.found),
        "proposals": [_proposal(home, each) for each in found.proposals],
        "changes": [
            {"time": each.time, "kind": each.kind, "told": each.told} for each in found.changes
        ],
    }


def _proposal(home: Path, proposal: Proposal) -> dict[str, Any]:
    decision, ballot = proposal.decision, proposal.ballot
    gates = (
        [each.to_json() for each in _deciding(home, proposal.candidate.model).gates(proposal)]
        if decision is None
        else [dict(each) for each in decision.gates]
    )
    return {
        "version": proposal.candidate.version,
        "run": proposal.candidate.run,
        "digest": proposal.candidate.digest,
        "status": proposal.candidate.status,
        "proposed": proposal.time,
        "line": proposal.line,
        "champion": proposal.champion,
        "ballot": None if ballot is None else ballot.to_json(),
        "gates": gates,
        "signed": [
            {"reviewer": e.reviewer, "approves": e.approves, "reason": e.reason, "time": e.time}
            for e in proposal.signed
        ],
        "decision": None
        if decision is None
        else {
            "verdict": decision.verdict,
            "time": decision.time,
            "by": list(decision.by),
            "how": decision.how,
            "reason": decision.reason,
        },
    }


def _show(home: Path, found: Promotions) -> None:
    from consilo.printable import printable

    told = _told(home, found)
    wanted = found.wanted
    moved = "" if told["aliases_moved"] else " (its alias has not moved yet)"
    print(f"{found.model}: champion {wanted['champion'] or 'none'}{moved}, "
          f"previous {wanted['previous'] or 'none'}")  # fmt: skip
    for each in told["proposals"]:
        decided = each["decision"]
        how = "waits for a decision" if decided is None else (
            f"{decided['verdict']} {decided['time']} by {', '.join(decided['by'])}: "
            f"{printable(decided['reason'], most=200)}"
        )  # fmt: skip
        print(f"  version {each['version']} ({each['status']}, run {each['run']}): {how}")
        if decided is None:
            for gate in each["gates"]:
                state = "open" if gate["open"] else "shut"
                print(f"    {state}  {gate['name']}: {printable(gate['told'], most=200)}")
    for alias, version in told["moved_by_hand"].items():
        print(f"  moved by hand: {alias} points at {version or 'nothing'}")
