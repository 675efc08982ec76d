"""How fast the federation's pages are with a year's runs: 100 runs × 20 silos × 50 rounds.

Real services on this machine (SuperLink, Prefect, MLflow, the page's process), records that verify,
MLflow's and Prefect's entries, all made up (`page_data`). Each page is opened in Chromium, cold:
nothing of it was looked at before, and the browser has no cache. Without Chromium a page and what
it names are fetched over HTTP instead. The figures are those of the slowest page:

    first_byte_ms            until the first byte of the page; the goal is below 300
    whole_s                  until all of it is loaded and drawn; the goal is below 1.5
    requests                 that the browser makes; the goal is 5
    kib                      that are transferred, and unpacked, in KiB; the goal is 200
    ready_s                  from the start of the page's process until its pages can be drawn
"""

from __future__ import annotations

import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from page_data import Past, now, write_past, write_tracked
from report import Report, columns, load_now, options, say, sized

from consilo.errors import ConsiloError
from consilo.machine.processes import Supervisor, free_port
from flows.services.federation import rise
from flows.services.services import start_page

CHROMIUM = Path("/usr/bin/chromium")


@dataclass(frozen=True)
class Opened:
    """One page, opened once.

    Args:
        first_byte_ms: until its first byte.
        whole_s: until the browser says that it is loaded.
        requests: made until then, and a second longer.
        kib: of all their answers, unpacked.
    """

    first_byte_ms: float
    whole_s: float
    requests: int
    kib: float


def main() -> int:
    """Run from the command line."""
    chosen = options(__doc__).parse_args()
    load = load_now()
    past = sized(chosen, full=Past(), quick=Past(30, 20, 50), smoke=Past(3, 4, 5))
    try:
        with tempfile.TemporaryDirectory(prefix="consilo-page-") as place, Supervisor() as services:
            found, ready_s = measured(Path(place) / "home", past, services)
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    figures = {
        "first_byte_ms": max(each.first_byte_ms for each in found.values()),
        "whole_s": max(each.whole_s for each in found.values()),
        "requests": max(each.requests for each in found.values()),
        "kib": max(each.kib for each in found.values()),
        "ready_s": ready_s,
    }
    rows: list[tuple[str, ...]] = [("page", "first byte, ms", "whole, s", "requests", "KiB")]
    for path, each in found.items():
        rows.append(
            (
                path,
                f"{each.first_byte_ms:.0f}",
                f"{each.whole_s:.2f}",
                str(each.requests),
                f"{each.kib:.0f}",
            )
        )
    Report("page", chosen.size, load, figures).show(as_json=chosen.json, table=columns(rows))
    return 0


def measured(home: Path, past: Past, services: Supervisor) -> tuple[dict[str, Opened], float]:
    """Make the past of a federation, start its page, and open all of its pages.

    Args:
        home: the coordinator's directory; new.
        past: how much there is.
        services: starts and ends them.
    """
    addresses = rise(services, home, {}, say=say).wait()
    began = time.monotonic()
    made = write_past(home, past, until=now())
    database = home / "mlflow" / "mlflow.db"
    write_tracked(made, addresses.tracking_uri, database, addresses.prefect_api)
    say(f"{past.runs} runs made up in {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    page = start_page(services, home, port=free_port())  # a second one, which knows nothing yet
    page.wait()
    while not _is_ready(page.url):
        time.sleep(0.02)
    ready_s = time.monotonic() - began
    say(f"ready after {ready_s:.1f} s")
    newest, older = made[-1].name, [each.name for each in made[:-1][-6:]]
    paths = ["/", "/runs", f"/runs/{newest}", f"/runs/{made[0].name}", f"/silos/{past.names[0]}"]
    paths += ["/compare?" + "&".join(f"run={name}" for name in older)]
    return open_all(page.url, paths), ready_s


def open_all(url: str, paths: Sequence[str]) -> dict[str, Opened]:
    """Open each page once, in the order given."""
    if not CHROMIUM.exists():
        return {path: fetched(url, path) for path in paths}
    from playwright.sync_api import sync_playwright

    found: dict[str, Opened] = {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        warm = browser.new_page()  # the browser itself takes a second to come up
        warm.goto(url + "/static/mark.svg")
        warm.close()
        for path in paths:
            found[path] = _in_browser(browser, url, path)
            say(f"{path[:60]}: {found[path]}")
        browser.close()
    return found


def _in_browser(browser: Any, url: str, path: str) -> Opened:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    requests: list[str] = []
    answers: list[Any] = []
    page.on("request", lambda each: requests.append(each.url))
    page.on("response", lambda each: answers.append(each))  # noqa: PLW0108
    began = time.perf_counter()
    answer = page.goto(url + path, wait_until="load")
    whole_s = time.perf_counter() - began
    if answer is None or answer.status != 200:
        raise ConsiloError(f"{path}: status {None if answer is None else answer.status}")
    timing: Mapping[str, float] = answer.request.timing
    page.wait_for_timeout(1_000)
    whole = [each for each in answers if "event-stream" not in each.headers["content-type"]]
    sizes = [len(each.body()) for each in whole]  # a stream has no end
    context.close()
    return Opened(
        timing["responseStart"] - max(0.0, timing["requestStart"]),
        whole_s,
        len(requests),
        sum(sizes) / 1024,
    )


def fetched(url: str, path: str) -> Opened:
    """Fetch a page, and what it names, as a browser does that takes one after the other."""
    import re

    began = time.perf_counter()
    with urllib.request.urlopen(url + path, timeout=30) as answer:
        first = answer.read(1)
        first_byte_ms = 1000 * (time.perf_counter() - began)
        page = first + answer.read()
    size, requests = len(page), 1
    for each in re.findall(rb'(?:href|src)="(/static/[^"]+)"', page):
        with urllib.request.urlopen(url + each.decode(), timeout=30) as answer:
            size, requests = size + len(answer.read()), requests + 1
    requests += b"data-live" in page
    return Opened(first_byte_ms, time.perf_counter() - began, requests, size / 1024)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
