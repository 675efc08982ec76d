import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from consilo.errors import ReplyInvalid, VersionUnsupported
from consilo.kernel.headers import Header, ReplyHeader, fault_parcel
from consilo.wire.parcel import Fault
from consilo.wire.payload import canonical_json, digest, pack, unpack

DTYPES = [f"{kind}{size}" for kind in ("int", "uint") for size in (8, 16, 32, 64)]
arrays = hnp.arrays(
    st.sampled_from([*DTYPES, "bool", "float16", "float32", "float64"]).map(np.dtype),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
plain = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False).filter(
    np.isfinite
)  # fmt: skip
keys = st.text().filter(lambda key: key != "$array")
values = st.recursive(
    plain | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
payloads = st.dictionaries(keys, values, max_size=3)


def same(left, right) -> bool:
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and (left.dtype, left.shape) == (right.dtype, right.shape)
            and left.tobytes() == right.tobytes()
        )
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@settings(max_examples=60, deadline=None)
@given(payloads)
def test_a_payload_round_trips_exactly(payload):
    assert same(unpack(pack(payload)), payload)


@settings(max_examples=60, deadline=None)
@given(payloads)
def test_equal_payloads_pack_into_equal_bytes_whatever_the_order_of_keys(payload):
    assert pack(dict(reversed(payload.items()))) == pack(payload)
    assert pack(unpack(pack(payload))) == pack(payload)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3).T, np.arange(3, dtype=">f4")])
def test_layout_and_byte_order_do_not_travel(array):
    found = unpack(pack({"a": array}))["a"]
    np.testing.assert_array_equal(found, array)
    assert pack({"a": np.array(array, array.dtype.newbyteorder("="), order="C")}) == pack(
        {"a": array}
    )


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        pytest.param(object(), id="object"),
        b"bytes",
        {1: "key"},
        {"$array": "0"},
        np.array(["text"]),
        np.array([None]),
        np.array([1j]),
        np.array(["2020-01-01"], "M8[D]"),
        {1, 2},
    ],
    ids=repr,
)
def test_what_cannot_travel_is_refused(value):
    with pytest.raises(ValueError, match=r"travel|key"):
        pack({"a": [value]})


def body(plain_text: str, extra: dict | None = None, data: bytes = b"") -> bytes:
    head = json.dumps({"__metadata__": {"payload": plain_text}, **(extra or {})}).encode()
    return len(head).to_bytes(8, "little") + head + data


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"x" * 7,
        b"\xff" * 64,
        body("[1]"),
        body("{"),
        body("[" * 100_000),
        body('{"a": NaN}'),
        body('{"a": ' + "9" * 5000 + "}"),
        body('{"a": {"$array": "7"}}'),
        body('{"a": {"$array": [1]}}'),
        body(
            '{"a": {"$array": "0"}}',
            {"0": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}},
            b"xx",
        ),
        (10**12).to_bytes(8, "little") + b"{}",
    ],
    ids=range(12),
)
def test_junk_is_no_payload(junk):
    with pytest.raises(ReplyInvalid):
        unpack(junk)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 200))
def test_damaged_bytes_are_refused_or_read_never_anything_else(noise, start, cut):
    whole = pack({"params": {"w": np.ones(3, np.float32)}, "n": 3})
    damaged = whole[:start] + noise + whole[start + cut :]
    with contextlib.suppress(ReplyInvalid):
        unpack(damaged)


HEADER = Header("run", "1/0/train", "c" * 64, 1, "north", "fedavg", "train", ("north", "south"))


def test_headers_round_trip():
    assert Header.decode(HEADER.encode()) == HEADER
    reply = ReplyHeader("s", "north", "ok", seconds=1.5)
    assert ReplyHeader.decode(reply.encode()) == reply


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "other"},
        {"scope": "2/0/train"},
        {"content": "d" * 64},
        {"round": 2},
        {"silo": "south"},
        {"protocol": "fedprox"},
        {"verb": "evaluate"},
    ],
    ids=str,
)
def test_another_question_has_another_step_id(change):
    assert replace(HEADER, **change).step_id != HEADER.step_id


def test_the_same_question_to_fewer_silos_keeps_its_step_id():
    assert replace(HEADER, cohort=("north",)).step_id == HEADER.step_id


def test_another_wire_version_names_the_remedy():
    with pytest.raises(VersionUnsupported, match="upgrade Consilo"):
        Header.decode(replace(HEADER, wire=99).encode())


@pytest.mark.parametrize(
    "change",
    [{"cohort": "abc"}, {"cohort": [1]}, {"round": "1"}, {"round": True}, {"silo": None}, {"x": 1}],
    ids=str,
)
def test_an_odd_header_is_refused(change):
    fields = {**json.loads(HEADER.encode()), **change}
    with pytest.raises(ReplyInvalid):
        Header.decode(canonical_json(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"step_id":"s","silo":"n","status":"maybe"}',
        b'{"step_id":"s","silo":"n","status":"ok","seconds":"long"}',
        b'{"step_id":"s","silo":"n","status":"ok","seconds":NaN}',
        b'{"step_id":"s","silo":"n","status":"ok","seconds":-1}',
        b'{"step_id":"s","silo":"n","status":"fault","code":[],"reason":{}}',
    ],
    ids=range(10),
)
def test_an_odd_reply_header_is_refused(data):
    with pytest.raises(ReplyInvalid):
        ReplyHeader.decode(data)


def test_a_silos_words_are_short_and_move_no_cursor():
    fault = Fault("c" * 500, "\x1b[2Jgone\n" * 1000)
    shown = ReplyHeader.decode(fault_parcel(silo="n", step_id="s", fault=fault).header).fault
    assert len(shown.code) <= 40
    assert len(shown.reason) <= 2000
    assert shown.reason.isprintable()


def test_digest_knows_values_from_bytes():
    assert digest({"b": 1, "a": [1.0]}) == digest({"a": [1.0], "b": 1})
    assert digest(b"a") != digest("a")
