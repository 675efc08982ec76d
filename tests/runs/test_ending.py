"""A run whose process dies, or whose disk fails, at a bad moment; found by tests/simulation."""

import errno
import os

import clinic
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import RunNotResumable
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel, Party
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask
from consilo.kernel.verbs import count, verb
from consilo.machine import files
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read, verify
from consilo.transports.local import LocalTransport
from consilo.wire import params as tree
from consilo.wire.parcel import Arrival, Fault

KEY = Ed25519PrivateKey.generate()


class Dies(BaseException):
    """The process ends here."""


class BadDisk(files.Disk):
    """A disk that fails at its first write to a file of this name: it dies, or it is full."""

    def __init__(self, name, error):
        self.name, self.error = name, error

    def replace(self, old, new):
        self._look(new.name)
        super().replace(old, new)

    def write(self, file, data):
        self._look(os.path.basename(os.readlink(f"/proc/self/fd/{file.fileno()}")))
        super().write(file, data)

    def _look(self, name):
        if name == self.name and self.error is not None:
            error, self.error = self.error, None
            raise error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def hosts():
    return clinic.hosts(clinic.frames(30, 40))


def begun(hosts, directory, **settings):
    run = clinic.run_of(clinic.job(), hosts, directory, key=KEY, **settings)
    run.admit()
    if run.state is None:
        run.standardize()
    return run


def kinds(directory):
    return [each["kind"] for each in read(directory / "record.jsonl")]


def test_a_round_is_in_the_record_before_the_checkpoint_has_it_behind(hosts, tmp_path):
    place = tmp_path / "run"
    run = begun(hosts, place)
    with files.on(BadDisk("checkpoint.safetensors", Dies())), pytest.raises(Dies):
        run.train_round()
    assert kinds(place)[-1] == "round"
    again = begun(hosts, place, resume=True)
    assert again.rounds_left == 3
    again.train_all()
    again.close()
    rounds = [each["body"] for each in read(place / "record.jsonl") if each["kind"] == "round"]
    assert [each["round"] for each in rounds] == [1, 1, 2, 3]
    assert rounds[0]["params"] == rounds[1]["params"]
    undisturbed = begun(clinic.hosts(clinic.frames(30, 40)), tmp_path / "twin")
    undisturbed.train_all()
    assert rounds[-1]["params"] == tree.digest(undisturbed.params)


def test_a_run_that_died_while_it_ended_is_closed_as_it_ended(hosts, tmp_path, monkeypatch):
    run = begun(hosts, tmp_path)
    run.train_all()

    def dies(*_, **__):
        raise Dies

    monkeypatch.setattr(run._talk, "conclude", dies)
    with pytest.raises(Dies):
        run.close(model={"name": "clinic", "version": "1"})
    assert kinds(tmp_path)[-1] == "ending"
    with pytest.raises(RunNotResumable, match=r"had ended \(complete\)"):
        clinic.run_of(clinic.job(), hosts, tmp_path, key=KEY, resume=True)
    closing = verify(tmp_path / "record.jsonl", KEY.public_key().public_bytes_raw())
    assert closing["status"] == "complete"
    assert set(closing["silos"]) == set(hosts)
    model = [each["body"] for each in read(tmp_path / "record.jsonl") if each["kind"] == "model"]
    assert model == [
        {"params": tree.digest(run.params), "model": {"name": "clinic", "version": "1"}}
    ]
    with pytest.raises(RunNotResumable, match=r"has ended \(complete\)"):
        clinic.run_of(clinic.job(), hosts, tmp_path, key=KEY, resume=True)


