"""Pictures of pages for the docs: both widths, both themes, in Debian's Chromium.

    python docs/screenshots.py http://127.0.0.1:8410 --out /tmp/pictures / /runs

``--enter PATH`` opens a one-time address first. Each picture is ``PAGE-WIDTH-THEME.png``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
WIDTHS = (390, 1440)
THEMES = ("light", "dark")
_HEIGHT = 900
_SETTLE_MS = 1_500


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="of the page's process")
    parser.add_argument("paths", nargs="+", help="of the pages, such as /runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--enter", default="", help="path with a one-time token, opened first")
    chosen = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chosen.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        state = None
        if chosen.enter:
            context = browser.new_context()
            context.new_page().goto(chosen.url + chosen.enter)
            state = context.storage_state()
        for theme in THEMES:
            for width in WIDTHS:
                context = browser.new_context(
                    viewport={"width": width, "height": _HEIGHT},
                    color_scheme=theme,  # type: ignore[arg-type]
                    storage_state=state,
                )
                page = context.new_page()
                for path in chosen.paths:
                    page.goto(chosen.url + path)
                    page.wait_for_timeout(_SETTLE_MS)
                    name = path.partition("?")[0].strip("/").replace("/", "-") or "first"
                    picture = chosen.out / f"{name}-{width}-{theme}.png"
                    page.screenshot(path=picture, full_page=True)
                    print(picture)
                context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
