"""One file per algorithm, coordinator half and silo half side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consilo.config import nearest
from consilo.errors import IncompatibleJob, JobInvalid
from consilo.learners.modules import resolve
from consilo.protocol import Protocol

NAMES = {
    "fedavg": "consilo.protocols.fedavg:FedAvg",
    "fedprox": "consilo.protocols.fedprox:FedProx",
    "fedadam": "consilo.protocols.fedopt:FedAdam",
    "fedyogi": "consilo.protocols.fedopt:FedYogi",
    "fedadagrad": "consilo.protocols.fedopt:FedAdagrad",
    "fedopt": "consilo.protocols.fedopt:FedOpt",
    "flower": "consilo.protocols.flower_strategy:FlowerStrategy",
    "contract_check": "consilo.protocols.contract_check:ContractCheck",
    "statistics": "consilo.protocols.statistics:Statistics",
    "evaluation": "consilo.protocols.evaluation:Evaluation",
    "conclude": "consilo.protocols.conclude:Conclude",
    "quote": "consilo.protocols.quote:Quote",
    "psi": "consilo.protocols.psi:Psi",
    "vertical_linear": "consilo.protocols.vertical_linear:VerticalLinear",
    "vertical_split": "consilo.protocols.vertical_split:VerticalSplit",
    "vertical_trees": "consilo.protocols.vertical_trees:VerticalTrees",
    "vertical_score": "consilo.protocols.vertical_score:VerticalScore",
    "match_held": "consilo.protocols.match_held:MatchHeld",
    "feature_match": "consilo.protocols.feature_match:FeatureMatch",
}


def find_protocol(name: str, search_path: Sequence[Path] = ()) -> type[Protocol]:
    """Return the protocol class called ``name``: one of `NAMES`, or ``module:Class``.

    Args:
        name: the name or path.
        search_path: where a job's own modules lie; in a silo, the approved bundle.

    Raises:
        IncompatibleJob: where there is none.
    """
    path = NAMES.get(name, name)
    if ":" not in path:
        guess = nearest(name, list(NAMES))
        hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(NAMES)}"
        raise IncompatibleJob(f"protocol.name: there is no protocol '{name}'; {hint}")
    try:
        found = resolve(path, search_path, what="protocol")
    except JobInvalid as cause:
        raise IncompatibleJob(f"protocol.name: {'; '.join(cause.findings)}") from cause
    if not (isinstance(found, type) and issubclass(found, Protocol)):
        raise IncompatibleJob(f"protocol.name: '{name}' is not a consilo.protocol.Protocol")
    return found
