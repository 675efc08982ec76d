"""Ask silos one question outside of any run: what a job would cost, what their columns are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.errors import ConfigInvalid

if TYPE_CHECKING:
    from consilo.contract import Contract
    from consilo.job import Job
    from consilo.protocol import Protocol
    from flows.connection import Connection

_POLL_S = 0.2


def consult(
    name: str,
    protocol: Protocol,
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
    from consilo.kernel import Federation, Kernel
    from consilo.protocols.conclude import Conclude
    from consilo.record import new_run_id

    asked = tuple(sorted(silos))
    parties = {each: party for each, party in connection.parties.items() if each in asked}
    kernel = Kernel(
        connection.transport,
        run_id=new_run_id(job.name, name),
        job=job,
        contract=contract,
        observe=lambda _: None,
        key=connection.signing_key,
        bundle=connection.bundle,
        parties=parties,
    )
    absent = {each: why for each, why in connection.absent.items() if each in asked}
    expected = set(asked) - set(absent)

    def online() -> tuple[str, ...]:
        return tuple(each for each in connection.transport.online() if each in expected)

    fed = Federation(asked, job, contract, online, left=absent)
    end = time.monotonic() + wait_s
    while set(online()) < expected and time.monotonic() < end:
        time.sleep(_POLL_S)
    result = kernel.run(name, protocol, fed)
    signing = [each for each in online() if each in parties and parties[each].wire >= 2]
    kernel.run("conclude", Conclude(signing, "answered"), fed)
    return result


@contextmanager
def opened(
    job: Job, contract: Contract, folder: Path, directory: Path | None, silos: Path | None
) -> Iterator[Connection]:
    """Open a federation that is up, or the silos of a folder in this process.

    Args:
        job: what will be asked with.
        contract: what travels with it.
        folder: where the job's own modules lie.
        directory: of the coordinator; None where ``silos`` says.
        silos: folder of silo directories; None where ``directory`` says.

    Raises:
        ConfigInvalid: where both are given, or neither.
    """
    import threading

    from flows.connection import Order, connect

    if (directory is None) == (silos is None):
        raise ConfigInvalid(
            "the command", ["give --dir of a federation that is up, or --silos, a folder of silos"]
        )
    if directory is not None:
        home = directory.resolve()
        with connect(Order(home, job, contract, (folder,), threading.Event())) as connection:
            yield connection
    elif silos is not None:
        with _here(silos, folder) as connection:
            yield connection


@contextmanager
def _here(silos: Path, folder: Path) -> Iterator[Connection]:
    """Open the silos below a folder in this process, with their own policies and ledgers."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.dispatch import answerer
    from consilo.kernel import Party
    from consilo.transports.local import LocalTransport
    from flows.connection import Connection
    from flows.federation import find_silos
    from silos.simulation import acquainted

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
