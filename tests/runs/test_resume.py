"""A run whose process died goes on from its last checkpoint and ends as it would have."""

import json

import clinic
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import CoordinatorUnreachable, RecordTampered, RunNotResumable
from consilo.record import chain
from consilo.record.run_record import read, verify
from consilo.runs.checkpoint import CHECKPOINT, keep_checkpoint, read_checkpoint
from consilo.wire import params as tree
from consilo.wire.payload import pack, unpack

KEY = Ed25519PrivateKey.generate()
PRIVATE = {"epsilon": 5.0, "delta": 1e-3}


def silos():
    hosts = clinic.hosts(clinic.frames(40, 30))
    for place, host in enumerate(hosts.values()):
        host.run_secrets["r1"] = bytes([place]) * 32
    return hosts


def job(**changes):
    protocol = {"name": "fedadam", "rounds": 4, "server_lr": 0.1}
    return clinic.job(privacy=PRIVATE, protocol=protocol, **changes)


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_it_ends_with_the_same_model_and_the_same_cost(rounds, tmp_path):
    whole_silos, silos_ = silos(), silos()
    whole = clinic.finished(clinic.run_of(job(), whole_silos, tmp_path / "whole", key=KEY))
    died = clinic.run_of(job(), silos_, tmp_path / "died", key=KEY)
    died.admit()
    if rounds:
        died.standardize()
    for _ in range(rounds):
        died.train_round()
    record = tmp_path / "died" / "record.jsonl"
    with record.open("ab") as file:
        file.write(b'{"body":{"half a li')  # the machine stopped as it wrote
    run = clinic.run_of(job(), silos_, tmp_path / "died", key=KEY, resume=True)
    assert run.rounds_left == 4 - rounds
    result = clinic.finished(run)
    assert result.status == "complete"
    assert tree.digest(result.params) == tree.digest(whole.params)
    for name, each in result.silos.items():
        assert each.rounds == (1, 2, 3, 4)
        assert each.epsilon == whole.silos[name].epsilon
        assert each.metrics_before == whole.silos[name].metrics_before
    assert {n: host.spends for n, host in silos_.items()} == {
        n: host.spends for n, host in whole_silos.items()
    }
    assert verify(record, KEY.public_key().public_bytes_raw())["status"] == "complete"
    kinds = [entry["kind"] for entry in read(record)]
    assert kinds.count("round") == 4
    assert kinds.count("opened") == kinds.count("resumed") == 1


class Cut:
    """A transport that is cut off after a number of exchanges, and never comes back."""

    def __init__(self, inner, exchanges):
        self.inner, self.left = inner, exchanges

    def online(self):
        return self.inner.online()

    def exchange(self, parcels, *, deadline_s):
        if not self.left:
            raise CoordinatorUnreachable("nobody answers at the SuperLink's address")
        self.left -= 1
        return self.inner.exchange(parcels, deadline_s=deadline_s)

    def close(self):
        self.inner.close()


def test_a_run_whose_superlink_went_is_not_over_and_says_how_to_go_on(tmp_path):
    # It was closed as failed, and --resume refused a run whose end no silo could have been told.
    whole = clinic.finished(clinic.run_of(job(), silos(), tmp_path / "whole", key=KEY))
    hosts = silos()
    cut = tmp_path / "cut"
    run = clinic.run_of(job(), hosts, cut, key=KEY, wrap=lambda inner: Cut(inner, 6))
    with pytest.raises(CoordinatorUnreachable) as caught:
        clinic.finished(run)
    assert run.rounds_left < 4
    result = run.close(caught.value)
    assert result.status == "failed"
    assert "CoordinatorUnreachable: nobody answers" in result.reason
    assert f"the run is not over: --resume {run.run_id} goes on with it" in result.reason
    record = tmp_path / "cut" / "record.jsonl"
    assert read(record)[-1]["kind"] == "interrupted"
    with pytest.raises(RecordTampered, match="never closed"):
        verify(record)
    on = clinic.finished(clinic.run_of(job(), hosts, tmp_path / "cut", key=KEY, resume=True))
    assert on.status == "complete", on.reason
    assert tree.digest(on.params) == tree.digest(whole.params)
    assert [on.silos[n].epsilon for n in on.silos] == [whole.silos[n].epsilon for n in whole.silos]
    assert verify(record)["status"] == "complete"


