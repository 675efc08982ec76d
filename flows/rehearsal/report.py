"""The survival matrix as one HTML page that asks no other host for anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from consilo.jobs.job import Job
from consilo.machine.files import write_atomic
from flows.rehearsal.survival import Survival

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Rehearsal of {{ job.name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1b1f24; background: #fff }
table { border-collapse: collapse; width: 100% }
caption { text-align: left; padding-bottom: .5rem }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem }
tr { border-bottom: 1px solid #d0d7de }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.kept { color: #116329 } .broken { color: #a40e26; font-weight: 600 } .unplayed { color: #57606a }
</style>
</head>
<body>
<main>
<h1>Rehearsal of {{ job.name }}</h1>
<p>{{ kept }} of {{ played }} faults ended as the job promises{% if unplayed %};
{{ unplayed }} could not be played here{% endif %}.
Job digest <code>{{ job.digest[:12] }}</code>, {{ made_at }}.</p>
<table>
<caption>What the federation survives: silos of this machine, one run a fault.</caption>
<thead><tr>
<th scope="col">fault</th><th scope="col">struck</th><th scope="col">must</th>
<th scope="col">as promised</th><th scope="col">status</th><th scope="col">rounds lost</th>
<th scope="col">went on after</th><th scope="col">result equal</th><th scope="col">orphans</th>
<th scope="col">what happened</th>
</tr></thead>
<tbody>
{% for each in found %}
<tr>
<th scope="row">{{ each.fault }}</th><td>{{ each.part }}</td><td>{{ each.promise }}</td>
<td class="{{ classes[each.kept] }}">{{ words[each.kept] }}</td><td>{{ each.status }}</td>
<td class="number">{{ each.rounds_lost }}</td>
<td class="number">{% if each.seconds is not none %}{{ each.seconds }} s{% endif %}</td>
<td>{{ {true: "yes", false: "no"}.get(each.equal, "") }}</td>
<td class="number">{{ each.orphans }}</td><td>{{ each.happened }}</td>
</tr>
{% endfor %}
</tbody>
</table>
</main>
</body>
</html>
"""


def write_report(path: Path, job: Job, found: Sequence[Survival]) -> None:
    """Write the matrix of a rehearsal as a page.

    Args:
        path: the file.
        job: what was rehearsed.
        found: what became of each fault.
    """
    from jinja2 import Environment, StrictUndefined

    pages = Environment(autoescape=True, undefined=StrictUndefined)
    page = pages.from_string(_PAGE).render(
        job=job,
        found=found,
        kept=sum(each.kept is True for each in found),
        played=sum(each.kept is not None for each in found),
        unplayed=sum(each.kept is None for each in found),
        classes={True: "kept", False: "broken", None: "unplayed"},
        words={True: "yes", False: "no", None: "not possible here"},
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    write_atomic(path, page.encode())
