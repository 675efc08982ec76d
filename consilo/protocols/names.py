"""Which class a protocol's name stands for, and what a silo may believe of what it declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consilo.config import nearest
from consilo.errors import IncompatibleJob, JobInvalid
from consilo.jobs.job import OWN_PACKAGES, Job
from consilo.kernel.protocol import STRICTEST, Declaration, Protocol
from consilo.kernel.verbs import Asked, Verb
from consilo.learners.modules import load_dotted, resolve

NAMES = {
    "fedavg": "consilo.horizontal.fedavg:FedAvg",
    "fedprox": "consilo.horizontal.fedprox:FedProx",
    "fedadam": "consilo.horizontal.fedopt:FedAdam",
    "fedyogi": "consilo.horizontal.fedopt:FedYogi",
    "fedadagrad": "consilo.horizontal.fedopt:FedAdagrad",
    "fedopt": "consilo.horizontal.fedopt:FedOpt",
    "fedbuff": "consilo.horizontal.fedopt:FedBuff",
    "flower": "consilo.horizontal.flower_strategy:FlowerStrategy",
    "contract_check": "consilo.protocols.contract_check:ContractCheck",
    "statistics": "consilo.horizontal.statistics:Statistics",
    "evaluation": "consilo.horizontal.evaluation:Evaluation",
    "silo_votes": "consilo.horizontal.votes.protocol:Voting",
    "continuation": "consilo.protocols.continuation:Continuation",
    "brief": "consilo.kernel.brief:Brief",
    "conclude": "consilo.protocols.conclude:Conclude",
    "quote": "consilo.runs.quote:Quote",
    "psi": "consilo.matching.protocol:Psi",
    "vertical_linear": "consilo.vertical.linear.protocol:VerticalLinear",
    "vertical_split": "consilo.vertical.split.protocol:VerticalSplit",
    "vertical_trees": "consilo.vertical.trees.protocol:VerticalTrees",
    "vertical_score": "consilo.vertical.score:VerticalScore",
    "match_held": "consilo.vertical.held:MatchHeld",
    "feature_match": "consilo.matching.columns.protocol:FeatureMatch",
}


def find_protocol(name: str, search_path: Sequence[Path] = ()) -> type[Protocol[Any]]:
    """Return the protocol called ``name``: one of `NAMES`, or ``module:Class`` of a job's own.

    Args:
        name: the name or path.
        search_path: where a job's own modules lie; in a silo, the approved bundle.

    One of Consilo's own has one name, that of `NAMES`: reached by a path, its module's or that of
    another that hands it out, it would be judged as somebody else's code.

    Raises:
        IncompatibleJob: where there is none, or one of Consilo's own is named by a path.
    """
    if name in NAMES:
        ours: type[Protocol[Any]] = load_dotted(NAMES[name])
        return ours
    if ":" not in name:
        guess = nearest(name, list(NAMES))
        hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(NAMES)}"
        raise IncompatibleJob(f"protocol.name: there is no protocol '{name}'; {hint}")
    if name.partition(":")[0].partition(".")[0] in OWN_PACKAGES:
        raise _by_path(name)
    try:
        found: type[Protocol[Any]] = resolve(name, search_path, what="protocol", of=Protocol)
    except JobInvalid as cause:
        raise IncompatibleJob(f"protocol.name: {'; '.join(cause.findings)}") from cause
    if found.__module__.partition(".")[0] in OWN_PACKAGES:
        raise _by_path(name)
    return found


def _by_path(name: str) -> IncompatibleJob:
    return IncompatibleJob(
        f"protocol.name: '{name}' is a path to one of Consilo's own classes, which have one name "
        f"each: {', '.join(NAMES)}"
    )


def name_of(kind: type[Protocol[Any]]) -> str:
    """Return the name of one of Consilo's own protocols.

    Raises:
        KeyError: where it has none.
    """
    paths = {path: name for name, path in NAMES.items()}
    return paths[f"{kind.__module__}:{kind.__qualname__}"]


def declaration_of(name: str) -> Declaration:
    """Return what a silo believes of the protocol that a message names.

    A name of `NAMES` stands for trusted code. Anything else comes from a bundle, and is read in the
    strictest way whatever its class declares; the class is not even imported for it.
    """
    return find_protocol(name).declaration() if name in NAMES else STRICTEST


def asked_of(name: str, verb: Verb) -> Asked:
    """Return what a verb of the protocol called ``name`` would let leave, as far as it is believed.

    Args:
        name: one of `NAMES`, or the path of somebody's own.
        verb: of its class.
    """
    return verb.asked if name in NAMES else verb.asked.strictest()


def asked_besides(job: Job) -> tuple[str, ...]:
    """Return the names of Consilo's own protocols that a run of ``job`` asks besides the job's."""
    return tuple(name for name in NAMES if find_protocol(name).serves(job))
