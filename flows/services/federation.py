"""A federation on this machine: the coordinator's services, and silos that each run on their own.

``HOME/federation.json`` says where everything answers; a flow that has it can connect.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.config import parse, read_yaml
from consilo.errors import ConfigInvalid, CoordinatorUnreachable, Refused, ServiceFailed
from consilo.jobs.job import Job
from consilo.kernel.headers import WIRE_VERSION, WIRE_VERSIONS
from consilo.kernel.loop import Party
from consilo.machine.environment import ISOLATED, child_environment
from consilo.machine.files import write_atomic
from consilo.machine.leases import is_held
from consilo.machine.processes import Service, Supervisor
from consilo.membership.coordinator import Coordinator, Reachable
from consilo.membership.keys import (
    load_or_create_authority,
    load_or_create_signing_key,
)
from consilo.membership.members import Member
from consilo.wire.signing import public_hex
from flows.services.bundle_modules import local_modules
from flows.services.place import ANY_HOST, Say, await_free, close_to_others, settle_place

if TYPE_CHECKING:
    from flows.services.order import Connection, Order
    from flows.services.services import Starting

_ONLINE_S = 180.0
_RESTARTED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Addresses:
    """Where a federation answers.

    Args:
        superlink: host:port.
        ca_certificate: path of what its certificate is checked with.
        tracking_uri: the MLflow server.
        prefect_api: the Prefect API.
        silos: name → directory, for the silos that run on this machine.
        page: the federation's page; empty where none was started with it.
    """

    superlink: str
    ca_certificate: str
    tracking_uri: str
    prefect_api: str
    silos: Mapping[str, str]
    page: str = ""

    @property
    def prefect_ui(self) -> str:
        """The Prefect pages for people."""
        return self.prefect_api.removesuffix("/api")

    @classmethod
    def load(cls, home: Path) -> Addresses:
        """Return the addresses of the federation in ``home``.

        Raises:
            CoordinatorUnreachable: where none is up.
        """
        try:
            return cls(**json.loads((home / "federation.json").read_text()))
        except FileNotFoundError:
            raise CoordinatorUnreachable(
                f"no federation is up in {home}; start one with 'consilo up --dir {home} "
                "--silos FOLDER', or give the job its silos with --silos"
            ) from None
        except (ValueError, TypeError):
            raise ConfigInvalid(
                str(home / "federation.json"), ["not what 'consilo up' writes; start it again"]
            ) from None


@dataclass(frozen=True)
class Rising:
    """A federation on its way up: Prefect answers, the rest does not yet.

    Args:
        supervisor: stops it again.
        home: the coordinator's directory.
        silos: name → directory, of those that run on this machine.
        mlflow: the MLflow server.
        page: the federation's page.
        addresses: where everything will answer.
        say: told what happens.
    """

    supervisor: Supervisor
    home: Path
    silos: Mapping[str, Path]
    mlflow: Starting
    page: Starting
    addresses: Addresses
    say: Say

    def wait(self) -> Addresses:
        """Wait until all of it answers, let flows find it, and return where it does.

        Raises:
            ServiceFailed: where something does not come up.
        """
        from flows.registry.departed import tag_departed

        there = self.addresses
        self.mlflow.wait()
        self.say(f"MLflow on {there.tracking_uri}")
        tag_departed(self.home, there.tracking_uri)
        certificate = Path(there.ca_certificate)
        wait_online(there.superlink, certificate, self.silos, self.supervisor.services)
        if self.silos:
            self.say(f"{len(self.silos)} silos are online")
        write_atomic(self.home / "federation.json", json.dumps(asdict(there), indent=1).encode())
        self.page.wait()
        self.say(f"the federation's page on {there.page}")
        return there


def find_silos(folder: Path) -> dict[str, Path]:
    """Return name → directory of every silo below ``folder``.

    Raises:
        ConfigInvalid: where there is none, or two have the same name.
    """
    from silos.silo_config import SiloConfig

    files = sorted(folder.glob("*/silo.yaml"))
    if not files:
        raise ConfigInvalid(str(folder), ["no silo here: expected directories with a silo.yaml"])
    folders: dict[str, Path] = {}
    for file in files:
        name = parse(SiloConfig, read_yaml(file), where=str(file)).name
        if name in folders:
            raise ConfigInvalid(str(file), [f"the name '{name}' is taken by {folders[name]}"])
        folders[name] = file.parent.resolve()
    return folders


def rise(
    supervisor: Supervisor,
    home: Path,
    silos: Mapping[str, Path],
    *,
    say: Say,
    place: Reachable | None = None,
    reached_at: Callable[[str], str] | None = None,
) -> Rising:
    """Start the services, then the silos, and return once Prefect answers.

    The services go first: the silos' nodes, and whatever a caller starts after this, import for
    many CPU-seconds, and on a small machine the pages that a person waits for would come last.

    Args:
        supervisor: stops it again.
        home: the coordinator's directory.
        silos: name → directory, of those that run on this machine.
        say: told what happens.
        place: where silos reach the coordinator; see `settle_place`.
        reached_at: silo → host:port where its node finds the SuperLink; None has it find it where
            it is.

    Raises:
        ServiceFailed: where something does not come up.
    """
    from flows.services.services import prepare_prefect, start_mlflow, start_page, start_prefect

    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    close_to_others(home)
    place = place or settle_place(home)
    await_free(home, place, say)
    prefect = start_prefect(supervisor, home, port=place.prefect_port, keep=place.keep)
    mlflow = start_mlflow(supervisor, home, port=place.mlflow_port)
    superlink, certificate = start_link(supervisor, home, silos, say, place, reached_at)
    addresses = Addresses(
        superlink,
        certificate,
        mlflow.url,
        prefect.url,
        {name: str(path) for name, path in silos.items()},
        f"http://127.0.0.1:{place.page_port}",
    )
    prefect.wait()
    start_nodes(supervisor, silos, say)
    page = start_page(supervisor, home, port=place.page_port)
    prepare_prefect(addresses.prefect_api)
    say(f"Prefect on {addresses.prefect_ui}")
    return Rising(supervisor, home, silos, mlflow, page, addresses, say)


def start_silos(
    supervisor: Supervisor,
    home: Path,
    silos: Mapping[str, Path],
    say: Say,
    place: Reachable | None = None,
) -> tuple[str, str]:
    """Start a SuperLink and the nodes of this machine's silos; return its address and its CA."""
    place_and_certificate = start_link(supervisor, home, silos, say, place)
    start_nodes(supervisor, silos, say)
    return place_and_certificate


