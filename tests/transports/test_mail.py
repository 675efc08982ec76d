"""A message and its content in one call: whole or not at all, and for nobody else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest

from consilo.errors import MessagesLost, TransportError
from consilo.machine.processes import Supervisor, free_port
from consilo.membership import keys
from consilo.transports.flower import mail
from consilo.transports.flower.bundle import build_bundle
from consilo.transports.flower.calls import NotAuthorised, call
from consilo.transports.flower.fleet import FleetLink
from consilo.transports.flower.superlink import start_superlink
from consilo.transports.flower.transport import FlowerTransport
from consilo.wire.parcel import Parcel
from silos.membership.enrol import enrol_here

pytestmark = pytest.mark.federation


class Place:
    """A SuperLink, and one silo that is online as an object, not as a process."""

    def __init__(self, root: Path, supervisor: Supervisor) -> None:
        self.home = root / "coordinator"
        port = free_port()
        authority = keys.load_or_create_authority(self.home / "keys")
        enrol_here(self.home, root, address=f"127.0.0.1:{port}", name="silo")
        self.link = start_superlink(supervisor, self.home, authority, port=port)
        key = keys.load_silo_key(root / "silo.key")
        self.node = FleetLink(
            self.link.address, self.link.ca_certificate, key, root / "membership.crt"
        )
        self.node.activate()

    def transport(self) -> FlowerTransport:
        return FlowerTransport.open(
            self.link.address, self.link.ca_certificate, build_bundle(), home=self.home
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Supervisor() as supervisor:
        made = Place(tmp_path_factory.mktemp("mail"), supervisor)
        yield made
        made.node.close()


def test_an_answer_that_is_lost_on_its_way_is_asked_again_and_no_fault_of_the_silo(
    place: Place,
) -> None:
    """The coordinator's call broke off after the SuperLink had handed the answer out."""
    with place.transport() as transport:
        arrivals = transport.exchange({"silo": Parcel(b"head", b"body")}, deadline_s=100)
        request = place.node.receive()
        assert request is not None
        place.node.answer(request, Parcel(b"reply", b"done"), seconds=0.1)
        asked = PullAppMessagesRequest(message_ids=[str(request._message.metadata.message_id)])
        assert len(mail.taking(transport._ours.client, "runtime")(asked)) == 1
        with pytest.raises(MessagesLost):
            list(arrivals)


def test_a_message_comes_with_its_content_and_an_answer_goes_back(place: Place) -> None:
    with place.transport() as transport:
        arrivals = transport.exchange({"silo": Parcel(b"head", b"body")}, deadline_s=30)
        request = place.node.receive()
        assert request is not None
        assert request._record
        found = place.node.fetch(request)
        assert isinstance(found, Parcel)
        assert (found.header, bytes(found.body)) == (b"head", b"body")
        place.node.answer(request, Parcel(b"back", b"again"), seconds=0.1)
        (arrival,) = arrivals
        assert arrival.parcel is not None
        assert bytes(arrival.parcel.body) == b"again"


def test_half_a_delivery_is_no_delivery(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_record(client, side, objects, node):  # type: ignore[no-untyped-def]
        return mail.delivery(client, side, dict(list(objects.items())[:1]), node)

    module = "consilo.transports.flower.transport.delivery"
    with place.transport() as transport:
        with monkeypatch.context() as patch:
            patch.setattr(module, without_record)
            with pytest.raises(TransportError):
                transport.exchange({"silo": Parcel(b"torn", b"")}, deadline_s=30)
        transport.exchange({"silo": Parcel(b"whole", b"")}, deadline_s=30)
        request = place.node.receive()
        assert request is not None
        found = place.node.fetch(request)
        assert isinstance(found, Parcel)
        assert found.header == b"whole"


def test_nobody_takes_or_delivers_for_another(place: Place) -> None:
    from flwr.proto.fleet_pb2 import PullMessagesRequest
    from flwr.proto.node_pb2 import Node
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest

    address = place.link.address
    with place.transport() as transport:
        taking = mail.taking(place.node._client, "fleet")
        with pytest.raises(NotAuthorised):
            call(taking, PullMessagesRequest(node=Node(node_id=1)), address=address)
        without_token = mail.taking(transport._control, "runtime")
        with pytest.raises(NotAuthorised):
            call(without_token, PullAppMessagesRequest(), address=address)
        as_node = mail.taking(place.node._client, "runtime")
        with pytest.raises(NotAuthorised):
            call(as_node, PullAppMessagesRequest(), address=address)
