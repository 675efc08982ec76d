import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import RecordTampered, RunNotResumable, RunSuperseded
from consilo.record.run_record import RunRecord, read, verify
from consilo.wire.payload import canonical_json, digest

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.fixture
def record(tmp_path):
    record = RunRecord(tmp_path / "record.jsonl", KEY, now=lambda: "2026-01-01T00:00:00+00:00")
    record.add("opened", run_id="r", reason="line\u2028separator and \x85")
    record.add("round", round=1, epsilon=0.1 + 0.2, silos={"north": 1})
    record.add("round", round=2, epsilon=1e-300, silos={})
    record.close(status="complete", metrics={"auc": 0.9})
    return record.path


def lines_of(path):
    return path.read_bytes().split(b"\n")[:-1]


def refuse(path, content: bytes, key=PUBLIC):
    path.write_bytes(content)
    with pytest.raises(RecordTampered) as caught:
        verify(path, key)
    return str(caught.value)


def test_a_whole_record_verifies_and_gives_its_closing_entry(record):
    assert verify(record, PUBLIC)["status"] == "complete"
    assert verify(record)["metrics"] == {"auc": 0.9}
    assert [each["kind"] for each in read(record)] == ["opened", "round", "round", "closed"]


def test_a_changed_byte_anywhere_is_detected(record):
    whole = record.read_bytes()
    for place in range(0, len(whole), 2):
        edited = bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]])
        refuse(record, edited)


def test_any_cut_is_detected(record):
    whole = record.read_bytes()
    for size in {*range(0, len(whole), 5), *range(len(whole) - 40, len(whole))}:
        refuse(record, whole[:size])


def test_any_removal_repetition_or_exchange_of_lines_is_detected(record):
    lines = lines_of(record)

    def joined(some):
        return b"".join(line + b"\n" for line in some)

    for place in range(len(lines)):
        refuse(record, joined(lines[:place] + lines[place + 1 :]))
        refuse(record, joined([*lines[: place + 1], *lines[place:]]))
        for other in range(place):
            moved = list(lines)
            moved[place], moved[other] = moved[other], moved[place]
            refuse(record, joined(moved))


@pytest.mark.parametrize("extra", [b"\n", b" ", b"{}\n", b"x"])
def test_anything_added_at_the_end_is_detected(record, extra):
    refuse(record, record.read_bytes() + extra)


def test_blanks_that_change_no_value_are_detected(record):
    refuse(record, record.read_bytes().replace(b'"seq":1', b'"seq": 1'))


def rewrite(path, change):
    """Forge: change the entries and mend every hash, as one without the key can."""
    entries = read(path)
    change(entries)
    prev = "0" * 64
    text = b""
    for entry in entries:
        entry.pop("hash")
        entry["prev"] = prev
        prev = digest(entry)
        text += canonical_json({**entry, "hash": prev}) + b"\n"
    return text


@pytest.mark.parametrize("line", range(4))
@pytest.mark.parametrize("part", ["time", "kind", "body"])
def test_a_forger_without_the_key_can_change_no_line_not_even_the_last(record, line, part):
    def change(entries):
        if part == "body":
            entries[line]["body"]["status"] = "splendid"
        else:
            entries[line][part] = "2027"

    refuse(record, rewrite(record, change))


def test_a_record_signed_by_another_key_is_detected(tmp_path):
    record = RunRecord(tmp_path / "r.jsonl", Ed25519PrivateKey.generate())
    record.close(status="complete")
    assert verify(record.path)["status"] == "complete"
    with pytest.raises(RecordTampered, match="another key"):
        verify(record.path, PUBLIC)


def test_a_run_that_never_closed_says_so(tmp_path):
    record = RunRecord(tmp_path / "r.jsonl", KEY)
    record.add("opened")
    with pytest.raises(RecordTampered, match="never closed"):
        verify(record.path)
    (tmp_path / "r.jsonl").write_bytes(b"")
    with pytest.raises(RecordTampered, match="never closed"):
        verify(record.path)


@pytest.mark.parametrize("drop", ["signature", "public_key", "entries"])
def test_a_closing_line_without_its_parts_is_refused(record, drop):
    refuse(record, rewrite(record, lambda entries: entries[-1]["body"].pop(drop)))


def test_a_record_is_written_once(record):
    with pytest.raises(FileExistsError):
        RunRecord(record, KEY)


def test_closing_twice_changes_nothing(tmp_path):
    record = RunRecord(tmp_path / "r.jsonl", KEY)
    head = record.close(status="failed")
    assert record.close(status="complete") == head == record.head
    assert verify(record.path, PUBLIC)["status"] == "failed"


def test_an_entry_that_cannot_be_written_leaves_no_gap(tmp_path):
    record = RunRecord(tmp_path / "r.jsonl", KEY)
    with pytest.raises(ValueError, match="JSON"):
        record.add("round", loss=float("nan"))
    record.close(status="failed")
    assert verify(record.path, PUBLIC)["entries"] == 1
    assert json.loads(lines_of(record.path)[0])["seq"] == 0


def test_a_run_that_died_in_its_first_line_cannot_be_gone_on_with(tmp_path):
    """It was said to be tampered with, and what was left of the line was lost."""
    path = tmp_path / "record.jsonl"
    path.write_bytes(b'{"kind": "op')
    with pytest.raises(RunNotResumable, match="died before it had begun"):
        RunRecord.reopen(path, Ed25519PrivateKey.generate())
    assert path.read_bytes() == b'{"kind": "op'


def test_whoever_had_a_record_open_writes_no_line_beside_its_successor(tmp_path):
    """A process that was stopped could wake and write on where another had gone on."""
    first = RunRecord(tmp_path / "record.jsonl", KEY)
    first.add("opened")
    second, _ = RunRecord.reopen(first.path, KEY)
    second.take_over(at=1_000.0)
    for write in (lambda: first.add("round", round=1), first.close, first.require_ours):
        with pytest.raises(RunSuperseded, match="another process"):
            write()
    second.require_ours()
    second.close(status="complete")
    assert [each["kind"] for each in read(first.path)] == ["opened", "resumed", "closed"]
    assert verify(first.path, PUBLIC)["entries"] == 3


def test_each_owner_of_a_run_has_a_larger_number_whatever_the_clock_says(tmp_path):
    record = RunRecord(tmp_path / "record.jsonl", KEY)
    record.add("opened")
    numbers = [record.owner]
    for at in (1_000.0, 5.0, 1_000.0, 2_000.0):
        record, _ = RunRecord.reopen(record.path, KEY)
        record.take_over(at=at)
        numbers.append(record.owner)
    assert numbers == [0, 1000, 1001, 1002, 2000]
