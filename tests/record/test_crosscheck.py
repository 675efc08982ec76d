"""A run over real silos in this process; then somebody rewrites what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from three_silos import KEY, run_of, silos_in
from typer.testing import CliRunner

from consilo.errors import RecordTampered
from consilo.kernel.headers import ReplyHeader
from consilo.protocols.dispatch import answerer
from consilo.record import chain
from consilo.record.crosscheck import compare, signed_replies
from consilo.record.run_record import RunRecord, read
from consilo.runs.horizontal import run_all
from consilo.wire.parcel import Answer, Parcel
from silos.commands.app import app
from silos.silo import Silo


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Silo]]:
    folder = tmp_path_factory.mktemp("crosscheck")
    silos = silos_in(folder)
    result = run_all(run_of(folder / "run", silos))
    assert result.status == "complete", result.reason
    return folder / "run" / "record.jsonl", silos


def logs(silos: dict[str, Silo]) -> dict[str, list[dict]]:
    return {name: chain.verify(each.directory / "audit.jsonl") for name, each in silos.items()}


def test_record_and_logs_of_an_honest_run_tell_the_same(done) -> None:
    record, silos = done
    replies = signed_replies(read(record))
    # brief, check, moments, two rounds, evaluation and the end, of three silos
    assert len(replies) == 3 * 7
    for name, entries in logs(silos).items():
        assert compare(read(record), entries, name) == []
        asked = [each["body"] for each in entries if each["kind"] == "asked"]
        assert [each["verb"] for each in asked] == [
            "brief",
            "check",
            "moments",
            "train",
            "train",
            "evaluate",
            "conclude",
        ]
        assert {each["decision"] for each in asked} == {"allowed"}


def test_a_reply_in_the_record_is_the_silos_own(done, tmp_path: Path) -> None:
    entries = read(done[0])
    place = next(n for n, each in enumerate(entries) if each["kind"] == "replies")
    headers = entries[place]["body"]["headers"]
    for change in ({"content": "0" * 64}, {"silo": "south"}, {"head": "0" * 64}):
        forged = [{**headers[0], **change}, *headers[1:]]
        again = [*entries]
        again[place] = {**entries[place], "body": {"headers": forged}}
        with pytest.raises(RecordTampered, match="not signed by its silo"):
            signed_replies(again)


def test_a_silo_that_rewrites_its_log_is_found_out(done, tmp_path: Path) -> None:
    record, silos = done
    entries = logs(silos)["north"]
    path = tmp_path / "audit.jsonl"
    log = chain.Chain(path, now=lambda: "2026-01-01T00:00:00+00:00")
    for each in entries:  # a whole new chain, without what left in the second round
        if not (each["kind"] == "answered" and "delta" in each["body"]["fields"]):
            log.append(each["kind"], **each["body"])
    findings = compare(read(record), chain.verify(path), "north")
    assert any("not in the silo's log" in each for each in findings)


def test_a_coordinator_that_rewrites_its_record_is_found_out(done, tmp_path: Path) -> None:
    record, silos = done
    forged = RunRecord(tmp_path / "record.jsonl", KEY)
    for each in read(record)[:-1]:
        body = each["body"]
        if each["kind"] == "replies":  # as if the rounds had not been
            kept = [h for h in body["headers"] if h["silo"] != "north"]
            body = {"headers": kept}
        if each["kind"] == "opened":
            body = {**body, "purpose": "another"}
        forged.add(each["kind"], **body)
    forged.close(status="complete")
    findings = compare(read(forged.path), logs(silos)["north"], "north")
    assert any("record that is not this one" in each for each in findings)
    assert any("the record has no such reply" in each for each in findings)


def test_the_operator_holds_a_record_against_the_log_by_command(done, tmp_path: Path) -> None:
    record, silos = done
    folder = str(silos["north"].directory)
    good = CliRunner().invoke(
        app, ["audit", "verify", "--dir", folder, "--record", str(record), "--json"]
    )
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["findings"] == []
    shown = CliRunner().invoke(app, ["audit", "show", "--dir", folder, "--last", "100"])
    assert "delta" in shown.stdout
    assert "fedavg/train" in shown.stdout
    path = silos["east"].directory / "audit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"allowed", b"refused", 1))
    bad = CliRunner().invoke(app, ["audit", "verify", "--dir", str(silos["east"].directory)])
    path.write_bytes(whole)
    assert isinstance(bad.exception, RecordTampered)


def resigned(answer: Answer, **changes) -> Answer:
    """A silo's answers with a header that somebody on the way has changed."""

    def altered(parcel: Parcel) -> Parcel:
        reply = answer(parcel)
        fields = {**json.loads(reply.header), **changes}
        return Parcel(
            json.dumps(fields, sort_keys=True, separators=(",", ":")).encode(), reply.body
        )

    return altered


@pytest.mark.parametrize(
    "changes",
    [{"signature": ""}, {"signature": "00"}, {"content": "0" * 64}, {"seconds": 9.0}, {"wire": 1}],
    ids=str,
)
def test_a_reply_that_is_not_signed_as_it_came_drops_its_silo(tmp_path: Path, changes) -> None:
    silos = silos_in(tmp_path)
    run = run_of(
        tmp_path / "run",
        silos,
        lambda name, answer: resigned(answer, **changes) if name == "north" else answer,
    )
    fault = run.check("north")
    assert fault.code == "invalid_reply"
    assert run.check("south").passed


def test_a_body_exchanged_on_the_way_drops_its_silo(tmp_path: Path) -> None:
    silos = silos_in(tmp_path)

    def swapped(name: str, answer: Answer) -> Answer:
        if name != "north":
            return answer
        south = answerer(silos["south"])

        def other(parcel: Parcel) -> Parcel:
            mine = answer(parcel)
            header = json.loads(parcel.header)
            theirs = south(Parcel(json.dumps({**header, "silo": "south"}).encode(), parcel.body))
            assert ReplyHeader.decode(theirs.header).status == "fault"
            return Parcel(mine.header, mine.body + b" ")

        return other

    run = run_of(tmp_path / "run", silos, swapped)
    assert run.check("north").code == "invalid_reply"


def test_after_the_end_a_silo_answers_nothing_more_for_the_run(done) -> None:
    _, silos = done
    run_id = logs(silos)["north"][-1]["body"]["step"]
    assert run_id
    assert silos["north"].gate.store.is_concluded("run")


def test_a_ledger_that_was_cut_off_is_found_out(done) -> None:
    directory = done[1]["south"].directory
    run = ["audit", "verify", "--dir", str(directory)]
    assert CliRunner().invoke(app, run).exit_code == 0
    log = directory / "audit.jsonl"
    whole = log.read_bytes()
    chain.Chain(log).append("ledger", run="run", head="1" * 64)
    told = CliRunner().invoke(app, run)
    log.write_bytes(whole)
    assert told.exit_code == 1
    assert "ledger has not the entry" in told.stdout