def start_link(
    supervisor: Supervisor,
    home: Path,
    silos: Mapping[str, Path],
    say: Say,
    place: Reachable | None = None,
    reached_at: Callable[[str], str] | None = None,
) -> tuple[str, str]:
    """Start a SuperLink that knows this machine's silos; return its address and its CA.

    The silos are enrolled first, all of them, so that each finds the others' keys when it starts.
    """
    from consilo.transports.flower.superlink import start_superlink
    from silos.membership.enrol import enrol_here

    place = place or settle_place(home)
    hosts = [each for each in (place.host, place.advertise) if each and each not in ANY_HOST]
    authority = load_or_create_authority(home / "keys", hosts=hosts)
    here = f"127.0.0.1:{place.port}" if place.host in ANY_HOST else f"{place.host}:{place.port}"
    for name, directory in silos.items():
        found = here if reached_at is None else reached_at(name)
        enrol_here(home, directory, address=found, name=name)
    link = start_superlink(
        supervisor, home / "superlink", authority, port=place.port, host=place.host
    )
    say(f"SuperLink on {place.address}")
    return here, str(link.ca_certificate)


def start_nodes(supervisor: Supervisor, silos: Mapping[str, Path], say: Say) -> None:
    """Start the nodes of this machine's silos, which a SuperLink knows."""
    for name, directory in silos.items():
        start_node(supervisor, name, directory)
    if silos:
        say(f"{len(silos)} silos starting")


def party_of(member: Member) -> Party:
    """Return how a member signs, and the newest wire version that both sides speak."""
    common = set(member.wire) & set(WIRE_VERSIONS)
    return Party(member.signing_key, max(common, default=WIRE_VERSION))


def parties_of(silos: Mapping[str, Path]) -> dict[str, Party]:
    """Return how silos of this machine sign."""
    keys = {n: load_or_create_signing_key(d / "signing.key") for n, d in silos.items()}
    return {name: Party(public_hex(key)) for name, key in keys.items()}


def start_node(supervisor: Supervisor, name: str, directory: Path, *options: str) -> Service:
    """Start a silo's node: its own process tree, directory, keys and FLWR_HOME.

    Silos of this machine stand for machines of their own: unless the environment says otherwise,
    none knows another's rows again.

    Args:
        supervisor: looks after it.
        name: the silo's.
        directory: the silo's.
        options: for trials: of ``python -m silos.node``.
    """
    from silos.kept.sketches import STATE
    from silos.node.node import STRUCK_OFF_EXIT

    (directory / "flwr").mkdir(mode=0o700, exist_ok=True)
    known = os.environ.get(STATE) or str(directory / "sketches")
    return supervisor.start(
        f"silo {name}",
        [sys.executable, *ISOLATED, "-m", "silos.node", "--dir", str(directory), *options],
        log=directory / "node.log",
        env=child_environment(home=directory / "flwr", **{STATE: known}),
        cwd=directory,
        lasting=True,
        for_good=frozenset({STRUCK_OFF_EXIT}),
    )


