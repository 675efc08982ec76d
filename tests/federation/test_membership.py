"""Membership with real processes: a SuperLink, nodes that joined by invitation, and attackers."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from isolated import interpreter
from typer.testing import CliRunner

from consilo.cli import build
from consilo.errors import ConfigInvalid, CoordinatorUnreachable, Refused
from consilo.machine.environment import child_environment
from consilo.machine.processes import Service, Supervisor, free_port
from consilo.membership import keys
from consilo.membership.calls import headers_of
from consilo.membership.coordinator import Coordinator, Reachable, operator_token
from consilo.membership.invitation import Invitation
from consilo.record import chain
from consilo.transports.flower.bundle import build_bundle, bundle_hash
from consilo.transports.flower.calls import NotAuthorised
from consilo.transports.flower.fleet import FleetLink
from consilo.transports.flower.superlink import Registry, SuperLink, start_superlink
from consilo.transports.flower.transport import FlowerTransport
from consilo.wire.parcel import Parcel
from silos.gate.bundles import approve
from silos.gate.partners import pinned
from silos.membership import enrol

pytestmark = [pytest.mark.federation, pytest.mark.timeout(240)]

ANSWERER = """
from consilo.wire.parcel import Parcel

def answerer(silo, bundle):
    return lambda parcel: Parcel(silo.name.encode() + b" " + parcel.header, parcel.body)
"""
BUNDLE = build_bundle()


@dataclass
class Place:
    """A coordinator, and silos that each joined by invitation."""

    root: Path
    home: Path
    supervisor: Supervisor
    link: SuperLink
    nodes: dict[str, Service]
    python: str

    def consilo(self, *arguments: str) -> dict[str, object]:
        """Run a command with ``--json`` and return what it prints."""
        result = CliRunner().invoke(build(), [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        found: dict[str, object] = json.loads(result.stdout)
        return found

    def invite(self, name: str) -> Path:
        path = self.root / f"{name}-{time.monotonic_ns()}.json"
        self.consilo("silos", "invite", name, "--dir", str(self.home), "--out", str(path))
        return path

    def settle(self, name: str) -> Path:
        """Make a silo's directory, up to what only its operator knows."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        node = {
            "name": name,
            "superlink": self.link.address,
            "preload": [],
            "refresh_s": 2.0,
            "drain_s": 1.0,
        }
        (folder / "node.yaml").write_text(yaml.safe_dump(node))
        approve(folder, bundle_hash(BUNDLE))
        return folder

    def start(self, name: str) -> None:
        folder = self.root / name
        self.nodes[name] = self.supervisor.start(
            f"silo {name}",
            [
                *(self.python, "-I", "-m", "silos.node", "--dir", str(folder)),
                *("--answerer", "member_answerer:answerer"),
            ],
            log=folder / "node.log",
            env=child_environment(home=folder / "flwr"),
        )

    def join(self, name: str) -> Path:
        folder = self.settle(name)
        enrol.join(self.invite(name), folder, say=lambda _: None)
        self.consilo("silos", "admit", name, "--dir", str(self.home), "--yes")
        self.start(name)
        self.wait_online(name)
        return folder

    def online(self) -> tuple[str, ...]:
        with Registry(self.link.address, self.link.ca_certificate) as registry:
            return registry.online()

    def wait_online(self, name: str) -> None:
        wait_until(lambda: name in self.online(), 60)

    def transport(self) -> FlowerTransport:
        return FlowerTransport.open(
            self.link.address, self.link.ca_certificate, BUNDLE, home=self.home / "superlink"
        )

    def members(self) -> Coordinator:
        return Coordinator(self.home)

    def refusals(self) -> list[str]:
        """Return the reasons in the coordinator's audit chain, which must be whole."""
        entries = chain.verify(self.home / "audit.jsonl")
        return [e["body"]["reason"] for e in entries if e["kind"] == "refused"]

    def call(self, method: str, path: str, **options: object) -> httpx.Response:
        with httpx.Client(verify=self.trust(), trust_env=False, timeout=20) as client:
            return client.request(method, f"https://{self.link.address}{path}", **options)

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.link.ca_certificate))

    def trusted(self, authority: Path) -> bool:
        """Return whether the server shows a certificate by this authority now."""
        host, _, port = self.link.address.partition(":")
        context = ssl.create_default_context(cafile=str(authority))
        with contextlib.closing(http.client.HTTPSConnection(host, int(port), context=context)) as c:
            try:
                c.connect()
            except ssl.SSLCertVerificationError:
                return False
        return True

    def log(self, name: str) -> str:
        return (self.root / name / "node.log").read_text()

    def logged(self, reason: str) -> None:
        wait_until(lambda: any(reason in each for each in self.refusals()), 5)


