"""Ask silos one question outside of any run: what a job would cost, what their columns are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.errors import ConfigInvalid

if TYPE_CHECKING:
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.kernel.protocol import Protocol
    from flows.services.order import Connection


def consult(
    name: str,
    protocol: Protocol[Any],
    job: Job,
    contract: Contract,
    connection: Connection,
    *,
    silos: Sequence[str],
    wait_s: float,
) -> Any:
    """Run a protocol that trains nothing, tell the silos that this was all, return its result.

    Args:
        name: the protocol's.
        protocol: what is asked.
        job: travels with the question.
        contract: travels with it too.
        connection: an open federation.
        silos: whom to ask.
        wait_s: how long to wait for silos that are not connected yet.
    """
    from consilo.record.run_record import new_run_id
    from consilo.runs.conversation import Conversation

    talk = Conversation(
        job,
        contract,
        connection.transport,
        silos=silos,
        run_id=new_run_id(job.name, name),
        key=connection.signing_key,
        parties=connection.parties,
        absent=connection.absent,
        bundle=connection.bundle,
    )
    talk.wait(seconds=wait_s)
    result = talk.ask(name, protocol)
    talk.conclude("answered")
    return result


@contextmanager
def opened(
    job: Job,
    contract: Contract,
    folder: Path,
    directory: Path | None,
    silos: Path | None,
    bundle: Path | None = None,
) -> Iterator[Connection]:
    """Open a federation that is up, or the silos of a folder in this process.

    Args:
        job: what will be asked with.
        contract: what travels with it.
        folder: where the job's own modules lie.
        directory: of the coordinator; None where ``silos`` says.
        silos: folder of silo directories; None where ``directory`` says.
        bundle: what the author of the job's code has signed, carried as it is; None makes one,
            which the coordinator signs.

    Raises:
        ConfigInvalid: where both are given, or neither; a bundle for silos in this process.
    """
    import threading

    from flows.services.connection import connect
    from flows.services.order import Order

    if (directory is None) == (silos is None):
        raise ConfigInvalid(
            "the command", ["give --dir of a federation that is up, or --silos, a folder of silos"]
        )
    if directory is not None:
        order = Order(
            directory.resolve(), job, contract, (folder,), threading.Event(), bundle=bundle
        )
        with connect(order) as connection:
            yield connection
    elif bundle is not None:
        raise ConfigInvalid("--bundle", ["no bundle travels within this process"])
    elif silos is not None:
        with _here(silos, folder) as connection:
            yield connection


@contextmanager
def _here(silos: Path, folder: Path) -> Iterator[Connection]:
    """Open the silos below a folder in this process, with their own policies and ledgers."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.kernel.loop import Party
    from consilo.protocols.dispatch import answerer
    from consilo.transports.local import LocalTransport
    from flows.services.federation import find_silos
    from flows.services.order import Connection
    from silos.simulation.simulation import acquainted

    key = Ed25519PrivateKey.generate()
    hosts = acquainted(find_silos(silos), silos, key, (folder,))
    yield Connection(
        transport=LocalTransport({name: answerer(host) for name, host in hosts.items()}),
        silos=tuple(hosts),
        bundle="",
        signing_key=key,
        tracking_uri="",
        home=folder,
        finish=lambda ok, detail: None,
        parties={name: Party(host.signing_key) for name, host in hosts.items()},
    )
