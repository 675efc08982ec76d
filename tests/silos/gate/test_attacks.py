"""What one side may send the other to harm it: refused, logged, and nobody else disturbed.

`test_guard` has what a coordinator may pretend, `tests/membership` what a stranger may try at the
door; here are the messages themselves. docs/threat-model.md lists all of them.
"""

from __future__ import annotations

import json
import pickle
import resource
from pathlib import Path

import clinic
import numpy as np
import pytest
import test_guard as guard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.kernel.headers import Header, ReplyHeader
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import Run
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack, unpack
from silos.silo import Silo


class Payload:
    """Writes a file when somebody unpickles it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.write_text, (self.place, "unpickled")


def tensor_file(shape: list[int], data: bytes, *, name: str = "0", dtype: str = "F32") -> bytes:
    """A safetensors file that says what it likes of its arrays."""
    head = json.dumps(
        {
            "__metadata__": {"payload": '{"delta":{"w":{"$array":"0"}}}'},
            name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]},
        }
    ).encode()
    return len(head).to_bytes(8, "little") + head + data


def bodies(place: Path) -> dict[str, bytes]:
    return {
        "empty": b"",
        "junk": b"\xff" * 1000,
        "pickle": pickle.dumps(Payload(place)),
        "pickle in a payload": pack({"job": pickle.dumps(Payload(place)).hex()}),
        "a billion elements": tensor_file([1_000_000_000], b"\0" * 16),
        "a negative shape": tensor_file([-1], b"\0" * 16),
        "shapes that overflow": tensor_file([2**62, 2**62], b"\0" * 16),
        "objects": tensor_file([2], b"\0" * 16, dtype="O"),
        "a header of 2**63 bytes": (2**63).to_bytes(8, "little") + b"{}",
        "nested without end": tensor_file([4], b"\0" * 16).replace(b'{"w"', b"[" * 100_000),
        "a list": pack({})[:8] + b"[]",
    }


@pytest.fixture
def silo(tmp_path: Path) -> Silo:
    return guard.make(tmp_path / "north")


@pytest.mark.parametrize("kind", sorted(bodies(Path())))
def test_a_message_that_is_none_is_answered_with_a_fault(silo, tmp_path, kind) -> None:
    body = bodies(tmp_path / "written")[kind]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = guard.ask(silo, guard.request(body=body or b"\0"))
    assert reply.status == "fault"
    assert not (tmp_path / "written").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    assert [each["kind"] for each in guard.log(silo)][-1] == "answered"
    assert guard.ask(silo, guard.request()).status == "ok"


@pytest.mark.parametrize(
    "header",
    [b"", b"{}", b"[" * 100_000, pickle.dumps({}), b'{"wire":2}', b"\xff\xfe", b"x" * 10_000_000],
    ids=["empty", "{}", "nested", "pickle", "bare", "not utf-8", "huge"],
)
def test_a_header_that_is_none_is_answered_with_a_fault(silo, header) -> None:
    reply = guard.ask(silo, Parcel(header, b""))
    assert (reply.status, reply.step_id) == ("fault", "")
    assert guard.ask(silo, guard.request()).status == "ok"


@pytest.mark.parametrize("path", ["os:system", "subprocess:Popen", "builtins:eval", "posix:system"])
def test_a_message_that_names_code_outside_its_bundle_is_refused(silo, path) -> None:
    assert guard.ask(silo, guard.request(protocol=path)).status == "fault"
    assert not any(each.get("status") == "ok" for each in guard.log(silo))


HONEST = {"num_examples": 20, "metrics": {}, "tally": {"n": np.float64(4)}}


def replies(place: Path) -> dict[str, object]:
    """What a silo may answer to ``train`` in place of its update; the model has two tensors."""
    good = {"linear.weight": np.zeros((1, 5), "f4"), "linear.bias": np.zeros(1, "f4")}
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), (10**9,), (0,))
    return {
        "a path": {**good, "../../keys/record.key": np.zeros(1, "f4")},
        "NaN": {**good, "linear.bias": np.full(1, np.nan, "f4")},
        "infinity": {**good, "linear.bias": np.full(1, np.inf, "f4")},
        "another shape": {**good, "linear.bias": np.zeros(2, "f4")},
        "another dtype": {**good, "linear.bias": np.zeros(1, "f8")},
        "one tensor less": {"linear.bias": good["linear.bias"]},
        "a pickle": pickle.dumps(Payload(place)),
        "a billion elements": tensor_file([huge.shape[0]], b"\0" * 64),
        "undeclared": {"rows": np.zeros((40, 4), "f4")},
    }


@pytest.mark.parametrize("kind", sorted(replies(Path())))
def test_a_reply_that_is_not_what_was_asked_drops_its_silo_only(tmp_path, kind) -> None:
    hosts = clinic.hosts(clinic.frames(40, 40, 40))
    bad = replies(tmp_path / "written")[kind]
    honest = answerer(hosts["north"])

    def attacker(parcel: Parcel) -> Parcel:
        reply = honest(parcel)
        if Header.decode(parcel.header).verb != "train":
            return reply
        fields = {**unpack(reply.body)}
        if isinstance(bad, bytes):
            body = bad
        elif kind == "undeclared":
            body = pack({**fields, **bad})
        else:
            body = pack({**fields, "delta": bad})
        header = ReplyHeader.decode(reply.header)
        made = ReplyHeader(header.step_id, "north", "ok", content=digest(body))
        return Parcel(made.encode(), body)

    answers = {name: answerer(each) for name, each in hosts.items()}
    run = Run(
        clinic.job(quorum={"min_silos": 2}),
        clinic.contract(),
        LocalTransport({**answers, "north": attacker}),
        silos=tuple(hosts),
        directory=tmp_path / "run",
        run_id="run",
        key=Ed25519PrivateKey.generate(),
    )
    for name in hosts:
        run.check(name)
    run.admit()
    run.standardize()
    report = run.train_round()
    assert set(report["silos"]) == {"east", "south"}
    assert all(np.isfinite(value).all() for value in run.params.values())
    fault = next(each.fault for each in run.exchanges if each.fault)
    assert fault.code == "invalid_reply"
    assert not (tmp_path / "written").exists()
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert kept == {"record.jsonl", "checkpoint.safetensors"}
