from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import RecordTampered
from consilo.machine.locks import lock_open
from consilo.record.chain import START, Chain, linked, read, verify, verify_open
from consilo.wire.payload import canonical_json, digest


def filled(path: Path, count: int = 4) -> Chain:
    chain = Chain(path, now=lambda: "2026-01-01T00:00:00+00:00")
    for number in range(count):
        chain.append("asked", number=number)
    return chain


def test_the_head_is_the_last_lines_hash(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "audit.jsonl")
    assert chain.head == START
    last = chain.append("asked", silo="north")
    assert chain.head == last == verify(chain.path)[-1]["hash"]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    assert filled(tmp_path / "audit.jsonl").path.stat().st_mode & 0o777 == 0o600


def append_many(path: Path, name: str) -> None:
    for number in range(25):
        Chain(path).append("asked", name=name, number=number)


def test_processes_that_append_at_once_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append_many, args=(path, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    entries = verify(path)
    assert len(entries) == 75
    for name in "abc":
        mine = [each["body"]["number"] for each in entries if each["body"]["name"] == name]
        assert mine == list(range(25))


def test_who_reads_while_another_appends_sees_whole_lines(tmp_path: Path) -> None:
    path, other = tmp_path / "audit.jsonl", tmp_path / "other.jsonl"
    filled(path, 4)
    filled(other, 5)
    line = other.read_bytes().splitlines(keepends=True)[-1]
    with ThreadPoolExecutor(1) as pool:
        with path.open("r+b", buffering=0) as file:
            lock_open(file)
            file.seek(0, os.SEEK_END)
            file.write(line[:20])
            reader = pool.submit(verify, path)
            wait([reader], timeout=0.2)
            file.write(line[20:])
        assert len(reader.result()) == 5


def test_a_torn_last_line_is_cut_off_by_the_next_append(tmp_path: Path) -> None:
    chain = filled(tmp_path / "audit.jsonl")
    with chain.path.open("ab") as file:
        file.write(b'{"seq":4,"half')
    with pytest.raises(RecordTampered, match="end is missing"):
        verify(chain.path)
    assert len(verify_open(chain.path)) == 4  # nobody was told of the half line
    chain.append("asked", number=4)
    assert [each["body"]["number"] for each in verify(chain.path)] == [0, 1, 2, 3, 4]


def test_a_log_that_has_not_begun_is_empty_and_an_edited_one_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    assert verify_open(path) == []
    path.touch()  # and then the machine lost power
    assert verify_open(path) == []
    filled(path)
    path.write_bytes(path.read_bytes().replace(b'"number":2', b'"number":3'))
    with pytest.raises(RecordTampered, match="line 3: the line was edited"):
        verify_open(path)


def test_a_line_longer_than_the_tail_is_read_whole(tmp_path: Path) -> None:
    chain = filled(tmp_path / "audit.jsonl", 2)
    chain.append("asked", text="x" * 300_000)
    chain.append("asked", number=3)
    assert len(verify(chain.path)) == 4


@given(data=st.data())
def test_any_change_of_a_byte_shows(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    path = filled(tmp_path_factory.mktemp("chain") / "audit.jsonl").path
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda each: each != whole[place]))
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    with pytest.raises(RecordTampered):
        verify(path)


@pytest.mark.parametrize("keep", [[0, 2, 3], [1, 0, 2, 3], [0, 1, 1, 2, 3], [1, 2, 3]])
def test_lines_removed_moved_or_doubled_show(tmp_path: Path, keep: list[int]) -> None:
    path = filled(tmp_path / "audit.jsonl").path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in keep))
    with pytest.raises(RecordTampered, match="removed, added or moved"):
        verify(path)


def test_an_append_to_what_is_no_chain_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"hello\n")
    with pytest.raises(RecordTampered, match="not one of a chain"):
        Chain(path).append("asked")
    assert path.read_bytes() == b"hello\n"
    with pytest.raises(RecordTampered):
        read(path)


def test_a_line_is_the_canonical_json_of_its_entry(tmp_path):
    body = {"z": 1, "a": {"é": [1.5, None]}, "hash": "x"}
    line, head = linked(3, "2026-01-01T00:00:00+00:00", "kind", body, "0" * 64)
    entry = {"seq": 3, "time": "2026-01-01T00:00:00+00:00", "kind": "kind", "body": body}
    entry |= {"prev": "0" * 64}
    assert head == digest(entry)
    assert line == canonical_json({**entry, "hash": head}) + b"\n"