def elsewhere(record):
    """Rewrite a record as another machine would have begun it: another CPU, another torch."""
    entries = read(record)
    body = entries[0]["body"]
    body["hardware"]["cpu"] = "Abacus 3"
    body["software"]["torch"] = "1.0"
    record.write_bytes(b"")
    previous = chain.START
    for number, each in enumerate(entries):
        line, previous = chain.linked(number, each["time"], each["kind"], each["body"], previous)
        with record.open("ab") as file:
            file.write(line)


def test_a_run_that_goes_on_on_other_hardware_says_so(tmp_path):
    silos_ = silos()
    died = clinic.run_of(job(), silos_, tmp_path / "died", key=KEY)
    died.admit()
    died.standardize()
    died.train_round()
    record = tmp_path / "died" / "record.jsonl"
    elsewhere(record)
    clinic.run_of(job(), silos_, tmp_path / "died", key=KEY, resume=True)  # and dies again
    result = clinic.finished(clinic.run_of(job(), silos_, tmp_path / "died", key=KEY, resume=True))
    assert result.status == "complete"
    note, _ = result.to_json()["notes"]  # the other says that a private job has no figures
    assert "(was Abacus 3), torch" in note
    assert "last bits may differ" in note
    first, second = (each for each in read(record) if each["kind"] == "resumed")
    assert [each.partition(" ")[0] for each in first["body"]["changed"]] == ["cpu", "torch"]
    assert second["body"]["changed"] == []


def test_a_record_of_before_that_names_no_hardware_can_be_gone_on_with(tmp_path):
    silos_ = silos()
    run = clinic.run_of(job(), silos_, tmp_path / "died", key=KEY)
    opened = read(run.record.path)[0]["body"]
    assert opened["threads"] == 1
    assert set(opened["hardware"]) == {"cpu", "architecture", "capability"}
    assert {"python", "torch", "numpy"} <= set(opened["software"])
    del opened["hardware"]
    line, _ = chain.linked(0, "2026-01-01T00:00:00Z", "opened", opened, chain.START)
    run.record.path.write_bytes(line)
    result = clinic.finished(clinic.run_of(job(), silos_, tmp_path / "died", key=KEY, resume=True))
    assert result.status == "complete"
    assert not any("last bits may differ" in note for note in result.notes)


def test_a_round_that_some_silos_answered_is_not_computed_twice(tmp_path):
    hosts = silos()
    died = clinic.run_of(job(), hosts, tmp_path / "died", key=KEY)
    died.admit()
    died.standardize()
    died.train_round()
    answered = hosts["east"].replies.copy()
    hosts["north"].permit = _dies
    with pytest.raises(KeyboardInterrupt):
        died.train_round()
    assert len(hosts["east"].replies) == len(answered) + 1
    del hosts["north"].permit
    encodings, spends = len(hosts["east"].arrays), list(hosts["east"].spends["r1"])
    run = clinic.run_of(job(), hosts, tmp_path / "died", key=KEY, resume=True)
    run.admit()
    run.train_round()
    assert len(hosts["east"].arrays) == encodings
    assert hosts["east"].spends["r1"] == spends


def _dies(*_):
    raise KeyboardInterrupt


