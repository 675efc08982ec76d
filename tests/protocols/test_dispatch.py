import errno
import json
import sqlite3
from dataclasses import replace

import clinic
import pytest

from consilo.errors import (
    BudgetExhausted,
    BundleNotApproved,
    ConsiloError,
    IncompatibleJob,
    JobInvalid,
    ModelDiverged,
    PolicyInvalid,
    Refused,
    ReplyInvalid,
    SchemaDrift,
    SourceUnreadable,
)
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.protocol import Protocol
from consilo.kernel.verbs import Disclosure, count, numbers, verb
from consilo.protocols.dispatch import answerer, disclose
from consilo.wire.parcel import Parcel
from consilo.wire.payload import canonical_json, digest, pack, unpack
from silos.simulation.in_memory import InMemorySilo

TALK = "test_dispatch:Talk"


class Talk(Protocol):
    """Verbs that misbehave in the ways a test asks for."""

    @verb("talk", replies={"n": count(), "figures": numbers(Disclosure.METRIC)})
    def talk(self, silo, message):
        kind = message.payload["kind"]
        if kind == "raise":
            raise ValueError(f"patient SENTINEL {silo.host.table.iloc[0].to_dict()}")
        if getattr(silo.host, "full", False):
            raise OSError(errno.ENOSPC, "SENTINEL")
        silo.host.calls = getattr(silo.host, "calls", 0) + 1
        good = {"n": silo.host.calls, "figures": {}}
        return {
            "good": good,
            "undeclared": {**good, "rows": [1, 2]},
            "missing": {"n": 1},
            "nan": {"n": 1, "figures": {"SENTINEL": float("nan")}},
            "object": {"n": 1, "figures": {"x": object()}},
        }[kind]


def ask(host, payload, *, header=None, body=None, **changes):
    body = body or pack(
        {
            "job": clinic.job(protocol={"name": TALK}).to_json(),
            "contract": clinic.contract().to_json(),
            "payload": payload,
        }
    )
    header = header or Header(
        "run", "1/0/talk", digest(body), 1, host.name, TALK, "talk", (host.name,)
    )
    header = replace(header, **changes)
    return answerer(host)(Parcel(header.encode(), body)), header


@pytest.fixture
def host():
    return InMemorySilo("north", clinic.frame(10))


def told(parcel):
    header = ReplyHeader.decode(parcel.header)
    return header.status, header.code


def test_a_good_answer_holds_what_was_declared_and_names_its_step(host):
    reply, header = ask(host, {"kind": "good"})
    found = ReplyHeader.decode(reply.header)
    assert (found.status, found.silo, found.step_id) == ("ok", "north", header.step_id)
    assert unpack(reply.body) == {"n": 1, "figures": {}}


def test_asked_twice_a_silo_answers_the_same_bytes_and_works_once(host):
    first, header = ask(host, {"kind": "good"})
    again, _ = ask(host, {"kind": "good"})
    assert again == first
    assert host.calls == 1
    other, changed = ask(host, {"kind": "good", "more": 1})
    assert changed.step_id != header.step_id
    assert other != first
    assert host.calls == 2


@pytest.mark.parametrize("kind", ["undeclared", "missing", "nan", "object"])
def test_what_was_not_declared_never_leaves(host, kind):
    reply, _ = ask(host, {"kind": kind})
    assert told(reply) == ("fault", "invalid_reply")
    assert reply.body == b""
    assert b"SENTINEL" not in reply.header
    assert host.replies == {}


def test_the_text_of_an_exception_stays_in_the_silo(host, caplog):
    reply, _ = ask(host, {"kind": "raise"})
    assert told(reply) == ("fault", "failed")
    assert b"SENTINEL" not in reply.header + reply.body
    assert b"age" not in reply.header
    assert "SENTINEL" in caplog.text


