"""The site that every page is: headers, Host, Origin, the one-time token, forms, hostile words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from consilo.errors import ConfigInvalid
from consilo.pages.drawing import Drawing
from consilo.pages.guarded import HEADERS, MOST_FORM_BYTES, loopback_origins
from consilo.pages.sessions import OneTimeToken, Session, Sessions
from consilo.pages.site import Form, Shown, Site

HERE = "http://127.0.0.1:8411"
HOSTILE = "<script>alert(1)</script>\"'\u202e\x1b[2J{{ 7*7 }}"
TEMPLATE = """{% extends "layout.html" %}
{% block body %}
{{ m.table("Words", ["name", "a number"], [[word, m.badge(word, "bad")]], numeric=[1]) }}
{{ m.facts([[word, word]]) }}{{ m.command(word) }}
<div data-part="now">
{% block part_now %}<b>{{ word }}</b>{{ m.badge("ready", "good") }}{% endblock %}
</div>
<form method="post" action="/say">{{ m.token(csrf) }}<button>Say</button></form>
{% endblock %}
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "words.html").write_text(TEMPLATE)
    sessions = Sessions("consilo_8411", now=Clock())
    made = Site(
        "silo north",
        Drawing(tmp_path),
        loopback_origins(8411),
        sessions,
        menu={"/": "Words"},
        token=OneTimeToken(sessions),
    )
    said: list[str] = []

    def words(request: Request) -> Shown:
        return Shown("words.html", {"title": HOSTILE, "word": HOSTILE})

    def say(request: Request, form: Form, session: Session) -> str:
        if form.get("word") == "odd":
            raise ConfigInvalid("word", [HOSTILE])
        said.append(form.get("word", ""))
        return "/"

    made.page("/", words, live=True)
    made.form("/say", say)
    made.said = said  # type: ignore[attr-defined]
    return made


@pytest.fixture
def client(site: Site) -> TestClient:
    return TestClient(site.application(), base_url=HERE, follow_redirects=False)


@pytest.fixture
def inside(site: Site, client: TestClient) -> TestClient:
    assert site.token is not None
    assert client.get(f"/enter?token={site.token.token}").status_code == 200
    return client


def _csrf(client: TestClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


def test_every_answer_has_the_headers(inside: TestClient) -> None:
    answers = [
        inside.get("/"),
        inside.get("/nowhere"),
        inside.get("/static/page.css"),
        inside.get("/static/../drawing.py"),
        inside.get("/", headers={"host": "evil.example"}),
        inside.post("/say"),
        inside.request("DELETE", "/"),
    ]
    assert [each.status_code for each in answers] == [200, 404, 200, 404, 421, 403, 405]
    for each in answers:
        assert {name: each.headers[name] for name in HEADERS} == dict(HEADERS)
    assert HEADERS["content-security-policy"] == (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    )
    assert answers[0].headers["cache-control"] == "no-store"


def test_a_page_holds_no_script_no_style_and_no_other_host(inside: TestClient) -> None:
    text = inside.get("/").text
    assert not re.search(
        r"<script(?! src=\"/static/page\.js\?v=[0-9a-f]{12}\" defer></script>)", text
    )
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:|https?://", text)


def test_what_others_wrote_is_text(inside: TestClient) -> None:
    text = inside.get("/").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert r"\u202e" in text
    assert "{{ 7*7 }}" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1:9999"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ({"host": "localhost:8411"}, 401),  # right, but the cookie is of 127.0.0.1
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1:8411"}, 403),
        ({"origin": HERE}, 200),
    ],
)
def test_host_and_origin_are_ours(inside: TestClient, headers: dict[str, str], status: int) -> None:
    cookies = {} if headers.get("host") == "localhost:8411" else dict(inside.cookies)
    inside.cookies.clear()
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    sent = {**headers, **({"cookie": cookie} if cookie else {})}
    assert inside.get("/", headers=sent).status_code == status