def test_what_has_ended_or_is_another_job_cannot_go_on(tmp_path):
    ended = clinic.finished(clinic.run_of(job(), silos(), tmp_path / "ended", key=KEY))
    assert ended.status == "complete"
    with pytest.raises(RunNotResumable, match=r"has ended \(complete\)"):
        clinic.run_of(job(), silos(), tmp_path / "ended", key=KEY, resume=True)
    with pytest.raises(RunNotResumable, match="no run of this name"):
        clinic.run_of(job(), silos(), tmp_path / "nowhere", key=KEY, resume=True)
    clinic.run_of(job(), silos(), tmp_path / "died", key=KEY)
    with pytest.raises(RunNotResumable, match="the job changed since"):
        clinic.run_of(job(seed=9), silos(), tmp_path / "died", key=KEY, resume=True)


def test_a_record_that_was_edited_is_not_gone_on_with(tmp_path):
    clinic.run_of(job(), silos(), tmp_path / "died", key=KEY)
    record = tmp_path / "died" / "record.jsonl"
    entry = json.loads(record.read_text().splitlines()[0])
    entry["body"]["bundle"] = "other"
    record.write_text(json.dumps(entry) + "\n")
    with pytest.raises(RecordTampered, match="the line was edited"):
        clinic.run_of(job(), silos(), tmp_path / "died", key=KEY, resume=True)


@pytest.mark.parametrize("at", [-5, 3, 200, -4000], ids=["data", "length", "head", "middle"])
def test_a_checkpoint_that_is_damaged_is_not_gone_on_from(at, tmp_path):
    # A bit of it that was turned gave another model, complete and without a word.
    whole_silos, hosts = silos(), silos()
    whole = clinic.finished(clinic.run_of(job(), whole_silos, tmp_path / "whole", key=KEY))
    died = clinic.run_of(job(), hosts, tmp_path / "died", key=KEY)
    died.admit()
    died.standardize()
    for _ in range(3):
        died.train_round()
    place = tmp_path / "died" / CHECKPOINT
    content = bytearray(place.read_bytes())
    content[max(at, -len(content))] ^= 64
    place.write_bytes(content)
    with pytest.raises(RecordTampered, match="not as it was written"):
        read_checkpoint(tmp_path / "died")
    run = clinic.run_of(job(), hosts, tmp_path / "died", key=KEY, resume=True)
    assert run.rounds_left == 4
    result = clinic.finished(run)
    assert result.status == "complete", result.reason
    assert tree.digest(result.params) == tree.digest(whole.params)
    assert {n: each.epsilon for n, each in result.silos.items()} == {
        n: each.epsilon for n, each in whole.silos.items()
    }
    assert {n: host.spends for n, host in hosts.items()} == {
        n: host.spends for n, host in whole_silos.items()
    }
    assert any("went on from its beginning" in note for note in result.notes)
    record = tmp_path / "died" / "record.jsonl"
    assert verify(record)["status"] == "complete"
    assert [each["kind"] for each in read(record)].count("checkpoint_damaged") == 1


def test_damage_of_the_name_of_a_checkpoints_hash_is_damage(tmp_path):
    keep_checkpoint(tmp_path, {"state": {"round": 1}, "reports": "[]", "num_examples": {}})
    place = tmp_path / CHECKPOINT
    content = bytearray(place.read_bytes())
    at = content.index(b"sha256")
    assert read_checkpoint(tmp_path)["state"] == {"round": 1}
    for letter in range(at, at + len(b"sha256")):
        content[letter] ^= 1
        place.write_bytes(content)
        with pytest.raises(RecordTampered, match="not as it was written"):
            read_checkpoint(tmp_path)
        content[letter] ^= 1


def test_a_checkpoint_of_a_release_that_wrote_no_hash_is_gone_on_from(tmp_path):
    hosts = silos()
    died = clinic.run_of(job(), hosts, tmp_path / "died", key=KEY)
    died.admit()
    died.standardize()
    died.train_round()
    place = tmp_path / "died" / CHECKPOINT
    kept = unpack(place.read_bytes())
    del kept["sha256"], kept["updates"]  # it knew neither
    place.write_bytes(pack(kept))
    run = clinic.run_of(job(), hosts, tmp_path / "died", key=KEY, resume=True)
    assert run.rounds_left == 3
    assert clinic.finished(run).status == "complete"
