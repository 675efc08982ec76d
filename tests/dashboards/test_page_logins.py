"""Who may look at the page from elsewhere: users, roles, a proxy; too many tries are refused."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from consilo.cli import build
from consilo.errors import ConfigInvalid
from dashboards.logins import MOST_TRIES, TRIES_IN_S, PageConfig, Proxy, Tries, Users
from dashboards.reading.reading import Reading
from dashboards.server import serve_page
from dashboards.site import metrics_token, site_behind, site_with_login

THERE = "https://fed.example.org:8410"
RIGHT = "a long password"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def users(tmp_path: Path) -> Users:
    made = Users(tmp_path)
    made.add("mona", RIGHT, "viewer")
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outside(reading: Reading, users: Users, clock: Clock) -> TestClient:
    site = site_with_login(
        reading, users, port=8410, origins=frozenset([THERE]), tries=Tries(clock)
    )
    return TestClient(site.application(), base_url=THERE, follow_redirects=False)


def log_in(client: TestClient, name: str = "mona", password: str = RIGHT) -> Any:
    form = {"name": name, "password": password}
    return client.post("/login", data=form, headers={"origin": THERE})


def test_nobody_sees_a_page_without_a_login(outside: TestClient):
    for path in ("/", "/runs", "/silos/clinic-01"):
        answer = outside.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    assert outside.get("/live/").status_code == 401
    assert outside.get("/metrics").status_code == 401


def test_the_right_password_lets_in_and_logging_out_lets_out(outside: TestClient):
    answer = log_in(outside)
    cookie = answer.headers["set-cookie"].lower()
    assert {"httponly", "secure", "samesite=strict"} <= {e.strip() for e in cookie.split(";")}
    assert outside.get("/").status_code == 200
    token = re.findall(r'name="csrf" value="([^"]+)"', outside.get("/login").text)[0]
    assert outside.post("/logout", data={"csrf": "x"}, headers={"origin": THERE}).status_code == 403
    outside.post("/logout", data={"csrf": token}, headers={"origin": THERE})
    assert outside.get("/").status_code == 303


def test_a_user_who_is_taken_out_is_out_at_once(outside: TestClient, users: Users):
    log_in(outside)
    assert outside.get("/").status_code == 200
    users.remove("mona")
    assert outside.get("/").status_code == 303


def test_too_many_wrong_passwords_are_refused_for_a_while(outside: TestClient, clock: Clock):
    for _ in range(MOST_TRIES):
        assert log_in(outside, password="a wrong password").headers["location"] == "/login?wrong=1"
    assert log_in(outside).status_code == 429
    clock.now += TRIES_IN_S + 1
    assert log_in(outside).headers["location"] == "/"


def test_a_name_is_counted_wherever_the_tries_come_from(clock: Clock):
    tries = Tries(clock)
    for number in range(MOST_TRIES):
        tries.failed(f"from 10.0.0.{number}", "as mona")
    tries.require("from 10.0.0.77", "as otto")
    with pytest.raises(Exception, match="too many logins"):
        tries.require("from 10.0.0.77", "as mona")


def test_passwords_are_kept_as_argon2_in_a_file_of_its_users_own(users: Users):
    text = users.path.read_text()
    assert "$argon2id$" in text
    assert RIGHT not in text
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600
    assert users.role_of("mona", RIGHT) == "viewer"
    assert users.role_of("otto", RIGHT) is None
    with pytest.raises(ConfigInvalid, match="12 characters"):
        users.add("otto", "short", "viewer")


def test_a_declared_proxy_says_who_it_is_and_nobody_else_does(reading: Reading):
    proxy = Proxy(address="10.0.0.5", reviewers=["mona"])
    app = site_behind(reading, proxy, origins=frozenset([THERE])).application()
    said = {"x-forwarded-user": "mona"}
    there = TestClient(app, base_url=THERE, client=("10.0.0.5", 1), follow_redirects=False)
    other = TestClient(app, base_url=THERE, client=("10.0.0.6", 1), follow_redirects=False)
    assert there.get("/", headers=said).status_code == 200
    assert there.get("/").status_code == 401
    assert other.get("/", headers=said).status_code == 401


def test_metrics_from_elsewhere_want_their_token(outside: TestClient, reading: Reading):
    token = metrics_token(reading.home)
    answer = outside.get("/metrics", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert outside.get("/healthz").text == "ok\n"


def test_without_users_or_certificate_nothing_is_served_elsewhere(past_home: Any, tmp_path: Path):
    said: list[str] = []
    with pytest.raises(ConfigInvalid, match="certificate is not for"):
        serve_page(past_home[0], host="0.0.0.0", port=1, say=said.append)
    for name in ("a.crt", "a.key"):
        (tmp_path / name).write_text("")
    files = {"certificate": tmp_path / "a.crt", "key": tmp_path / "a.key"}
    with pytest.raises(ConfigInvalid, match="consilo page user add"):
        serve_page(past_home[0], host="0.0.0.0", port=1, say=said.append, **files)
    with pytest.raises(ConfigInvalid, match="no coordinator's directory"):
        serve_page(tmp_path, port=1, say=said.append)
    assert said == []


def test_what_page_yaml_says_is_checked(tmp_path: Path):
    assert PageConfig.load(tmp_path).proxy is None
    (tmp_path / "page.yaml").write_text("proxy: {adress: 10.0.0.5}\n")
    with pytest.raises(ConfigInvalid, match="address"):
        PageConfig.load(tmp_path)


def test_users_are_added_by_the_command(past_home: Any, tmp_path: Path):
    import shutil

    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(past_home[0] / "members.db", home)
    words = ["page", "user", "add", "otto", "--role", "reviewer", "--dir", str(home)]
    ended = CliRunner().invoke(build(), words, input="another password\n")
    assert ended.exit_code == 0, ended.output
    assert Users(home).role_of("otto", "another password") == "reviewer"
    listed = CliRunner().invoke(build(), ["page", "user", "list", "--dir", str(home)])
    assert "otto  reviewer" in listed.output
    wrong = CliRunner().invoke(build(), [*words[:5], "admin", *words[6:]])
    assert isinstance(wrong.exception, ConfigInvalid)
