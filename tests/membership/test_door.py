"""The door without a network: calls in, statements or one sentence out."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consilo.membership import keys
from consilo.membership.calls import ENROL_PURPOSE, WINDOW_S, headers_of, prove_node_key
from consilo.membership.coordinator import Coordinator
from consilo.membership.door import Denied, Desk, Rates
from consilo.membership.invitation import Invitation
from consilo.membership.refusals import Refusals
from consilo.membership.software import installed
from consilo.record.chain import Chain, verify
from consilo.wire.signing import public_hex, sign


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with Coordinator(tmp_path / "home") as found:
        yield found


@pytest.fixture
def desk(coordinator: Coordinator) -> Desk:
    return Desk(coordinator, clock=time.time)


def enrolment(folder: Path, invitation: Invitation, **changes: Any) -> bytes:
    public = keys.load_or_create_silo_key(folder / "silo.key")
    signing_key = keys.load_or_create_signing_key(folder / "signing.key")
    mine = public_hex(signing_key)
    private = keys.load_silo_key(folder / "silo.key")
    body: dict[str, Any] = {
        "token": invitation.token,
        "name": invitation.name,
        "node_key": public.decode().strip(),
        "signing_key": mine,
        "software": installed().to_json(),
        "proof": prove_node_key(private, invitation.name, mine, invitation.token_sha256),
        **changes,
    }
    body["signature"] = sign(signing_key, ENROL_PURPOSE, body)
    return json.dumps(body).encode()


def ask(desk: Desk, what: str, body: bytes = b"", **headers: str) -> dict[str, Any]:
    method = "GET" if what == "membership" else "POST"
    answer = desk.answer(what, method, f"/v1/consilo/{what}", headers, body)
    return dict(json.loads(answer)["statement"])


def test_an_enrolment_may_be_sent_again_but_not_by_another(
    desk: Desk, coordinator: Coordinator, tmp_path: Path
) -> None:
    invitation = coordinator.invite("anna", "h:1")
    body = enrolment(tmp_path / "anna", invitation)
    assert ask(desk, "enrol", body)["state"] == "pending"
    assert ask(desk, "enrol", body)["state"] == "pending"
    with pytest.raises(Denied, match="used already"):
        ask(desk, "enrol", enrolment(tmp_path / "thief", invitation))
    assert coordinator.members.known("anna").state == "pending"


def test_keys_that_the_caller_does_not_hold_are_refused(
    desk: Desk, coordinator: Coordinator, tmp_path: Path
) -> None:
    invitation = coordinator.invite("anna", "h:1")
    other = keys.load_or_create_silo_key(tmp_path / "other.key").decode().strip()
    for changes in ({"node_key": other}, {"proof": "ab"}, {"signing_key": "00" * 32}):
        with pytest.raises(Denied, match="does not hold the keys"):
            ask(desk, "enrol", enrolment(tmp_path / "anna", invitation, **changes))
    with pytest.raises(Denied, match="another name"):
        ask(desk, "enrol", enrolment(tmp_path / "anna", invitation, name="berta"))
    assert coordinator.members.known("anna").state == "invited"


def test_a_version_that_nobody_here_speaks_is_told_what_to_upgrade(
    desk: Desk, coordinator: Coordinator, tmp_path: Path
) -> None:
    invitation = coordinator.invite("anna", "h:1")
    for wire, side in ((0 + 1, None), (9_999, "coordinator")):
        software = {"wire": [wire], "versions": {}}
        body = enrolment(tmp_path / "anna", invitation, software=software)
        if side is None:
            continue
        with pytest.raises(Denied, match=f"upgrade Consilo at the {side}") as refused:
            ask(desk, "enrol", body)
        assert refused.value.status == 426


def signed(folder: Path, what: str, *, now: float, body: bytes = b"") -> dict[str, str]:
    key = keys.load_or_create_signing_key(folder / "signing.key")
    method = "GET" if what == "membership" else "POST"
    return headers_of(key, "anna", method, f"/v1/consilo/{what}", body, now=now)


def test_a_signed_call_holds_once_for_its_body_path_and_time(
    desk: Desk, coordinator: Coordinator, tmp_path: Path
) -> None:
    folder, now = tmp_path / "anna", time.time()
    ask(desk, "enrol", enrolment(folder, coordinator.invite("anna", "h:1")))
    headers = signed(folder, "membership", now=now)
    assert ask(desk, "membership", **headers)["state"] == "pending"
    for what, given_headers, body, said in (
        ("membership", headers, b"", "made before"),
        ("membership", signed(folder, "membership", now=now), b"x", "not that of"),
        ("leave", signed(folder, "membership", now=now), b"", "not that of"),
        ("membership", signed(folder, "membership", now=now - WINDOW_S - 2), b"", "behind"),
        ("membership", signed(folder, "membership", now=now + WINDOW_S + 2), b"", "ahead"),
        ("membership", {**headers, "x-consilo-silo": "berta"}, b"", "no silo of this name"),
        ("membership", {}, b"", "not signed"),
        ("renew", signed(folder, "renew", now=now), b"", "pending, not admitted"),
    ):
        with pytest.raises(Denied, match=said):
            ask(desk, what, body, **given_headers)


def test_a_silo_that_left_is_heard_no_more(
    desk: Desk, coordinator: Coordinator, tmp_path: Path
) -> None:
    folder, now = tmp_path / "anna", time.time()
    ask(desk, "enrol", enrolment(folder, coordinator.invite("anna", "h:1")))
    coordinator.admit("anna")
    assert ask(desk, "leave", **signed(folder, "leave", now=now))["state"] == "removed"
    with pytest.raises(Denied, match="was removed"):
        ask(desk, "membership", **signed(folder, "membership", now=now))
    removed = [e for e in verify(coordinator.home / "audit.jsonl") if e["kind"] == "silo_removed"]
    assert [each["body"]["by"] for each in removed] == ["silo"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    what=st.sampled_from(["enrol", "hello", "renew", "leave", "membership"]),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["token", "name", "node_key", "software", "wire"]), inner
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_whatever_comes_is_refused_in_a_sentence_that_repeats_nothing(
    desk: Desk, what: str, body: bytes
) -> None:
    with pytest.raises(Denied) as refused:
        ask(desk, what, body)
    assert refused.value.status in (400, 401, 403)


def test_an_address_that_calls_too_often_waits_and_others_do_not() -> None:
    clock = [0.0]
    rates = Rates(clock=lambda: clock[0])
    assert sum(rates.allow("a") for _ in range(1000)) == 120
    assert rates.allow("b")
    clock[0] += 1.0
    assert sum(rates.allow("a") for _ in range(1000)) == 20


def test_the_same_refusal_again_is_counted_not_written(tmp_path: Path) -> None:
    clock = [0.0]
    refusals = Refusals(Chain(tmp_path / "audit.jsonl"), clock=lambda: clock[0])
    for _ in range(500):
        refusals.note(where="/v1/fleet/x", reason="no", peer="10.0.0.1")
    clock[0] += 61.0
    refusals.flush()
    for number in range(2000):
        refusals.note(where="/v1/fleet/x", reason=f"no {number}", peer="10.0.0.1")
    refusals.close()
    written = [each["body"] for each in verify(tmp_path / "audit.jsonl")]
    assert len(written) < 300
    assert sum(each.get("again", 1) for each in written) == 2500
