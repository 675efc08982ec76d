"""A real browser over pages: at two widths, in two themes, by keyboard, looked at by axe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = (390, 1440)
THEMES = ("light", "dark")


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Yield Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield opened
        finally:
            opened.close()


def violations(page: Any) -> list[str]:
    """Return what axe finds on a page: rule, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['html'][:90]}"
        for each in found
        for node in each["nodes"]
    ]


def overflow(page: Any) -> int:
    """Return by how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def by_keyboard(page: Any, *, most: int = 400) -> list[str]:
    """Press Tab through a page; return what was focused, and fail where nobody sees the focus."""
    seen: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => {
              const e = document.activeElement;
              if (!e || e === document.body) return null;
              const s = getComputedStyle(e);
              const box = e.getBoundingClientRect();
              return [e.tagName + ":" + (e.id || e.name || e.textContent.trim().slice(0, 30)),
                      s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2,
                      box.width > 0 && box.height > 0];
            }"""
        )
        if told is None:
            return seen
        name, outlined, is_there = told
        assert outlined, f"{name} is focused, and has no outline"
        assert is_there, f"{name} is focused, and has no size"
        seen.append(name)
    raise AssertionError(f"the focus goes on after {most} steps: {seen[-5:]}")