def wait_online(
    superlink: str, certificate: Path, silos: Mapping[str, Path], services: Sequence[Service]
) -> None:
    """Wait until every silo is online.

    Raises:
        ServiceFailed: where a node ends first, or it takes too long.
    """
    from consilo.transports.flower.superlink import Registry

    nodes = {service.name.removeprefix("silo "): service for service in services}
    deadline = time.monotonic() + _ONLINE_S
    with Registry(superlink, certificate) as registry:
        while True:
            missing = sorted(set(silos) - set(registry.online()))
            if not missing:
                return
            dead = [n for n in missing if n in nodes and nodes[n].returncode is not None]
            if dead or time.monotonic() > deadline:
                name = (dead or missing)[0]
                raise ServiceFailed(
                    f"silo {name} did not come online; the end of {silos[name] / 'node.log'}:\n"
                    f"{nodes[name].last_lines() if name in nodes else ''}"
                )
            time.sleep(0.1)


def job_bundle(
    job: Job, search_path: Sequence[Path], signer: Ed25519PrivateKey | None = None
) -> bytes:
    """Return the bundle of a job: Consilo's frame and the job's own modules.

    Args:
        job: names the modules.
        search_path: where they lie.
        signer: signs a bundle that has modules.
    """
    from consilo.protocols.names import asked_besides, find_protocol
    from consilo.transports.flower.bundle import build_bundle, read_modules

    files = [file for folder in search_path for file in local_modules(job, folder)]
    if not files:
        return build_bundle()
    names = (job.algorithm, *asked_besides(job))
    verbs = [v for name in names for v in find_protocol(name, search_path).verbs().values()]
    disclosures = frozenset().union(*(each.disclosures for each in verbs))
    return build_bundle(read_modules(files), disclosures=disclosures, signer=signer)


def carried_bundle(path: Path, job: Job, search_path: Sequence[Path]) -> bytes:
    """Return a bundle as its author has made it, to be carried to the silos unchanged.

    Args:
        path: of the bundle.
        job: names the modules.
        search_path: where they lie here: the coordinator's half of the job runs them too.

    Raises:
        ConfigInvalid: where it is no bundle, or its code is not that beside the job.
    """
    from consilo.transports.flower.bundle import read_label

    try:
        content = path.read_bytes()
        label = read_label(content)
    except (OSError, Refused) as cause:
        raise ConfigInvalid(str(path), [f"is no bundle that can be read: {cause}"]) from None
    here = read_label(job_bundle(job, search_path))
    found, wanted = ({} if each is None else dict(each.files) for each in (label, here))
    names = {**found, **wanted}
    other = sorted(name for name in names if found.get(name) != wanted.get(name))
    if other:
        raise ConfigInvalid(
            str(path),
            [
                f"{', '.join(other)}: not the same in the bundle and beside the job; ask its "
                "author for a new one ('consilo job bundle'), or take the modules from there"
            ],
        )
    return content


def _standing(home: Path, name: str) -> str:
    """Return why a silo may not take part now; empty where it may."""
    with Coordinator(home) as coordinator:
        member = coordinator.members.all().get(name)
    return "removed" if member is None else member.standing(datetime.now(UTC))


@contextmanager
def connect(order: Order) -> Iterator[Connection]:
    """Open a Flower run on the federation in ``order.home``; the job's modules are its bundle.

    A SuperLink that is away is waited for where a process looks after the federation, which starts
    it again.

    Raises:
        CoordinatorUnreachable: where nothing answers.
    """
    from consilo.transports.flower.transport import FlowerTransport
    from flows.services.order import Connection

    home = order.home
    addresses = Addresses.load(home)
    certificate = Path(addresses.ca_certificate)
    with Coordinator(home) as coordinator:
        known = coordinator.members.all()
    now = datetime.now(UTC)
    taking_part = {n: each for n, each in known.items() if each.state in ("admitted", "suspended")}
    absent = {n: why for n, each in taking_part.items() if (why := each.standing(now))}
    members = {n: each for n, each in taking_part.items() if n not in absent}
    transport = FlowerTransport.open(
        addresses.superlink,
        certificate,
        carried_bundle(order.bundle, order.job, order.search_path)
        if order.bundle is not None
        else job_bundle(
            order.job,
            order.search_path,
            load_or_create_signing_key(home / "keys" / "record.key"),
        ),
        home=home / "superlink",
        cancelled=order.cancelled,
        wait_s=_RESTARTED_WITHIN_S if is_held(home / "up.lock") else 0.0,
    )
    try:
        yield Connection(
            transport=transport,
            silos=tuple(taking_part),
            bundle=transport.bundle_hash,
            signing_key=load_or_create_signing_key(home / "keys" / "record.key"),
            tracking_uri=addresses.tracking_uri,
            home=home,
            finish=lambda ok, detail: transport.finish(ok=ok, detail=detail),
            parties={n: party_of(each) for n, each in members.items()},
            members=members,
            absent=absent,
            standing=lambda name: _standing(home, name),
        )
    finally:
        transport.close()
