"""Requests that nobody signed: what they leave in the audit log, and what is shown of it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from forged import KEY, NOW, ask, log, north, request
from typer.testing import CliRunner

from consilo.cli import build
from consilo.kernel.headers import Header, Manifest, ReplyHeader
from consilo.printable import PrintableFormatter, printable, printable_lines
from consilo.protocols.dispatch import answerer
from consilo.record.chain import verify
from consilo.wire.parcel import Parcel

ESCAPES = "x\x1b]0;owned\x07\x1b[2Jrun"
BIDI = "run\u202egpj.exe\u2066"
C1 = "run\x9b2J"


@pytest.fixture
def silo(tmp_path):
    return north(tmp_path / "north")


def size(silo) -> int:
    path = silo.directory / "audit.jsonl"
    return path.stat().st_size if path.exists() else 0


def unsigned(**changes) -> Parcel:
    header = Header("run", "1/0/check", "0" * 64, 1, "north", "c", "check", ("north", "south"))
    return Parcel(replace(header, **changes).encode(), b"")


LONG = "r" * 5_000_000
FIELDS = ("run_id", "scope", "content", "protocol", "verb", "head", "signature", "silo")


@pytest.mark.parametrize("name", FIELDS)
def test_an_unsigned_request_of_any_size_leaves_little_in_the_log(silo, name):
    reply = answerer(silo)(unsigned(**{name: LONG}))
    assert ReplyHeader.decode(reply.header).status == "fault"
    assert size(silo) < 4000


@pytest.mark.parametrize("name", ["run_id", "job", "job_digest", "contract", "purpose", "bundle"])
def test_nor_does_its_manifest(silo, name):
    answerer(silo)(unsigned(manifest=replace(Manifest(), **{name: "x" * 900_000})))
    assert size(silo) < 4000


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": tuple(f"silo-{n}" for n in range(9_000))},
        {"cohort": ("n" * 900_000,)},
        {"attestations": {f"silo-{n}": "a" * 100 for n in range(7_000)}},
        {"attestations": {"a" * 900_000: ""}},
        {"attestations": {"north": "a" * 900_000}},
    ],
)
def test_nor_do_its_names_of_silos(silo, changes):
    answerer(silo)(unsigned(**changes))
    assert size(silo) < 4000


@pytest.mark.parametrize("text", [ESCAPES, BIDI, C1, "two\nlines"])
@pytest.mark.parametrize("name", ["run_id", "scope", "protocol", "verb"])
def test_nothing_that_moves_a_cursor_reaches_the_log_even_signed(silo, name, text):
    for key in (None, KEY):
        assert ask(silo, request(key=key, **{name: text})).status == "fault"
    for entry in log(silo):
        assert all(str(value).isprintable() for value in entry.values())


def test_a_flood_is_counted_and_not_written(silo):
    for number in range(60):
        answerer(silo)(unsigned(run_id=f"run-{number}"))
    flooded = size(silo)
    for number in range(200):
        answerer(silo)(unsigned(run_id=f"another-{number}"))
        answerer(silo)(Parcel(b"no header", b""))
    assert size(silo) == flooded < 60_000
    silo.gate.now = lambda: NOW + 601
    answerer(silo)(unsigned(run_id="later"))
    lines = [each for each in log(silo) if each["kind"] == "folded"]
    assert len(lines) == 1
    # Each request is two lines: what was asked, and what was said to it; no header is one.
    assert lines[0]["lines"] == 2 * 60 + 2 * 200 + 200 - 40
    verify(silo.directory / "audit.jsonl")


def test_a_flood_does_not_keep_the_coordinator_out(silo):
    for number in range(60):
        answerer(silo)(unsigned(run_id=f"run-{number}"))
    header = ask(silo, request())
    assert header.status == "ok"
    assert verify(silo.directory / "audit.jsonl")[-1]["hash"] == header.head


@pytest.mark.parametrize(
    ("issued", "expires"),
    [(NOW, NOW + 24 * 3600 + 1), (NOW, 1e15), (0.0, NOW + 60)],
)
def test_a_request_lives_a_day_at_most(silo, issued, expires):
    assert ask(silo, request(issued=issued, expires=expires)).status == "fault"
    assert [each["code"] for each in log(silo) if "decision" in each] == ["life"]


def test_what_is_shown_of_a_log_is_printable(silo):
    # A line as an earlier release wrote it.
    silo.gate.log.append(
        "asked",
        run=ESCAPES + BIDI,
        protocol="p" * 9_000,
        verb=C1,
        decision="refused",
        reason="\x07",
    )
    silo.gate.log.append("match", partner=BIDI, note=C1)
    shown = CliRunner().invoke(build(), ["silo", "audit", "show", "--dir", str(silo.directory)])
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert len(lines) == 2
    assert all(each.isprintable() and len(each) < 4_000 for each in lines)
    whole = CliRunner().invoke(
        build(), ["silo", "audit", "show", "--json", "--dir", str(silo.directory)]
    )
    assert json.loads(whole.stdout)["entries"][0]["body"]["run"] == ESCAPES + BIDI
    assert whole.stdout.strip().isprintable()


@pytest.mark.parametrize("text", [ESCAPES, BIDI, C1, "a\u2028b", "\ud800"])
def test_text_is_written_out_where_it_is_not_to_be_seen(text):
    assert printable(text).isprintable()
    assert printable_lines(text).isprintable()
    record = logging.LogRecord("n", logging.INFO, "f", 1, "%s", (text,), None)
    assert PrintableFormatter("%(message)s").format(record).isprintable()


@pytest.mark.parametrize("most", [1, 2, 5, 10])
def test_text_is_cut_with_what_it_became(most):
    assert len(printable("\x1b" * 100, most=most)) <= most
    assert printable("ab", most=2) == ("ab" if most else "")