def test_the_token_opens_once(site: Site, client: TestClient) -> None:
    assert site.token is not None
    assert client.get("/").status_code == 401
    assert client.get("/enter").status_code == 401
    assert client.get("/enter?token=wrong").status_code == 401
    address = f"/enter?token={site.token.token}"
    first = client.get(address)
    assert first.status_code == 200
    cookie = first.headers["set-cookie"]
    assert re.fullmatch(
        r"consilo_8411=[\w-]{43}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie
    )
    assert client.get("/").status_code == 200
    again = TestClient(site.application(), base_url=HERE).get(address)
    assert again.status_code == 401
    assert "set-cookie" not in again.headers
    assert site.token.token not in again.text


def test_a_cookie_of_another_process_or_time_is_nobody(site: Site, inside: TestClient) -> None:
    clock = site.sessions.now
    assert isinstance(clock, Clock)
    other = Sessions("consilo_8411", now=clock)
    from starlette.responses import Response

    response = Response()
    other.begin(response, roles=frozenset())
    stolen = response.headers["set-cookie"].partition(";")[0]
    fresh = TestClient(site.application(), base_url=HERE)
    assert fresh.get("/", headers={"cookie": stolen}).status_code == 401
    assert inside.get("/").status_code == 200
    clock.now = 12 * 3600.0
    assert inside.get("/").status_code == 401


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, 303),
        ({"csrf": ""}, 403),
        ({"csrf": "ü"}, 403),
        ({"origin": None}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"kind": "text/plain"}, 415),
        ({"word": "x" * MOST_FORM_BYTES}, 413),
        ({"word": "odd"}, 409),
        ({"more": "&csrf=x"}, 400),
    ],
)
def test_a_form_counts_only_as_it_was_drawn(
    site: Site, inside: TestClient, changed: dict[str, str | None], status: int
) -> None:
    from urllib.parse import urlencode

    form = {"csrf": changed.get("csrf", _csrf(inside)), "word": changed.get("word", "hello")}
    headers = {"content-type": changed.get("kind", "application/x-www-form-urlencoded") or ""}
    origin = changed.get("origin", HERE)
    if origin is not None:
        headers["origin"] = origin
    body = urlencode(form) + (changed.get("more") or "")
    answer = inside.post("/say", content=body, headers=headers)
    assert answer.status_code == status
    assert "<script>alert" not in answer.text
    assert site.said == (["hello"] if status == 303 else [])  # type: ignore[attr-defined]


def test_nothing_is_changed_by_reading(site: Site, inside: TestClient) -> None:
    assert inside.get(f"/say?csrf={_csrf(inside)}&word=hello").status_code == 405
    assert site.said == []  # type: ignore[attr-defined]


def test_a_form_of_nobody_is_not_read(site: Site, client: TestClient) -> None:
    answer = client.post("/say", data={"csrf": "", "word": "x"}, headers={"origin": HERE})
    assert answer.status_code == 401
    assert site.said == []  # type: ignore[attr-defined]


def test_parts_are_what_the_page_holds(site: Site, inside: TestClient) -> None:
    parts = site.drawing.parts("words.html", {"word": HOSTILE})
    assert list(parts) == ["now"]
    assert parts["now"] in inside.get("/").text
    assert 'data-live="/live/"' in inside.get("/").text
    assert "<script" not in parts["now"]


def test_who_needs_no_token_has_a_session_for_forms(tmp_path: Path, site: Site) -> None:
    site.open_to_all, site.token = True, None
    client = TestClient(site.application(), base_url=HERE, follow_redirects=False)
    csrf = _csrf(client)
    assert _csrf(client) == csrf
    sent = {"csrf": csrf, "word": "hello"}
    assert client.post("/say", data=sent, headers={"origin": HERE}).status_code == 303
    stranger = TestClient(site.application(), base_url=HERE, follow_redirects=False)
    assert stranger.post("/say", data=sent, headers={"origin": HERE}).status_code == 403
