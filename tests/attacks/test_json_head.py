"""A head of a body that is small on the wire and large, deep or endless once it is built."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import ReplyInvalid
from consilo.kernel.headers import MAX_HEADER_BYTES, Header
from consilo.wire.json_text import read_json
from consilo.wire.payload import MAX_HEAD_BYTES, pack, unpack

MIB = 1024 * 1024


def body_of(payload: str, **arrays) -> bytes:
    head = json.dumps({"__metadata__": {"payload": payload}, **arrays}).encode()
    return len(head).to_bytes(8, "little") + head


def peak_mib(work) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def refused(body: bytes) -> None:
    with pytest.raises(ReplyInvalid):
        unpack(body)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param('{"a":[' + "[]," * (8 * MIB // 3) + "[]]}", id="the attack"),
        pytest.param('{"a":[' + "[]," * 330_000 + "[]]}", id="lists, under 1 MiB"),
        pytest.param('{"a":[' + '{"":0},' * 140_000 + "0]}", id="mappings"),
        pytest.param('{"a":[' + "0," * 500_000 + "0]}", id="numbers"),
        pytest.param("{" + ",".join(f'"{n:x}":0' for n in range(110_000)) + "}", id="tiny keys"),
        pytest.param('{"a":' + "[" * 500_000, id="deep, without an end"),
        pytest.param('{"a":' + "[" * 100 + "]" * 100 + "}", id="deeper than is read"),
        pytest.param('{"a":' + '{"a":' * 100 + "0" + "}" * 101, id="deep mappings"),
    ],
)
def test_a_head_that_grows_is_refused_before_it_is_built(payload):
    body = body_of(payload)
    assert peak_mib(lambda: refused(body)) < 16


def test_tensors_of_no_size_without_end_are_refused():
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    body = body_of("{}", **{str(n): entry for n in range(30_000)})
    assert peak_mib(lambda: refused(body)) < 16


def test_what_stays_within_the_bounds_costs_less_than_30_mib():
    body = body_of('{"a":[' + '{"":0},' * 49_000 + "0]}")
    assert peak_mib(lambda: unpack(body)) < 30


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "9" * 5000])
def test_a_number_that_is_none_is_refused(number):
    refused(body_of('{"a":' + number + "}"))


@pytest.mark.parametrize(
    "text", ['"' + "\\\\" * 200_000 + '"', '"' + '\\"' * 200_000, '"[[[[' * 50_000 + '"']
)
def test_signs_within_strings_are_no_structure_and_take_no_time(text):
    try:
        found = read_json(text.encode(), max_bytes=MIB, max_items=10, max_depth=4)
    except ValueError:
        found = None
    assert found is None or set(found) == {"\\"}


@pytest.mark.parametrize(
    "text",
    [b'{"run_id":' + b"[" * 900_000, b"{" + b'"a":0,' * 150_000 + b'"a":0}', b" " * MIB * 2],
)
def test_a_header_that_grows_is_refused(text):
    def decode():
        with pytest.raises(ReplyInvalid):
            Header.decode(text)

    assert peak_mib(decode) < 16
    assert MAX_HEADER_BYTES <= MIB


def test_nothing_is_packed_that_nobody_would_read():
    with pytest.raises(ValueError, match="into arrays"):
        pack({"text": "x" * MAX_HEAD_BYTES})


def test_a_large_model_and_a_wide_contract_are_far_below():
    tensors = {f"encoder.layers.{n}.attention.weight": np.zeros(2) for n in range(3000)}
    assert len(unpack(pack({"params": tensors}))["params"]) == 3000
    column = {"type": "number", "range": [0.0, 255.0], "description": "how dark this place is"}
    contract = {"columns": {f"pixel_{n}": column for n in range(784)}}
    assert unpack(pack(contract)) == contract


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.text('"\\[]{},a') | st.integers(), lambda each: st.lists(each, max_size=4)))
def test_items_and_depth_are_counted_as_the_parser_finds_them(value):
    def depth(part):
        return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

    def items(part):
        own = 1 + max(0, len(part) - 1) if isinstance(part, list) else 0
        return own + sum(map(items, part)) if isinstance(part, list) else 0

    text = json.dumps(value).encode()
    deep, many = depth(value), items(value)
    assert read_json(text, max_bytes=MIB, max_items=many, max_depth=deep) == value
    for less in ({"max_items": many - 1}, {"max_depth": deep - 1}):
        with pytest.raises(ValueError, match="read"):
            read_json(text, max_bytes=MIB, **less)
