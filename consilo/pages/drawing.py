"""Templates → pages: escaped, with what others wrote made visible, strict about missing values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from consilo.printable import printable_lines

HERE = Path(__file__).parent
_PART = "part_"


class Drawing:
    """The templates of one page and those that all share.

    ``m`` in a template is ``macros.html``; ``{{ … }}`` is escaped, and signs that cannot be seen
    are written out, whoever wrote them.

    Args:
        folder: the page's own templates.
    """

    def __init__(self, folder: Path) -> None:
        self.environment = Environment(
            loader=FileSystemLoader([folder, HERE / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
            auto_reload=False,
        )
        self.environment.filters |= {
            "number": number,
            "bytes": in_bytes,
            "when": when,
            "day": day,
            "short": short,
            "written": written,
        }
        self.environment.globals["asset"] = asset
        self.environment.globals["m"] = self.environment.get_template("macros.html").module

    def page(self, template: str, values: Mapping[str, Any]) -> str:
        """Return a whole page."""
        return self.environment.get_template(template).render(values)

    def parts(self, template: str, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the parts of a page that are drawn anew while it is open: its blocks ``part_…``.

        In the page each stands alone in an element with ``data-part="…"``.
        """
        loaded = self.environment.get_template(template)
        context = loaded.new_context(dict(values))
        return {
            name.removeprefix(_PART): "".join(block(context)).strip()
            for name, block in loaded.blocks.items()
            if name.startswith(_PART)
        }


def asset(name: str) -> str:
    """Return the address of a file in ``static/``; it changes with the content, so it is kept."""
    return f"/static/{name}?v={_versions[name]}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits; a dash where there is none.

    >>> number(0.123456), number(1234567), number(2.0), number(None)
    ('0.1235', '1,234,567', '2', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e12):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def in_bytes(value: float) -> str:
    """Return a size for people.

    >>> in_bytes(999), in_bytes(20_480), in_bytes(5 << 20)
    ('999 B', '20.0 KiB', '5.0 MiB')
    """
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def when(value: str | datetime | None) -> Markup | str:
    """Return a moment for people, in UTC, with the exact one for machines.

    >>> when("2026-11-27T13:40:01.123456+00:00")
    Markup('<time datetime="2026-11-27T13:40:01+00:00">2026-11-27 13:40:01</time>')
    """
    if value is None or value == "":
        return "–"
    at = value
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError:
            return str(value)
    at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).replace(microsecond=0)
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S}")


def day(value: str | datetime | None) -> Markup | str:
    """Return a day for people."""
    if value is None or value == "":
        return "–"
    text = value if isinstance(value, str) else value.isoformat()
    return Markup('<time datetime="{0}">{0}</time>').format(text[:10])


def short(digest: str, digits: int = 12) -> str:
    """Return the first digits of a hash."""
    return digest[:digits]


def written(value: Any) -> str:
    """Return plain JSON values as a person reads them, over several lines."""
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)


def _shown(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable_lines(value)
    return value


def _version(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


STATIC: Mapping[str, Path] = {each.name: each for each in sorted((HERE / "static").iterdir())}
"""The files that every page may name, by name."""
_versions = {name: _version(path) for name, path in STATIC.items()}