@pytest.mark.parametrize(
    ("cause", "code", "travels"),
    [
        (Refused("no", code="cohort"), "refused", True),
        (BundleNotApproved("approve it"), "bundle_not_approved", True),
        (SchemaDrift("range (age)"), "contract", True),
        (BudgetExhausted("too dear"), "budget_exhausted", True),
        (ModelDiverged("NaN in weight"), "diverged", True),
        (ReplyInvalid("undeclared fields SENTINEL"), "invalid_reply", False),
        (SourceUnreadable("/data/SENTINEL.csv"), "source", False),
        (PolicyInvalid("x", ["SENTINEL"]), "configuration", False),
        (JobInvalid("x", ["SENTINEL"]), "failed", False),
        (IncompatibleJob("SENTINEL"), "failed", False),
        (ConsiloError("SENTINEL"), "failed", False),
        (KeyError("SENTINEL"), "failed", False),
        (MemoryError("SENTINEL"), "failed", False),
        (OSError(errno.EIO, "SENTINEL"), "failed", False),
        (OSError(errno.ENOSPC, "SENTINEL"), "disk_full", False),
        (OSError(errno.EDQUOT, "SENTINEL"), "disk_full", False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fault_says_only_what_may_travel(cause, code, travels):
    fault = disclose(cause)
    assert fault.code == code
    assert "SENTINEL" not in fault.reason
    assert (fault.reason == str(cause)) == travels


def test_a_full_database_is_a_full_disk(tmp_path):
    database = sqlite3.connect(tmp_path / "small.db")
    database.execute("CREATE TABLE kept (it)")
    database.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as found:
        database.execute("INSERT INTO kept VALUES (zeroblob(100000))")
    database.close()
    assert disclose(found.value).code == "disk_full"


def test_a_full_disk_is_told_and_the_same_question_is_answered_when_there_is_room(host, caplog):
    host.full = True
    reply, _ = ask(host, {"kind": "good"})
    assert told(reply) == ("fault", "disk_full")
    assert "make room" in caplog.text
    host.full = False
    reply, _ = ask(host, {"kind": "good"})
    assert told(reply)[0] == "ok"


def test_a_full_disk_is_told_under_privacy_by_our_own_code_only(host):
    host.full = True
    private = clinic.job(protocol={"name": TALK}, privacy={"epsilon": 3.0, "delta": 1e-3})
    body = pack(
        {
            "job": private.to_json(),
            "contract": clinic.contract().to_json(),
            "payload": {"kind": "good"},
        }
    )
    reply, _ = ask(host, {}, body=body)
    assert told(reply) == ("fault", "failed")
    host.full = False
    reply, _ = ask(host, {}, body=body)
    assert told(reply)[0] == "ok"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"silo": "south"}, "refused"),
        ({"content": "0" * 64}, "invalid_reply"),
        ({"verb": "shout"}, "refused"),
        ({"protocol": "sing"}, "refused"),
        ({"wire": 99}, "version"),
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_is_a_fault(host, changes, code):
    reply, _ = ask(host, {"kind": "good"}, **changes)
    assert told(reply) == ("fault", code)


@pytest.mark.parametrize(
    "parcel",
    [
        Parcel(b"", b""),
        Parcel(b"[" * 100_000, b""),
        Parcel(b"{}", b"x"),
        Parcel(canonical_json({"wire": 1}), b""),
    ],
    ids=range(4),
)
def test_junk_is_answered_with_a_fault(host, parcel):
    assert told(answerer(host)(parcel))[0] == "fault"


@pytest.mark.parametrize("missing", ["job", "contract", "payload"])
def test_a_body_without_its_parts_is_a_fault(host, missing):
    whole = {
        "job": clinic.job(protocol={"name": TALK}).to_json(),
        "contract": clinic.contract().to_json(),
        "payload": {"kind": "good"},
    }
    del whole[missing]
    reply, _ = ask(host, {}, body=pack(whole))
    assert told(reply)[0] == "fault"


def test_an_invalid_job_says_so_without_its_content(host):
    value = {**clinic.job().to_json(), "seed": "SENTINEL"}
    body = pack({"job": value, "contract": clinic.contract().to_json(), "payload": {}})
    reply, _ = ask(host, {}, body=body)
    assert told(reply) == ("fault", "failed")
    assert b"SENTINEL" not in reply.header


def test_policy_is_asked_before_anything_is_computed(host):
    host.refusal = "not today"
    reply, _ = ask(host, {"kind": "good"})
    assert json.loads(reply.header)["reason"] == "not today"
    assert not hasattr(host, "calls")
