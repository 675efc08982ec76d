"""One file per algorithm, coordinator half and silo half side by side."""

from __future__ import annotations

from consilo.config import nearest
from consilo.errors import IncompatibleJob
from consilo.protocol import Protocol, load_dotted

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
}


def find_protocol(name: str) -> type[Protocol]:
    """Return the protocol class called ``name``, one of `NAMES` or a dotted path.

    Raises:
        IncompatibleJob: where there is none.
    """
    path = NAMES.get(name, name)
    if ":" not in path:
        guess = nearest(name, list(NAMES))
        hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(NAMES)}"
        raise IncompatibleJob(f"protocol.name: there is no protocol '{name}'; {hint}")
    try:
        found = load_dotted(path)
    except (ImportError, AttributeError) as cause:
        raise IncompatibleJob(f"protocol.name: '{name}' cannot be loaded: {cause}") from cause
    if not (isinstance(found, type) and issubclass(found, Protocol)):
        raise IncompatibleJob(f"protocol.name: '{name}' is not a consilo.protocol.Protocol")
    return found
