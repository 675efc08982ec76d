"""The gate without a network: scopes in, what passes and what is refused out."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from consilo.membership import keys
from consilo.membership.calls import CERTIFICATE_HEADER, OPERATOR_HEADER, certificate_headers
from consilo.membership.coordinator import Coordinator
from consilo.membership.gate import Again, Gate, Judge
from consilo.membership.quota import Allowance, Pushes
from consilo.membership.refusals import Refusals
from consilo.record.chain import Chain, verify
from silos.membership.enrol import enrol_here

TOKEN = "7" * 64


class Passed(Exception):
    """A call came through."""


async def behind(scope: Any, receive: Any, send: Any) -> None:
    raise Passed


def call(
    gate: Gate | Again,
    path: str,
    headers: dict[str, str],
    method: str = "POST",
    more: dict[str, str] = {},  # noqa: B006 - read only
) -> str:
    """Return the refusal's status and sentence, or ``passed``."""
    said = [*headers.items(), *more.items()]
    raw = [(name.encode(), value.encode()) for name, value in said]
    scope = {"type": "http", "path": path, "method": method, "headers": raw, "app": None}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        asyncio.run(gate(scope, None, send))  # type: ignore[arg-type]
    except Passed:
        return "passed"
    return f"{sent[0]['status']} {sent[1]['body'].decode()}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def gate(home: Path) -> Iterator[Gate]:
    with Coordinator(home) as coordinator:
        refusals = Refusals(Chain(home / "audit.jsonl"))
        judge = Judge(
            coordinator.members, coordinator.trusted, TOKEN, refusals, key_header="flwr-public-key"
        )
        yield Gate(behind, judge, lambda app: None, lambda: None)
        refusals.close()


def shown(folder: Path) -> dict[str, str]:
    """Return the headers of a node that shows what it has."""
    pem = keys.public_key_pem(keys.load_or_create_silo_key(folder / "silo.key"))
    headers = {"flwr-public-key": b64encode(pem).decode(), "content-length": "0"}
    return headers | certificate_headers(folder / "membership.crt")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/",
        "",
        "//v1/fleet/pull-messages",
        "/V1/fleet/pull-messages",
        "/v1/control/../fleet/x",
        "/health",
    ],
)
def test_what_is_not_known_needs_the_operators_token(gate: Gate, path: str) -> None:
    assert call(gate, path, {"content-length": "0"}).startswith("401 the operator's token")
    wrong = {OPERATOR_HEADER: TOKEN[:-1] + "8", "content-length": "0"}
    assert call(gate, path, wrong).startswith("401")
    right = {OPERATOR_HEADER: TOKEN, "content-length": "0"}
    assert call(gate, path, right) == "passed"


def test_the_operators_token_opens_no_fleet_call(gate: Gate) -> None:
    answer = call(gate, "/v1/fleet/pull-messages", {OPERATOR_HEADER: TOKEN, "content-length": "0"})
    assert answer.startswith("403 no certificate")


def test_a_member_passes_until_the_list_says_otherwise(
    gate: Gate, home: Path, tmp_path: Path
) -> None:
    anna = tmp_path / "anna"
    enrol_here(home, anna, address="h:1", name="anna")
    for path in ("/v1/fleet/pull-messages", "/v1/consilo/fleet/1/" + "a" * 32):
        look(gate)
        assert call(gate, path, shown(anna)) == "passed"
    for change, said in (
        (lambda c: c.suspend("anna"), "403 the silo is suspended"),
        (lambda c: c.admit("anna"), "passed"),
        (lambda c: c.remove("anna"), "403 the silo was removed"),
    ):
        tell(home, change)
        look(gate)
        assert call(gate, "/v1/fleet/pull-messages", shown(anna)).startswith(said)


def look(gate: Gate) -> None:
    gate._judge.refresh(now=True)  # what `LOOK_S` later would do by itself


def tell(home: Path, change: Callable[[Coordinator], object]) -> None:
    with Coordinator(home) as coordinator:
        change(coordinator)