def wait_until(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("membership")
    (root / "library").mkdir()
    (root / "library" / "member_answerer.py").write_text(ANSWERER)
    home = root / "coordinator"
    with Supervisor() as supervisor:
        authority = keys.load_or_create_authority(home / "keys")
        Reachable(port=free_port()).save(home)
        port = Reachable.load(home).port
        link = start_superlink(supervisor, home / "superlink", authority, port=port)
        found = Place(
            root, home, supervisor, link, {}, interpreter(root / "python", root / "library")
        )
        found.join("anna")
        yield found


@pytest.fixture
def undisturbed(place: Place) -> Iterator[None]:
    """Let anna answer all the time that a test misbehaves; every round must reach her."""
    stopped, rounds, failed = threading.Event(), [], []

    def work(transport: FlowerTransport) -> None:
        while not stopped.is_set():
            assert "anna" in transport.online()  # a run looks before each step
            parcel = Parcel(b"round %d" % len(rounds), b"x" * 1000)
            (arrival,) = transport.exchange({"anna": parcel}, deadline_s=20)
            if arrival.parcel != Parcel(b"anna " + parcel.header, parcel.body):
                failed.append(arrival)
            rounds.append(arrival)

    with place.transport() as transport:
        thread = threading.Thread(target=work, args=(transport,))
        thread.start()
        try:
            wait_until(lambda: bool(rounds), 30)
            yield
            done = len(rounds)
            wait_until(lambda: len(rounds) > done, 30)
        finally:
            stopped.set()
            thread.join()
    assert not failed


def test_a_silo_joins_by_invitation_and_waits_for_admission_by_itself(
    place: Place, undisturbed: None
) -> None:
    invitation = place.invite("berta")
    assert invitation.stat().st_mode & 0o777 == 0o600
    folder = place.settle("berta")
    anna = {f: f.read_bytes() for f in (place.root / "anna").glob("*.key*")}
    said = place.consilo("silo", "init", str(invitation), "--dir", str(folder))
    assert said["state"] == "pending"
    assert folder.stat().st_mode & 0o777 == 0o700
    for secret in ("silo.key", "signing.key"):
        assert (folder / secret).stat().st_mode & 0o777 == 0o600
        private = (folder / secret).read_bytes()
        assert not any(private in f.read_bytes() for f in place.home.rglob("*") if f.is_file())
    again = place.consilo("silo", "init", str(invitation), "--dir", str(folder))
    assert again == said
    place.start("berta")
    wait_until(lambda: "not admitted yet" in place.log("berta"), 60)
    assert "berta" not in place.online()
    listed = place.consilo("silos", "list", "--dir", str(place.home))
    row = next(each for each in listed["silos"] if each["name"] == "berta")
    assert (row["state"], row["behind"]) == ("pending", [])
    with pytest.raises(ConfigInvalid, match="begins with"):
        place.consilo(
            "silos", "admit", "berta", "--dir", str(place.home), "--fingerprint", "0" * 16
        )
    shown = str(said["key_sha256"])[:16]
    place.consilo("silos", "admit", "berta", "--dir", str(place.home), "--fingerprint", shown)
    place.wait_online("berta")
    with place.transport() as transport:
        sent = {name: Parcel(b"hello", b"") for name in ("anna", "berta")}
        for arrival in transport.exchange(sent, deadline_s=30):
            assert arrival.fault is None
    wait_until(lambda: set(pinned(place.root / "anna")) == {"berta"}, 20)
    assert set(pinned(folder)) == {"anna"}
    assert {f: f.read_bytes() for f in (place.root / "anna").glob("*.key*")} == anna
    calendar = place.consilo("silos", "list", "--dir", str(place.home))["calendar"]
    whose = {each["whose"] for each in calendar}
    assert whose == {"coordinator", "anna", "berta"}


def test_an_invitation_holds_once_for_one_name_and_not_for_long(
    place: Place, undisturbed: None, tmp_path: Path
) -> None:
    path = place.invite("carla")
    enrol.join(path, place.settle("carla"), say=lambda _: None)
    with pytest.raises(Refused, match="used already, with other keys"):
        enrol.join(path, tmp_path / "thief", say=lambda _: None)
    place.logged("used already")
    with Coordinator(place.home, now=lambda: datetime.now(UTC) - timedelta(days=30)) as late:
        old = late.invite("dora", place.link.address, days=1)
    old.write(tmp_path / "old.json")
    with pytest.raises(ConfigInvalid, match="expired"):
        enrol.join(tmp_path / "old.json", tmp_path / "dora", say=lambda _: None)
    with pytest.raises(Refused, match="has expired"):  # a thief may set the clock as he likes
        enrol.join(
            tmp_path / "old.json",
            tmp_path / "dora",
            say=lambda _: None,
            now=datetime.now(UTC) - timedelta(days=30),
        )
    place.logged("has expired")
    with place.members() as coordinator:
        made_up = Invitation(
            "emma",
            place.link.address,
            coordinator.ca_sha256,
            coordinator.signing_keys[0],
            "ab" * 32,
            "2099-01-01T00:00:00+00:00",
        ).signed(coordinator.signing_key)
    made_up.write(tmp_path / "made-up.json")
    with pytest.raises(Refused, match="no invitation has this token"):
        enrol.join(tmp_path / "made-up.json", tmp_path / "emma", say=lambda _: None)
    edited = json.loads((tmp_path / "made-up.json").read_text()) | {"name": "frida"}
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    with pytest.raises(ConfigInvalid, match="signature does not fit"):
        enrol.join(tmp_path / "edited.json", tmp_path / "frida", say=lambda _: None)


def test_nothing_is_sent_to_a_coordinator_with_another_fingerprint(
    place: Place, tmp_path: Path
) -> None:
    with place.members() as coordinator:
        invitation = coordinator.invite("gerda", place.link.address)
        wrong = replace(invitation, ca_sha256="0" * 64).signed(coordinator.signing_key)
    wrong.write(tmp_path / "wrong.json")
    with pytest.raises(CoordinatorUnreachable, match="nothing was sent"):
        enrol.join(tmp_path / "wrong.json", tmp_path / "gerda", say=lambda _: None)
    with place.members() as coordinator:
        assert coordinator.members.known("gerda").state == "invited"
    with Coordinator(tmp_path / "elsewhere") as other:
        other.invite("anna", "127.0.0.1:1").write(tmp_path / "other.json")
    with pytest.raises(ConfigInvalid, match="another coordinator"):
        enrol.join(tmp_path / "other.json", place.root / "anna", say=lambda _: None)


def test_a_node_needs_its_own_valid_certificate(
    place: Place, undisturbed: None, tmp_path: Path
) -> None:
    mine, ca = place.root / "anna", place.link.ca_certificate
    keys.load_or_create_silo_key(tmp_path / "other.key")
    with Coordinator(tmp_path / "elsewhere") as stranger:
        forged = keys.issue_member_certificate(
            stranger.keys, "anna", (mine / "silo.key.pub").read_bytes(), now=datetime.now(UTC)
        )
    (tmp_path / "forged.crt").write_bytes(forged.public_bytes(keys.Encoding.PEM))
    other = place.settle("hanna")
    enrol.enrol_here(place.home, other, address=place.link.address, name="hanna")
    with Coordinator(place.home, now=lambda: datetime.now(UTC) - timedelta(days=9)) as late:
        late.renew("hanna", days=1)
        over = late.members.certificates("hanna")[0]
    (tmp_path / "over.crt").write_bytes(over.public_bytes(keys.Encoding.PEM))
    for key, certificate, reason in (
        (tmp_path / "other.key", mine / "membership.crt", "another key than the caller's"),
        (other / "silo.key", mine / "membership.crt", "another key than the caller's"),
        (mine / "silo.key", tmp_path / "forged.crt", "not one that this coordinator has issued"),
        (other / "silo.key", tmp_path / "over.crt", "is over"),
    ):
        link = FleetLink(place.link.address, ca, keys.load_silo_key(key), certificate)
        try:
            with pytest.raises(NotAuthorised, match=reason):
                link.activate()
        finally:
            link.close()
        place.logged(reason)
    answer = place.call("POST", "/v1/fleet/activate-node", content=b"")
    assert (answer.status_code, answer.text.startswith("no certificate")) == (403, True)


def test_whoever_reaches_the_port_cannot_start_runs(place: Place, undisturbed: None) -> None:
    for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/v1/elsewhere"):
        for headers in ({}, {"x-consilo-operator": "0" * 64}):
            answer = place.call("POST", path, content=b"", headers=headers)
            assert answer.status_code == 401, path
    place.logged("the operator's token is missing")
    token = operator_token(place.home / "keys")
    assert (place.home / "keys" / "operator.token").stat().st_mode & 0o777 == 0o600
    allowed = place.call(
        "POST",
        "/v1/control/list-nodes",
        content=b"",
        headers={"x-consilo-operator": token, "content-type": "application/x-protobuf"},
    )
    assert allowed.status_code != 401


def test_odd_calls_are_refused_with_one_sentence(place: Place, undisturbed: None) -> None:
    deep = b"[" * 60_000
    for path, body, status, reason in (
        ("enrol", b"x" * 200_000, 413, "bytes at most"),
        ("enrol", deep, 400, "not JSON"),
        ("enrol", b"{}", 400, "not the form"),
        ("enrol", b'{"token": NaN}', 400, "form that is known"),
        ("hello", b"{}", 401, "not signed"),
        ("leave", b"", 401, "not signed"),
    ):
        answer = place.call("POST", f"/v1/consilo/{path}", content=body)
        assert answer.status_code == status, (path, answer.text)
        place.logged(reason if reason != "not the form" else "form that is known")
    host, _, port = place.link.address.partition(":")
    for length in (str(10**11), str(10**15)):
        connection = http.client.HTTPSConnection(host, int(port), context=place.trust())
        connection.putrequest("POST", "/v1/control/list-nodes")
        connection.putheader("x-consilo-operator", operator_token(place.home / "keys"))
        connection.putheader("content-length", length)
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_a_signed_call_counts_once_and_for_its_time(place: Place, undisturbed: None) -> None:
    signer = keys.load_or_create_signing_key(place.root / "anna" / "signing.key")
    path = "/v1/consilo/membership"
    fresh = headers_of(signer, "anna", "GET", path, b"", now=time.time())
    assert place.call("GET", path, headers=fresh).status_code == 200
    replayed = place.call("GET", path, headers=fresh)
    assert (replayed.status_code, replayed.text) == (
        401,
        "this call was made before; it counts once",
    )
    late = headers_of(signer, "anna", "GET", path, b"", now=time.time() - 301)
    assert "check the clocks" in place.call("GET", path, headers=late).text
    other = headers_of(signer, "anna", "POST", "/v1/consilo/leave", b"", now=time.time())
    moved = place.call("GET", path, headers=other)
    assert moved.status_code == 401
    assert "signature is not" in moved.text
    place.logged("made before")
    with place.members() as coordinator:
        assert coordinator.members.known("anna").state == "admitted"


def test_a_suspended_silo_is_out_within_a_second_and_comes_back(
    place: Place, undisturbed: None
) -> None:
    folder = place.join("ida")
    with place.transport() as transport:
        sent = {"ida": Parcel(b"hello", b"")}
        (arrival,) = transport.exchange(sent, deadline_s=30)
        assert arrival.fault is None
        place.consilo("silos", "suspend", "ida", "--dir", str(place.home))
        wait_until(lambda: "ida" not in transport.online(), 10)
        (arrival,) = transport.exchange(sent, deadline_s=3)
        assert arrival.fault is not None
        assert enrol.refresh(folder).state == "suspended"
        place.consilo("silos", "admit", "ida", "--dir", str(place.home), "--yes")
        place.wait_online("ida")
        wait_until(lambda: next(iter(transport.exchange(sent, deadline_s=10))).fault is None, 60)
    place.consilo("silos", "remove", "ida", "--dir", str(place.home), "--yes")
    wait_until(lambda: place.nodes["ida"].returncode == 3, 60)
    assert "ida" not in place.online()
    with pytest.raises(Refused, match="was removed"):
        enrol.refresh(folder)
    with pytest.raises(ConfigInvalid, match="was removed"):
        enrol.enrol_here(place.home, folder, address=place.link.address, name="ida")


def test_certificate_and_key_are_renewed_while_a_run_goes_on(
    place: Place, undisturbed: None
) -> None:
    folder = place.root / "anna"
    before, old_key = (folder / "membership.crt").read_bytes(), (folder / "silo.key").read_bytes()
    place.consilo("silo", "renew", "--dir", str(folder))
    assert (folder / "membership.crt").read_bytes() != before
    wait_until(lambda: "renewed certificate is shown" in place.log("anna"), 20)
    place.consilo("silos", "renew", "anna", "--dir", str(place.home))
    place.consilo("silo", "renew", "--new-key", "--dir", str(folder))
    wait_until(lambda: "old key is no longer served" in place.log("anna"), 60)
    assert (folder / "silo.key").read_bytes() != old_key
    assert not (folder / "silo.key.next").exists()
    assert place.online().count("anna") == 1


def test_a_node_renews_by_itself_a_certificate_that_nears_its_end(place: Place) -> None:
    folder = place.settle("julia")
    enrol.join(place.invite("julia"), folder, say=lambda _: None)
    with Coordinator(place.home, now=lambda: datetime.now(UTC) - timedelta(days=300)) as late:
        late.admit("julia", days=365)
    assert enrol.refresh(folder).state == "admitted"
    assert 0.1 < enrol.life_left(folder) < 0.2
    place.start("julia")
    place.wait_online("julia")
    assert enrol.life_left(folder) > 0.9
    with place.members() as coordinator:
        assert len(coordinator.members.certificates("julia")) == 2


def test_the_coordinators_certificates_change_while_a_run_goes_on(
    place: Place, undisturbed: None
) -> None:
    host, _, port = place.link.address.partition(":")
    before = ssl.get_server_certificate((host, int(port)))
    place.consilo("silos", "renew", "--server", "--dir", str(place.home))
    wait_until(lambda: ssl.get_server_certificate((host, int(port))) != before, 10)
    assert place.call("GET", "/v1/consilo/ca").status_code == 200
    place.consilo("silos", "renew", "--authority", "--dir", str(place.home))
    anna = place.root / "anna"
    wait_until(lambda: (anna / "ca.crt").read_text().count("BEGIN CERTIFICATE") == 2, 20)
    wait_until(lambda: "it is trusted too" in place.log("anna"), 20)
    with place.members() as coordinator:
        old = coordinator.ca_sha256
    place.consilo("silos", "renew", "--authority", "--yes", "--dir", str(place.home))
    with place.members() as coordinator:
        assert coordinator.ca_sha256 != old
    wait_until(lambda: place.trusted(place.home / "keys" / "ca.crt"), 10)
    assert not place.trusted(place.home / "keys" / "ca.old.crt")
    assert enrol.renew(anna).state == "admitted"
