"""One run as its record tells it, in the shape that pages draw."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from consilo.machine.locks import share_open
from consilo.record.participation import Part

_REPLIES = b'"kind":"replies","prev":"'
"""Near the end of the longest lines, which hold signatures; a page shows none of them."""
_TAIL = 400
UNREADABLE = "unreadable"
_FACTS = ("candidate", "matched", "asked")
"""Kinds of lines that lists show something of."""


@dataclass(frozen=True)
class Verdict:
    """What a contract check said.

    Args:
        verdict: ``passed``, ``failed`` or ``not_checked``.
        reason: why not passed.
        broken: (rule, column) of each rule that is broken; the column is empty for the table.
        warned: likewise, of those that only warn.
    """

    verdict: str
    reason: str = ""
    broken: tuple[tuple[str, str], ...] = ()
    warned: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Ended:
    """A silo's part in a run that has ended, as the last line says."""

    status: str
    reason: str
    rounds: int
    num_examples: int
    epsilon: float | None


@dataclass
class Story:
    """A run, from its record.

    Args:
        name: of the run.
        path: of its record.
        opened: the first line's body; empty where it is not there.
        began: when it was opened, ISO 8601 in UTC.
        last: when the newest line was written.
        kind: of the newest line.
        status: complete, degraded, failed; empty while the record is open; ``unreadable``.
        reason: why so.
        verdicts: silo → what its contract check said last.
        rounds: number → silo → its part.
        times: (kind of line, when), in order, without signatures of replies.
        round_times: number → when its line was written.
        evaluated: the body of its line; empty where it was not evaluated.
        silos: silo → its part in a run that has ended.
        model: of the registry; empty where none was registered.
        waiting: the newest line about waiting, while the run waits; else empty.
        facts: bodies of other lines that pages show, by kind: the newest of each.
        interruptions: how often a process of the run was cut off or another one went on.
    """

    name: str
    path: Path
    opened: Mapping[str, Any] = field(default_factory=dict)
    began: str = ""
    last: str = ""
    kind: str = ""
    status: str = ""
    reason: str = ""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    rounds: dict[int, dict[str, Part]] = field(default_factory=dict)
    times: list[tuple[str, str]] = field(default_factory=list)
    round_times: dict[int, str] = field(default_factory=dict)
    evaluated: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    silos: dict[str, Ended] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    waiting: Mapping[str, Any] = field(default_factory=dict)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    interruptions: int = 0

    @property
    def job(self) -> Mapping[str, Any]:
        """What was asked."""
        found: Mapping[str, Any] = self.opened.get("job") or {}
        return found

    @property
    def job_name(self) -> str:
        """The job's name; empty where the record does not say."""
        return str(self.job.get("name", ""))

    @property
    def contract(self) -> str:
        """The contract's reference."""
        return str(self.opened.get("contract", ""))

    @property
    def asked(self) -> tuple[str, ...]:
        """Silos that might be asked, sorted."""
        return tuple(self.opened.get("silos") or ())

    @property
    def planned(self) -> int:
        """How many rounds the job has; 0 where it has none."""
        protocol = self.job.get("protocol")
        return int(protocol.get("rounds") or 0) if isinstance(protocol, Mapping) else 0

    @property
    def is_over(self) -> bool:
        """Whether the record is closed, or cannot be read."""
        return bool(self.status)


@dataclass(frozen=True)
class Brief:
    """A run in a line of a list: what stays in memory of each."""

    name: str
    job: str
    kind: str
    contract: str
    status: str
    reason: str
    began: str
    last: str
    last_kind: str
    asked: tuple[str, ...]
    planned: int
    done: int
    trained: tuple[str, ...]
    verdicts: Mapping[str, Verdict]
    epsilon: Mapping[str, float]
    faults: Mapping[str, tuple[str, str]]
    outcomes: Mapping[str, int]
    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]
    metrics: Mapping[str, float]
    model: str
    waiting: str
    digests: tuple[str, str, str]
    facts: Mapping[str, Mapping[str, Any]]


def read_story(path: Path) -> Story:
    """Return a run as its record tells it; a line that is being written is left for the next time.

    Nothing is checked here: whether the record is whole is another question, and dearer.

    Args:
        path: of the record.
    """
    story = Story(path.parent.name, path)
    try:
        for entry in _entries(path):
            _take(story, entry)
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        story.status = UNREADABLE
        story.reason = f"its record cannot be read ({type(cause).__name__} after {story.kind})"
    return story


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        share_open(file)
        whole, _, _ = file.read().rpartition(b"\n")
    for line in whole.split(b"\n"):
        if line and _REPLIES not in line[-_TAIL:]:
            yield json.loads(line)