def test_an_ending_that_failed_half_way_is_not_decided_again(hosts, tmp_path, monkeypatch):
    run = begun(hosts, tmp_path)
    run.train_all()
    told = []
    monkeypatch.setattr(run._talk, "conclude", lambda status, **_: told.append(status))
    close_record, failures = run.record.close, [FULL]

    def full(**said):
        if failures:
            raise failures.pop()
        return close_record(**said)

    monkeypatch.setattr(run.record, "close", full)
    with pytest.raises(OSError, match="No space"):
        run.close()
    result = run.close(FULL)  # as a flow does with whatever an ending raises
    assert result.status == "complete"
    assert told == ["complete", "complete"]
    assert verify(tmp_path / "record.jsonl")["status"] == "complete"


def test_a_record_goes_on_where_a_line_could_not_be_written(hosts, tmp_path):
    run = begun(hosts, tmp_path)
    with files.on(BadDisk("record.jsonl", FULL)), pytest.raises(OSError, match="No space"):
        run.train_round()
    run.close(FULL)
    again = begun(hosts, tmp_path, resume=True)
    again.train_all()
    again.close()
    assert verify(tmp_path / "record.jsonl")["status"] == "complete"


class Counts(Protocol):
    """Ask everybody for a number, in round 1."""

    def coordinate(self, fed, state):
        return (yield Ask(("east", "north"), "count", {}))

    @verb("count", replies={"n": count()})
    def count(self, silo, message):
        return {"n": len(silo.host.table)}


class Begun:
    round = 0


def test_a_silo_that_was_not_briefed_is_among_the_faults_of_the_round(hosts):
    class Cut(LocalTransport):
        def exchange(self, parcels, *, deadline_s):
            for arrival in super().exchange(parcels, deadline_s=deadline_s):
                is_brief = b'"protocol":"brief"' in parcels[arrival.silo].header
                lost = Arrival("north", None, Fault("deadline", "no answer"), 1.0)
                yield lost if is_brief and arrival.silo == "north" else arrival

    exchanges = []
    job = clinic.job(protocol={"name": "test_ending:Counts"})
    transport = Cut({name: answerer(host) for name, host in hosts.items()})
    kernel = Kernel(
        transport,
        run_id="run",
        job=job,
        contract=clinic.contract(),
        observe=exchanges.append,
        parties={name: Party() for name in hosts},
    )
    fed = Federation(tuple(hosts), job, clinic.contract(), transport.online)
    answers = kernel.run("test_ending:Counts", Counts(), fed, Begun())
    assert list(answers.replies) == ["east"]
    told = [
        (each.silo, each.verb, each.fault and each.fault.code) for each in exchanges if each.round
    ]
    assert told == [("north", "count", "deadline"), ("east", "count", None)]


def test_what_a_disk_kept_of_a_writer_that_it_failed_goes_with_the_end(hosts, tmp_path):
    """A full disk ends a writer, and a broken one keeps its file from being taken away."""
    folder = tmp_path / "runs" / "r1"
    run = begun(hosts, folder)

    class Failing(files.Disk):
        def sync(self, file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def unlink(self, path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with files.on(Failing()):
        for path in (folder / "checkpoint.safetensors", folder.parent / "pace.json"):
            with pytest.raises(OSError, match="No space left"):  # what went wrong first
                files.write_atomic(path, b"half")
    assert len([*folder.parent.rglob(".*")]) == 2
    run.close()
    assert [*folder.parent.rglob(".*")] == []


@pytest.mark.parametrize("room_for_a_line", [True, False])
def test_a_full_disk_is_no_end_of_a_run(hosts, tmp_path, room_for_a_line):
    """A checkpoint found no room; a line saying that the run has failed did, and it was over."""
    run = begun(hosts, tmp_path)
    run.train_round()
    with files.on(files.Disk() if room_for_a_line else BadDisk("record.jsonl", FULL)):
        result = run.close(FULL)
    assert result.status == "failed"
    assert "the coordinator's disk is full; make room; the run is not over" in result.reason
    assert "closed" not in kinds(tmp_path)
    assert (kinds(tmp_path)[-1] == "interrupted") is room_for_a_line
    again = begun(hosts, tmp_path, resume=True)
    again.train_all()
    assert again.close().status == "complete"
