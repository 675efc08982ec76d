"""The pages say what the records say, and what cannot be known is said to be unknown."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from consilo.machine.processes import free_port
from consilo.record.run_record import read
from dashboards.reading.asked import Asked, Told, freshen
from dashboards.reading.reading import Reading
from dashboards.reading.records import Records
from dashboards.reading.story import brief_of, read_story
from dashboards.site import site_here
from dashboards.views.changed import run_changes
from dashboards.views.drawn import absences, heat
from dashboards.views.health import KINDS, Part, parts_of, worst
from dashboards.views.standing import pace, sentence, under_way

Past = tuple[Path, list[Any]]


def test_every_page_is_there_and_names_nothing_elsewhere(client: TestClient, past_home: Past):
    made = past_home[1]
    both = "&".join(f"run={each.name}" for each in made[:2])
    paths = [
        "/",
        "/runs",
        "/promotion",
        f"/runs/{made[3].name}",
        "/silos/clinic-01",
        f"/compare?{both}",
    ]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert not re.findall(r'(?:src|href)="(?!/|#)', answer.text), path
        assert "<script>" not in answer.text, path
        assert 'style="' not in answer.text, path


def test_what_is_not_there_is_said(client: TestClient, past_home: Past):
    for path in ("/runs/no-such", "/silos/no-such", "/runs/..%2f..%2fkeys", "/compare?run=a&run=b"):
        assert client.get(path).status_code == 404, path
    assert client.get("/compare?run=a").status_code == 400


def test_nobody_is_said_to_be_online_where_nobody_can_say(client: TestClient):
    page = client.get("/").text
    assert "broken" in page
    assert "no federation is up" in page
    assert "nobody can say who is there" in page
    assert not re.search(r"</svg>online</span>", page)


def test_numbers_of_a_run_are_those_of_its_record(client: TestClient, past_home: Past):
    home, made = past_home
    name = made[3].name
    entries = read(home / "runs" / name / "record.jsonl")
    closed = entries[-1]["body"]
    rounds = [each["body"] for each in entries if each["kind"] == "round"]
    page = client.get(f"/runs/{name}").text
    assert f"{len(rounds)} of 4" in page
    epsilon = max(each["epsilon"] or 0.0 for each in closed["silos"].values())
    assert f"{epsilon:.4g}" in page
    for figure, value in closed["metrics"].items():
        assert figure in page
        assert f"{value:.4g}" in page
    out = next(n for n, each in closed["silos"].items() if each["status"] == "left_out")
    assert f"{out} was left out: its data do not keep the contract." in page
    trained = sum(p["outcome"] == "trained" for each in rounds for p in each["participation"])
    assert (
        brief_of(read_story(home / "runs" / name / "record.jsonl")).outcomes["trained"] == trained
    )


def test_a_silos_page_has_its_verdicts(client: TestClient, past_home: Past):
    out = past_home[1][3].reason.partition(" ")[0]
    page = client.get(f"/silos/{out}").text
    assert "failed" in page
    assert "range" in page


def test_the_picture_has_every_cell_and_its_reason(past_home: Past):
    home, made = past_home
    story = read_story(home / "runs" / made[3].name / "record.jsonl")
    rows = heat(story).rows
    cells = 0
    for _, span, _, _ in rows:
        first, _, last = span.partition("–")
        cells += int(last or first) - int(first) + 1
    assert cells == 4 * 4
    assert ("left out", 4) in {(what, n) for _, what, n, _ in absences(story)}
    assert all(why for _, _, _, why in absences(story))


class TestRecords:
    """The list of runs, and whether a record is whole."""

    @pytest.fixture
    def home(self, past_home: Past, tmp_path: Path) -> Path:
        shutil.copytree(past_home[0], tmp_path / "home")
        return tmp_path / "home"

    def test_a_whole_record_is_verified_and_a_changed_byte_is_found(self, home: Path):
        records = Records(home)
        name = records.briefs()[0].name
        assert records.known_check(name) is None
        found = records.checked(name)
        assert found is not None
        assert found.is_whole
        assert records.known_check(name) == found
        path = home / "runs" / name / "record.jsonl"
        path.write_bytes(
            path.read_bytes().replace(b'"outcome":"trained"', b'"outcome":"trainee"', 1)
        )
        assert records.known_check(name) is None
        again = records.checked(name)
        assert again is not None
        assert not again.is_whole
        assert "line" in again.words

    def test_a_record_of_another_coordinator_is_not_taken_for_ours(self, home: Path):
        from consilo.membership.keys import load_or_create_signing_key

        (home / "keys" / "record.key").unlink()
        load_or_create_signing_key(home / "keys" / "record.key")
        records = Records(home)
        found = records.checked(records.briefs()[0].name)
        assert found is not None
        assert not found.is_whole
        assert "no key of this coordinator" in found.words

    def test_a_run_that_grows_is_read_again_and_a_torn_line_is_left(self, home: Path):
        records = Records(home)
        name = records.briefs()[0].name
        path = home / "runs" / name / "record.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        number = next(n for n, each in enumerate(lines) if b'"kind":"round"' in each)
        path.write_bytes(b"".join(lines[: number + 1]) + b'{"body":{"round":9')
        brief = records.brief(name)
        assert brief is not None
        assert (brief.done, brief.status) == (1, "")
        assert records.checked(name) is None
        path.write_bytes(b"".join(lines))
        brief = records.brief(name)
        assert brief is not None
        assert (brief.done, brief.status) == (4, "complete")

    def test_a_record_that_is_none_is_listed_as_unreadable(self, home: Path):
        records = Records(home)
        name = records.briefs()[0].name
        (home / "runs" / name / "record.jsonl").write_bytes(b'{"kind": 3}\n')
        assert records.brief(name).status == "unreadable"  # type: ignore[union-attr]
        client = TestClient(
            site_here(Reading(home), port=8410).application(), base_url="http://127.0.0.1:8410"
        )
        assert client.get("/runs").status_code == 200
        assert client.get(f"/runs/{name}").status_code == 200

    def test_the_page_of_a_run_whose_record_was_changed_says_so(self, home: Path):
        reading = Reading(home)
        name = reading.records.briefs()[0].name
        path = home / "runs" / name / "record.jsonl"
        path.write_bytes(
            path.read_bytes().replace(b'"outcome":"trained"', b'"outcome":"trainee"', 1)
        )
        reading.records.checked(name)
        client = TestClient(
            site_here(reading, port=8410).application(), base_url="http://127.0.0.1:8410"
        )
        assert "not whole" in client.get(f"/runs/{name}").text
        assert "record not whole" in client.get("/").text


def test_settings_that_differ_between_runs_are_told(past_home: Past):
    home, made = past_home
    first, second = (read_story(home / "runs" / each.name / "record.jsonl") for each in made[:2])
    told = {what for what, _, _ in run_changes(first, second)}
    assert "job: local.lr" in told or first.job == second.job
    assert "code" in told  # each of the made-up runs has its own


def test_what_a_run_is_at_and_who_is_late(past_home: Past):
    home, made = past_home
    story = read_story(home / "runs" / made[0].name / "record.jsonl")
    live = {
        "stage": "train",
        "round": 5,
        "since": 1000.0,
        "bytes": 7,
        "silos": {
            "clinic-01": {"state": "at work"},
            "clinic-02": {"state": "answered", "verb": "train", "seconds": 1.5},
            "clinic-03": {"state": "unreachable", "verb": "train", "seconds": 0.1},
        },
    }
    early, late = under_way(story, live, 1000.5), under_way(story, live, 1030.0)
    assert early is not None
    assert late is not None
    assert [row[1] for row in early.rows] == ["at work", "answered", "unreachable"]
    assert [row[1] for row in late.rows] == ["late", "answered", "unreachable"]
    assert under_way(story, {}, 1.0) is None


def test_time_left_has_a_range(past_home: Past):
    home, made = past_home
    story = read_story(home / "runs" / made[0].name / "record.jsonl")
    last = max(story.rounds)
    del story.rounds[last], story.round_times[last]
    found = pace(story, datetime_of(story.last))
    assert found.low is not None
    assert found.left is not None
    assert found.high is not None
    assert found.low <= found.left <= found.high
    assert found.slowest


def datetime_of(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


def test_every_status_has_a_plain_sentence(past_home: Past):
    home, made = past_home
    story = read_story(home / "runs" / made[3].name / "record.jsonl")
    assert sentence(story).startswith("Enough silos were there for a result")
    assert sentence(story).endswith("contract.")
    story.status, story.reason = "failed", "QuorumLost: two of three"
    assert sentence(story) == "There is no model. QuorumLost: two of three."


def test_the_health_word_is_that_of_the_worst_part(reading: Reading):
    reading.freshen(wait_s=5)
    parts = parts_of(reading, reading.silos())
    assert worst(parts).kind == "bad"
    assert {each.kind for each in parts} <= set(KINDS)
    assert worst([Part("a", "good", "", ""), Part("b", "warn", "", "")]).name == "b"


class TestAsked:
    """A server is asked once for all who look, and its last answer is kept with its time."""

    def test_an_answer_is_kept_with_its_time_when_the_server_goes(self, reading: Reading):
        clock, answers = [100.0], [["north"]]

        def question() -> list[str]:
            if not answers:
                raise OSError("away")
            return answers[-1]

        asked = Asked(question, fresh_s=5.0, pool=reading._pool, now=lambda: clock[0])
        assert asked.told == Told()
        freshen([asked], wait_s=5)
        assert (asked.told.value, asked.told.at, asked.told.error) == (["north"], 100.0, "")
        clock[0], answers[:] = 200.0, []
        freshen([asked], wait_s=5)
        assert (asked.told.value, asked.told.at) == (["north"], 100.0)
        assert asked.told.error == "OSError: away"

    def test_nobody_is_asked_twice_for_one_answer(self, reading: Reading):
        times: list[int] = []
        asked = Asked(lambda: times.append(1) or time.sleep(0.05), fresh_s=60.0, pool=reading._pool)
        freshen([asked, asked], wait_s=5)
        freshen([asked], wait_s=5)
        assert len(times) == 1


def test_a_free_port_is_none_of_a_servers(reading: Reading):
    assert free_port() > 0
    assert reading.is_ready()
    reading.warm()
    reading._warming.result(10)  # type: ignore[union-attr]
    assert reading.is_ready() == ""