def _take(story: Story, entry: Mapping[str, Any]) -> None:
    kind, body, time = str(entry["kind"]), entry["body"], str(entry["time"])
    story.kind, story.last = kind, time
    story.times.append((kind, time))
    if kind == "opened":
        story.opened, story.began = body, time
    elif kind == "contract":
        story.verdicts[str(body["silo"])] = _verdict(body)
    elif kind == "round":
        number = int(body["round"])
        parts = body.get("participation") or ()  # of a former release
        story.rounds[number] = {
            str(each["silo"]): Part.from_json({**each, "round": number}) for each in parts
        }
        story.round_times[number] = time
        story.waiting = {}
    elif kind == "evaluated":
        story.evaluated = body
        story.metrics = dict(body.get("metrics") or {})
    elif kind in ("waiting", "went_on"):
        story.waiting = body if kind == "waiting" else {}
    elif kind == "model":
        story.model = body.get("model") or {}
    elif kind == "closed":
        story.status, story.reason = str(body["status"]), str(body.get("reason") or "")
        story.metrics = dict(body.get("metrics") or story.metrics)
        story.silos = {str(n): _ended(each) for n, each in (body.get("silos") or {}).items()}
        story.waiting = {}
    else:
        story.facts[kind] = body
        story.interruptions += kind in ("interrupted", "resumed")


def _verdict(body: Mapping[str, Any]) -> Verdict:
    broken: list[tuple[str, str]] = []
    warned: list[tuple[str, str]] = []
    for each in body.get("findings") or ():
        if each.get("verdict") == "fail":
            place = warned if each.get("severity") == "warning" else broken
            place.append((str(each["rule"]), str(each.get("column") or "")))
    return Verdict(
        str(body["verdict"]), str(body.get("reason") or ""), tuple(broken), tuple(warned)
    )


def _ended(each: Mapping[str, Any]) -> Ended:
    rounds = each.get("rounds") or ()
    epsilon = each.get("epsilon")
    return Ended(
        str(each.get("status", "")),
        str(each.get("reason") or ""),
        len(rounds),
        int(each.get("num_examples") or 0),
        None if epsilon is None else float(epsilon),
    )


def phases(story: Story) -> dict[str, float]:
    """Return part of the run → wall seconds, by the times of the record's lines (to the second).

    ``check`` until the last verdict, ``standardize`` until the columns' moments, ``train`` until
    the last round, ``evaluate`` until the figures, ``end`` until the last line.
    """
    found: dict[str, float] = {}
    of = {
        "contract": "check",
        "matched": "match",
        "standardized": "standardize",
        "round": "train",
        "evaluated": "evaluate",
        "ending": "end",
        "model": "end",
        "closed": "end",
    }
    before = _seconds(story.began)
    for kind, time in story.times:
        now = _seconds(time)
        if kind in of:
            found[of[kind]] = found.get(of[kind], 0.0) + max(0.0, now - before)
            before = now
        elif kind in ("went_on", "resumed"):
            found["wait"] = found.get("wait", 0.0) + max(0.0, now - before)
            before = now
    return found


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0


def brief_of(story: Story) -> Brief:
    """Return what a list shows of a run."""
    outcomes: Counter[str] = Counter()
    down = up = 0
    epsilon: dict[str, float] = {}
    faults: dict[str, tuple[str, str]] = {}
    trained: dict[str, None] = {}
    for number in sorted(story.rounds):
        for silo, part in story.rounds[number].items():
            outcomes[part.outcome] += 1
            down, up = down + part.bytes_down, up + part.bytes_up
            if part.epsilon is not None:
                epsilon[silo] = max(epsilon.get(silo, 0.0), part.epsilon)
            if part.outcome == "trained":
                trained[silo] = None
                faults.pop(silo, None)
            elif part.code:
                faults[silo] = (part.code, part.reason)
    for silo, each in story.silos.items():
        if each.epsilon is not None:
            epsilon[silo] = max(epsilon.get(silo, 0.0), each.epsilon)
        if each.reason and silo not in faults and each.status not in ("trained", "answered"):
            faults[silo] = (each.status, each.reason)
    for silo, verdict in story.verdicts.items():
        if verdict.verdict != "passed" and silo not in faults:
            faults[silo] = ("contract", verdict.reason)
    model = story.model
    return Brief(
        name=story.name,
        job=story.job_name,
        kind=kind_of(story),
        contract=story.contract,
        status=story.status,
        reason=story.reason,
        began=story.began,
        last=story.last,
        last_kind=story.kind,
        asked=story.asked,
        planned=story.planned,
        done=max(story.rounds, default=0),
        trained=tuple(sorted(trained)),
        verdicts=dict(story.verdicts),
        epsilon=epsilon,
        faults=faults,
        outcomes=dict(outcomes),
        bytes_down=down,
        bytes_up=up,
        seconds=phases(story),
        metrics=dict(story.metrics),
        model=f"{model['name']} version {model['version']}" if "version" in model else "",
        waiting=str(story.waiting.get("reason", "")),
        digests=(
            str(story.opened.get("job_digest", "")),
            str(story.opened.get("contract_digest", "")),
            str(story.opened.get("bundle", "")),
        ),
        facts={name: _listed(story.facts[name]) for name in _FACTS if name in story.facts},
    )


def _listed(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a line's body without the tables of answers, which only the run's own page shows."""
    if "answers" not in body:
        return body
    return {
        **body,
        "answers": [{k: v for k, v in e.items() if k != "rows"} for e in body["answers"]],
    }


def kind_of(story: Story) -> str:
    """Return the kind of the run's job; ``match`` and ``vote`` are told by their records."""
    if "candidate" in story.facts:
        return "vote"
    said = str(story.job.get("kind", ""))
    if said:
        return said
    return "match" if "recipe" in story.opened else "horizontal"