def test_key_and_certificate_must_be_of_one_member(gate: Gate, home: Path, tmp_path: Path) -> None:
    anna, berta = tmp_path / "anna", tmp_path / "berta"
    for folder in (anna, berta):
        enrol_here(home, folder, address="h:1", name=folder.name)
    look(gate)
    mixed = shown(anna) | certificate_headers(berta / "membership.crt")
    assert "another key than the caller's" in call(gate, "/v1/fleet/x", mixed)
    bare = {name: value for name, value in shown(anna).items() if name != CERTIFICATE_HEADER}
    assert "no certificate is shown" in call(gate, "/v1/fleet/x", bare)
    assert call(gate, "/v1/fleet/x", shown(anna)) == "passed"
    gate._judge.refusals.close()
    reasons = [e["body"]["reason"] for e in verify(home / "audit.jsonl") if e["kind"] == "refused"]
    assert len(reasons) == 2


def test_of_a_key_that_is_shown_twice_the_one_that_flower_reads_counts(
    gate: Gate, home: Path, tmp_path: Path
) -> None:
    # The gate judged the last, Flower's check of the signature takes the first: who had left could
    # go on with its key, beside the key and the certificate of somebody who is a member.
    anna, gone = tmp_path / "anna", tmp_path / "gone"
    for folder in (anna, gone):
        enrol_here(home, folder, address="h:1", name=folder.name)
    tell(home, lambda coordinator: coordinator.remove("gone"))
    look(gate)
    key = {name: value for name, value in shown(gone).items() if name == "flwr-public-key"}
    assert "another key" in call(gate, "/v1/fleet/x", key, more=shown(anna))
    assert call(gate, "/v1/fleet/x", shown(anna), more=key) == "passed"


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/consilo/fleet/take"])
def test_who_was_suspended_while_it_waited_gets_no_message(
    gate: Gate, home: Path, tmp_path: Path, path: str
) -> None:
    anna = tmp_path / "anna"
    enrol_here(home, anna, address="h:1", name="anna")
    look(gate)
    headers = shown(anna)
    assert call(gate, path, headers) == "passed"  # and is held at the door
    tell(home, lambda coordinator: coordinator.suspend("anna"))
    look(gate)
    behind_the_door = Again(behind, gate._judge)
    assert call(behind_the_door, path, headers) == "403 the silo is suspended"


def test_a_call_says_how_long_it_is_and_is_not_huge(gate: Gate) -> None:
    for headers, status in (
        ({}, "411"),
        ({"content-length": str(10**9)}, "413"),
        ({"content-length": "-1"}, "413"),
        ({"content-length": "1e3"}, "413"),
    ):
        answer = call(gate, "/v1/control/start-run", {OPERATOR_HEADER: TOKEN, **headers})
        assert answer.startswith(status)


@given(public=st.binary(max_size=300), certificate=st.binary(min_size=1, max_size=300))
def test_no_garbage_gets_past_or_breaks_the_judge(public: bytes, certificate: bytes) -> None:
    class Nobody:
        def changed(self) -> bool:
            return False

        def presented(self, serial: int) -> None:
            return None

    judge = Judge(Nobody(), lambda: (), TOKEN, None, key_header="k")  # type: ignore[arg-type]
    for value in (certificate, b64encode(certificate)):
        headers = [(b"k", public), (CERTIFICATE_HEADER.encode(), value)]
        assert judge.node(Headers(raw=headers)).reason


def test_a_silo_that_puts_in_without_end_meets_its_allowance(
    gate: Gate, home: Path, tmp_path: Path
) -> None:
    for name in ("anna", "bert"):
        (tmp_path / name).mkdir()
        enrol_here(home, tmp_path / name, address="x:1", name=name)
    gate._pushes = Pushes(Allowance(bytes=1000, calls=100))
    anna, bert = shown(tmp_path / "anna"), shown(tmp_path / "bert")
    large = {"content-length": "400"}
    for path in ("/v1/fleet/push-object", "/v1/consilo/fleet/deliver"):
        assert call(gate, path, anna | large) == "passed"
    for path in ("/v1/fleet/push-object", "/v1/fleet/push-messages", "/v1/consilo/fleet/deliver"):
        answer = call(gate, path, anna | large)
        assert answer.startswith("429 this silo has put in 1000 bytes or 100 calls within an hour")
    assert call(gate, "/v1/fleet/pull-messages", anna | large) == "passed"
    assert call(gate, "/v1/fleet/push-object", bert | large) == "passed"
