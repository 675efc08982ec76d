"""Notices arrive once an event, by mail and by webhook; what did not arrive is tried again."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import decided
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import ConfigInvalid
from consilo.membership.coordinator import Coordinator, Keep, Reachable
from consilo.membership.notify import Notify
from consilo.record.run_record import RunRecord
from consilo.runs.checkpoint import CHECKPOINT
from flows.tending.events import events
from flows.tending.findings import Finding
from flows.tending.retention import let_lapse
from flows.watching.notice import Notice
from flows.watching.notices import Outbox
from flows.watching.standing import Standing

NOW = datetime(2026, 11, 27, 2, 30, tzinfo=UTC)
PASSWORD = "not-for-anybody-else"


class Mail(socketserver.StreamRequestHandler):
    """A mail server that takes everything, and remembers it."""

    def handle(self):
        self.wfile.write(b"220 sink\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                told = b""
                while (line := self.rfile.readline()) != b".\r\n":
                    told += line
                self.server.taken.append(told.decode())
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                return


class Hook(BaseHTTPRequestHandler):
    """A webhook that answers as it was told to."""

    def do_POST(self):
        told = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.answer == 200:
            self.server.taken.append((json.loads(told), self.headers["Idempotency-Key"]))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *told):
        """Say nothing."""


@contextmanager
def serving(server):
    server.taken, server.answer = [], 200
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mail():
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)) as server:
        yield server


@pytest.fixture
def hook():
    with serving(HTTPServer(("127.0.0.1", 0), Hook)) as server:
        yield server


def notify(mail, hook, **more):
    email = {
        "to": ["ops@example.org"],
        "sender": "consilo@example.org",
        "host": "127.0.0.1",
        "port": mail.server_address[1],
        "security": "none",
    }
    url = f"http://127.0.0.1:{hook.server_address[1]}/"
    return Notify.model_validate({"email": email, "webhook": {"url": url}, **more})


def notice(key="a", at=NOW):
    return Notice("run", key, "Run heart-1 has failed", "QuorumLost: 1 of 3", "consilo run show "
                  "heart-1", "heart-1", at.isoformat())  # fmt: skip


def record(home, name, **closing):
    run = RunRecord(
        home / "runs" / name / "record.jsonl",
        Ed25519PrivateKey.generate(),
        now=NOW.isoformat,
    )
    run.add("opened", job={"name": "heart", "promotion": {"metric": "roc_auc"}})
    if closing.get("status") != "failed":
        run.add("model", params="0", model={"name": "heart", "version": "4"})
    run.close(metrics={}, silos={}, **closing)


def test_one_event_is_one_message_by_each_way_however_often_it_is_found(tmp_path, mail, hook):
    outbox, ways = Outbox(tmp_path, now=lambda: NOW), notify(mail, hook)
    assert outbox.take([notice(), notice()]) == 1
    assert outbox.deliver(ways) == []
    assert Outbox(tmp_path, now=lambda: NOW).take([notice()]) == 0  # another process
    assert outbox.deliver(ways) == []
    (message,) = mail.taken
    assert "Subject: [consilo] Run heart-1 has failed" in message
    assert "Why: QuorumLost: 1 of 3" in message
    assert "Do: consilo run show heart-1" in message
    ((told, key),) = hook.taken
    assert (told["run"], told["command"]) == ("heart-1", "consilo run show heart-1")
    assert key == told["id"] == notice().digest
    assert f"Message-ID: <{key}@example.org>" in message


def test_what_did_not_arrive_is_tried_again_and_what_did_is_not(tmp_path, mail, hook):
    now = [NOW]
    outbox, ways = Outbox(tmp_path, now=lambda: now[0]), notify(mail, hook)
    outbox.take([notice()])
    hook.answer = 503
    (wrong,) = outbox.deliver(ways)
    assert wrong.startswith("a notice did not arrive by webhook: ")
    assert wrong.endswith("the webhook answered 503")
    hook.answer = 200
    assert outbox.deliver(ways) == []  # not at once
    assert hook.taken == []
    now[0] += timedelta(minutes=2)
    assert outbox.deliver(ways) == []
    assert (len(mail.taken), len(hook.taken)) == (1, 1)


def test_what_happened_before_anybody_was_to_be_told_is_not_told(tmp_path):
    outbox = Outbox(tmp_path, now=lambda: NOW)
    assert outbox.take([notice(at=NOW - timedelta(hours=1))]) == 0
    later = Outbox(tmp_path, now=lambda: NOW + timedelta(days=40))
    assert later.take([notice()]) == 0


def test_a_password_is_nowhere_but_where_it_was_put(tmp_path, monkeypatch):
    way = {"to": ["a@b.c"], "sender": "d@e.f", "host": "mail.e.f", "user": "d"}
    place = Reachable.model_validate(
        {"port": 1, "notify": {"email": {**way, "password_env": "CONSILO_TEST_SECRET"}}}
    )
    with pytest.raises(ConfigInvalid, match="CONSILO_TEST_SECRET is not set"):
        place.notify.email.password(tmp_path)
    monkeypatch.setenv("CONSILO_TEST_SECRET", PASSWORD)
    assert place.notify.email.password(tmp_path) == PASSWORD
    place.save(tmp_path)
    assert Reachable.load(tmp_path) == place
    assert PASSWORD not in (tmp_path / "coordinator.yaml").read_text()
    file = tmp_path / "mail.password"
    file.write_text(PASSWORD)
    file.chmod(0o644)
    by_file = Notify.model_validate({"email": {**way, "password_file": "mail.password"}})
    with pytest.raises(ConfigInvalid, match="others may read") as caught:
        by_file.email.password(tmp_path)
    assert PASSWORD not in str(caught.value)
    file.chmod(0o600)
    assert by_file.email.password(tmp_path) == PASSWORD


@pytest.mark.parametrize(
    ("email", "fault"),
    [({"security": "none"}, "on this machine"), ({"user": "d"}, "password_env or password_file")],
)
def test_a_password_never_travels_in_the_open(email, fault):
    way = {"to": ["a@b.c"], "sender": "d@e.f", "host": "mail.e.f", **email}
    with pytest.raises(ValueError, match=fault):
        Notify.model_validate({"email": way})


def test_a_webhook_elsewhere_is_told_by_tls_only(tmp_path):
    way = Notify.model_validate({"webhook": {"url": "http://hooks.example.org/x"}})
    with pytest.raises(ConfigInvalid, match="https"):
        way.webhook.address(tmp_path)


def test_events_say_what_which_run_why_and_what_to_do(tmp_path):
    record(tmp_path, "heart-20261127-1", status="failed", reason="QuorumLost: 1 of 3 silos")
    record(tmp_path, "heart-20261127-2", status="complete", reason="")
    found = Finding("run", "heart-20261127-3", "was cut off", todo="go on with it")
    Standing("heart", 3, True, "roc_auc fell by 0.06", "heart-vote-1", NOW, {}, 2, NOW).save(
        tmp_path
    )
    told = events(tmp_path, [found], ahead_days=30, now=NOW)
    by_kind = {each.kind: each for each in told}
    assert set(by_kind) == {"run", "unowned", "champion"}  # nobody has proposed version 4
    failed = by_kind["run"]
    assert (failed.what, failed.why) == (
        "Run heart-20261127-1 has failed",
        "QuorumLost: 1 of 3 silos",
    )
    assert failed.command == f"consilo run show heart-20261127-1 --dir {tmp_path}"
    assert by_kind["unowned"].command == "go on with it"
    champion = by_kind["champion"]
    assert champion.why == "roc_auc fell by 0.06"
    assert champion.command.startswith(f"consilo model rollback heart --to 2 --dir {tmp_path}")
    later = NOW + timedelta(days=1)  # it still is behind a night later: the same event
    Standing("heart", 3, True, "fell by 0.07", "heart-vote-2", later, {}, 2, NOW).save(tmp_path)
    assert events(tmp_path, [], ahead_days=30, now=later)[-1].digest == champion.digest
    assert events(tmp_path, [found], ahead_days=30, now=NOW + timedelta(hours=1))[0] == told[0]


def test_a_proposal_is_told_while_it_waits_and_an_alias_each_time_that_it_was_moved(tmp_path):
    for version in (1, 2):
        decided.trained(tmp_path, version)
    decided.promoted(tmp_path, 1)
    decided.proposed(tmp_path, 2, south="no")
    (told,) = events(tmp_path, [], ahead_days=30, now=NOW)
    assert (told.kind, told.run) == ("candidate", "heart-2")
    assert told.what == "Version 2 of heart waits for a decision"
    assert told.why == "run heart-2 left it, complete; the silos say: 2 yes, 1 no, 0 abstain"
    assert told.command.startswith(f"consilo model approve heart 2 --dir {tmp_path} --reason")
    work, registry = decided.deciding(tmp_path), decided.FileRegistry(tmp_path / "registry.json")
    work.decide(2, approves=False, reason="slow", by="root", how="shell")
    assert events(tmp_path, [], ahead_days=30, now=NOW) == []
    found = Finding("alias", "heart@champion", "was moved by hand", done="it was put back")
    moved = []
    for _ in range(2):
        registry.point("heart", "champion", 2)
        work.put_back(act=True)
        moved += events(tmp_path, [found], ahead_days=30, now=NOW)
    assert [each.kind for each in moved] == ["alias", "alias"]
    assert len({each.digest for each in moved}) == 2
    assert moved[0].why == "it was put back"
    assert moved[0].command.startswith("consilo model list")
    again = events(tmp_path, [found], ahead_days=30, now=NOW + timedelta(hours=1))
    assert again == moved[1:]


def test_the_states_that_silos_are_asked_about_do_not_lapse(tmp_path):
    for version in (1, 2, 3):
        decided.trained(tmp_path, version)
    decided.promoted(tmp_path, 1)
    decided.proposed(tmp_path, 3)
    for version in (1, 2, 3):
        (tmp_path / "runs" / f"heart-{version}" / CHECKPOINT).write_bytes(b"")
    in_a_century = datetime.now(UTC).timestamp() + 100 * 365 * 86_400
    gone = let_lapse(tmp_path, Keep(), now=in_a_century)
    assert gone == [tmp_path / "runs" / "heart-2" / CHECKPOINT]


def test_keys_that_end_are_told_ahead_and_once_more_when_they_have(tmp_path):
    with Coordinator(tmp_path):
        pass
    now = datetime.now(UTC)
    assert events(tmp_path, [], ahead_days=30, now=now) == []
    soon = events(tmp_path, [], ahead_days=365 * 30, now=now)
    assert {each.kind for each in soon} == {"expiring"}
    assert any("server of coordinator ends on" in each.what for each in soon)
    over = events(tmp_path, [], ahead_days=30, now=now + timedelta(days=365 * 40))
    assert all("has ended" in each.what for each in over)
    assert {each.digest for each in soon}.isdisjoint(each.digest for each in over)


def test_however_old_no_record_and_no_decision_lapses(tmp_path):
    record(tmp_path, "heart-20261127-2", status="complete", reason="")
    kept = [
        tmp_path / "runs" / "heart-20261127-2" / "record.jsonl",
        tmp_path / "promotions" / "heart.jsonl",
        tmp_path / "keys" / "record.key",
    ]
    for path in kept[1:]:
        path.parent.mkdir()
        path.write_text("{}")
    lapsing = tmp_path / "logs" / "pipeline-1.log"
    lapsing.parent.mkdir()
    lapsing.write_text("")
    in_a_century = datetime.now(UTC).timestamp() + 100 * 365 * 86_400
    assert let_lapse(tmp_path, Keep(), now=in_a_century) == [lapsing]
    assert all(path.exists() for path in kept)
