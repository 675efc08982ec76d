import json
import pickle

import numpy as np
import pytest
import safetensors.numpy

from consilo.errors import ReplyInvalid
from consilo.wire.buffers import Pieces, Spool, buffers_of, sha256, whole
from consilo.wire.payload import pack, pack_pieces, unpack


def test_every_kind_of_body_has_the_same_bytes():
    text = bytes(range(256)) * 9000
    with Spool.make() as spool:
        spool.write(text)
        pieces = Pieces(text[:7], b"", text[7:])
        for body in (text, bytearray(text), memoryview(text), pieces, spool):
            assert len(body) == len(text)
            assert b"".join(buffers_of(body)) == text
            assert whole(body) == text
            assert sha256(body) == sha256(text)
        assert pieces == text
        assert spool == text
        assert pickle.loads(pickle.dumps(pieces)) == text


def test_a_packed_payload_is_a_safetensors_file_and_large_arrays_are_views():
    large, small = np.arange(50_000, dtype=np.float32), np.array([[True], [False]])
    payload = {"x": {"w": large, "b": small}, "n": np.zeros((0, 3)), "s": np.array(5, np.int64)}
    body = pack(payload)
    stored = safetensors.numpy.load(body)
    found = unpack(body)
    assert len(stored) == 4
    for name, value in {"w": large, "b": small}.items():
        np.testing.assert_array_equal(found["x"][name], value)
        assert found["x"][name].dtype == value.dtype
    assert found["n"].shape == (0, 3)
    assert found["s"].shape == ()
    assert not found["x"]["w"].flags.owndata
    assert not found["x"]["w"].flags.writeable
    assert found["x"]["b"].flags.owndata
    assert np.shares_memory(np.frombuffer(list(pack_pieces(payload))[2], np.uint8), large)


def framed(arrays, data: bytes) -> bytes:
    plain = json.dumps({name: {"$array": name} for name in arrays})
    head = json.dumps({"__metadata__": {"payload": plain}, **arrays}).encode()
    return len(head).to_bytes(8, "little") + head + data


def entry(shape, *offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("arrays", "size"),
    [
        ({"0": entry([2], 0, 8)}, 9),
        ({"0": entry([2], 0, 8)}, 7),
        ({"0": entry([3], 0, 8)}, 8),
        ({"0": entry([2], 0, 8), "1": entry([2], 4, 12)}, 12),
        ({"0": entry([2], 0, 8), "1": entry([2], 12, 20)}, 20),
        ({"0": entry([-2], 0, 8)}, 8),
        ({"0": entry([True, 2], 0, 8)}, 8),
        ({"0": entry([0, 10**30], 0, 0)}, 0),
        ({"0": entry([1] * 100, 0, 4)}, 4),
        ({"0": entry([2], 0, 8, dtype="BF16")}, 8),
        ({"0": entry([2], 8, 0)}, 8),
        ({"0": {"dtype": "F32"}}, 8),
        ({"0": 7}, 8),
    ],
)
def test_arrays_that_do_not_fit_the_data_are_refused(arrays, size):
    with pytest.raises(ReplyInvalid):
        unpack(framed(arrays, bytes(size)))
