"""A card as one HTML file: no script, no outside request, dark and light, from 390 px on."""

from __future__ import annotations

import html

from consilo.cards.document import Block, Bullets, Cell, Document, Paragraph
from consilo.printable import printable

_CSS = """
:root{color-scheme:light dark;
--ink:#1b1f24;--soft:#4b5560;--page:#fff;--line:#c9d1d9;--band:#f3f5f7}
@media (prefers-color-scheme:dark){
:root{--ink:#e6e9ec;--soft:#a9b3bd;--page:#14181c;--line:#3a434c;--band:#1e242a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:1rem/1.55 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
p,li{overflow-wrap:anywhere;max-width:46rem}
p.lead{font-size:1.1rem;color:var(--soft)}
.scroll{overflow-x:auto;margin:.75rem 0}
table{border-collapse:collapse;min-width:100%;font-size:.92rem}
caption{text-align:left;color:var(--soft);padding:.25rem 0}
th,td{border:1px solid var(--line);padding:.35rem .55rem;text-align:left;vertical-align:top}
th{background:var(--band)}
td{overflow-wrap:anywhere;min-width:4.5rem}
code{font:.86em ui-monospace,monospace;background:var(--band);padding:.05em .25em;
overflow-wrap:anywhere}
:focus-visible{outline:3px solid #2f6fde;outline-offset:2px}
@media print{.scroll{overflow:visible}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(card: Document) -> str:
    """Return the whole page."""
    sections = []
    for section in card.sections:
        blocks = "\n".join(_block(each, section.title) for each in section.blocks)
        sections.append(f"<section>\n<h2>{escaped(section.title)}</h2>\n{blocks}\n</section>")
    body = "\n".join(sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="referrer" content="no-referrer">
<title>{escaped(card.title)}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<h1>{escaped(card.title)}</h1>
<p class="lead">{escaped(card.lead)}</p>
{body}
</main>
</body>
</html>
"""


def escaped(text: str) -> str:
    """Return text on one line that HTML shows as it is, in an element or a quoted attribute.

    >>> escaped('<b onclick="x">\\n&amp;')
    '&lt;b onclick=&quot;x&quot;&gt; &amp;amp;'
    """
    return html.escape(printable(" ".join(text.split())), quote=True)


def _cell(cell: Cell) -> str:
    return escaped(cell) if isinstance(cell, str) else f"<code>{escaped(cell.text)}</code>"


def _block(block: Block, title: str) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{_cell(block.text)}</p>"
    if isinstance(block, Bullets):
        points = "".join(f"<li>{_cell(each)}</li>" for each in block.points)
        return f"<ul>{points}</ul>"
    head = "".join(f'<th scope="col">{escaped(each)}</th>' for each in block.head)
    rows = "\n".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td>{_cell(each)}</td>" for each in row[1:])
        + "</tr>"
        for row in block.rows
    )
    named = escaped(block.caption or title)
    return (
        f'<div class="scroll" role="region" aria-label="{named}" tabindex="0">\n<table>'
        f"<caption>{named}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
        "</table>\n</div>"
    )
