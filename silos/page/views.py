"""What each page shows: values for its template, read through `silos.page.reading`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from consilo.decisions.vote import VERDICTS
from consilo.pages.pictures.lines import burn_down, curves
from consilo.pages.pictures.picture import Picture
from consilo.pages.site import Shown
from consilo.record.chain import in_utc
from silos.consents_told import REASONS
from silos.gate.audit_lines import KINDS, in_words, mood
from silos.kept.own_figures import Figures
from silos.kept.votes import KeptVote
from silos.page.overview import Overview
from silos.page.reading import Reading, tried
from silos.page.work import Work
from silos.runs_told import epsilon_of, some

_MOST_CURVES = 4


@dataclass(frozen=True)
class Views:
    """The pages of one silo.

    Args:
        reading: of its directory.
        work: what takes longer than a page.
        now: the clock, in UTC.
    """

    reading: Reading
    work: Work
    now: Callable[[], datetime]

    def overview(self, request: Request) -> Shown:
        """Return what waits, what ends, what was asked last."""
        found = Overview.of(self.reading)
        return Shown("overview.html", {"title": "Overview", "found": found})

    def bundles(self, request: Request) -> Shown:
        """Return the code that is known here, what waits first."""
        return Shown("bundles.html", {"title": "Code", "bundles": self.reading.bundles()})

    def bundle(self, request: Request) -> Shown:
        """Return one bundle: text, difference, imports, and the form that decides."""
        digest = request.path_params["digest"]
        found = next((each for each in self.reading.bundles() if each.digest == digest), None)
        if found is None:
            raise HTTPException(404, "no such code is known here")
        source, fault = tried(lambda: self.reading.source(digest))
        lines = self.reading.log(words=digest, kind="bundle", before=None).entries
        values = {
            "title": f"Code {digest[:12]}",
            "bundle": found,
            "source": source,
            "fault": fault,
            "decided": [(each["time"], in_words(each), mood(each)) for each in lines[:20]],
            "directory": str(self.reading.directory),
        }
        return Shown("bundle.html", values)

    def policy(self, request: Request) -> Shown:
        """Return the policy in sentences and as it stands in its file."""
        found, fault = tried(self.reading.policy)
        path = self.reading.directory / "policy.yaml"
        text = "" if not path.exists() else path.read_text(encoding="utf-8", errors="replace")
        values = {
            "title": "Policy",
            "sections": [] if found is None else found[1],
            "text": text,
            "fault": fault,
            "path": str(path),
        }
        return Shown("policy.html", values)

    def checks(self, request: Request) -> Shown:
        """Return what the contract checks found, with the rows that break a rule."""
        contracts, fault = tried(self.reading.contracts)
        values = {
            "title": "Contract checks",
            "checks": self.reading.checks(),
            "contracts": contracts or [],
            "fault": fault,
            "work": self.work.last("check"),
        }
        return Shown("checks.html", values)

    def consents(self, request: Request) -> Shown:
        """Return where consents are and how many rows they let be used."""
        found, fault = tried(self.reading.consents)
        values = {
            "title": "Consents",
            "consents": found[0] if found else [],
            "without": found[1] if found else [],
            "fault": fault,
            "reasons": REASONS,
            "work": self.work.last("consents"),
        }
        return Shown("consents.html", values)

    def ledger(self, request: Request) -> Shown:
        """Return the privacy accounts with burn-down and forecast."""
        ledger = self.reading.ledger()
        pictures = {n: _burnt(n, each, self.now()) for n, each in ledger.accounts.items()}
        values = {
            "title": "Privacy ledger",
            "ledger": ledger,
            "pictures": pictures,
            "unit": {"record": "row", "subject": "subject"},
        }
        return Shown("ledger.html", values)

    def runs(self, request: Request) -> Shown:
        """Return the runs that the end of the log tells of."""
        votes, _ = tried(self.reading.votes)
        values = {
            "title": "Runs",
            "votes": votes[0] if votes else {},
            "runs": self.reading.runs(),
            "epsilon": epsilon_of(self.reading.ledger().accounts),
        }
        return Shown("runs.html", values)

    def run(self, request: Request) -> Shown:
        """Return one run: what was asked, what left, own votes and figures."""
        name = request.path_params["run"]
        found = some(self.reading.runs(), name)
        if found is None:
            raise HTTPException(404, "the end of the audit log tells of no such run")
        figures = self.reading.figures(name)
        votes, _ = tried(self.reading.votes)
        values = {
            "title": f"Run {name}",
            "run": found,
            "votes": [_vote(each) for each in (votes or ({}, {}))[0].get(name, [])],
            "people": (votes or ({}, {}))[1].get(name),
            "verdicts": VERDICTS,
            "figures": figures,
            "pictures": _curves(figures),
            "epsilon": epsilon_of(self.reading.ledger().accounts).get(name, []),
            "directory": str(self.reading.directory),
        }
        return Shown("run.html", values)

    def log(self, request: Request) -> Shown:
        """Return lines of the audit log, found by their words."""
        asked = request.query_params
        words, kind = asked.get("q", "")[:200], asked.get("kind", "")
        before = int(asked["before"]) if asked.get("before", "").isdecimal() else None
        found = self.reading.log(words=words, kind=kind, before=before)
        values = {
            "title": "Audit log",
            "lines": [(each, in_words(each), mood(each)) for each in found.entries],
            "more": found.entries[-1]["seq"] if found.more else None,
            "words": words,
            "kind": kind,
            "kinds": KINDS,
            "is_newest": before is None,
        }
        return Shown("log.html", values)

    def keys(self, request: Request) -> Shown:
        """Return certificates and keys with their ends, and partners' keys."""
        found, fault = tried(self.reading.endings)
        partners, fault_too = tried(self.reading.partners)
        values = {
            "title": "Keys and certificates",
            "endings": found or [],
            "fault": fault or fault_too,
            "partners": partners or {},
            "directory": str(self.reading.directory),
        }
        return Shown("keys.html", values)


def _vote(kept: KeptVote) -> dict[str, Any]:
    """Return a vote for the page, with the figures that stay here, too."""
    figures = sorted(kept.vote.figures.items())
    return {
        "verdict": kept.vote.verdict,
        "time": in_utc(kept.at),
        "words": kept.vote.told,
        "figures": [(name, f"{value:.4g}") for name, value in figures],
    }


def _burnt(name: str, account: Mapping[str, Any], now: datetime) -> Picture:
    points = [(datetime.fromisoformat(run["time"]), run["spent"]) for run in account["runs"]]
    first = account["limits"][0] if account["limits"] else None
    ahead = None
    told = account["forecast"]
    if first and told and told["day"] and told["limit"] == first["limit"]:
        # Further than as long again as the past, the past is not to be seen any more.
        day = datetime.fromisoformat(told["day"] + "T00:00:00+00:00")
        most = now + max(now - points[0][0], timedelta(days=30)) * 2
        ahead = (day, first["budget"]) if day <= most else None
    limit = None if first is None else float(first["budget"])
    span = "so far" if first is None else str(first["limit"])
    return burn_down(f"{name}: ε spent {span}", {name: points}, limit=limit, forecast=ahead)


def _curves(figures: Sequence[Figures]) -> list[Picture]:
    """Return a picture for each figure that several rounds have, the usual ones first."""
    series: dict[str, dict[int, float]] = {}
    for each in figures:
        for name, value in each.metrics.items() if each.round else ():
            series.setdefault(name, {}).setdefault(each.round, value)
    several = {name: points for name, points in series.items() if len(points) > 1}
    return [
        curves(f"{name} on this silo's held-out rows", {name: sorted(points.items())})
        for name, points in list(several.items())[:_MOST_CURVES]
    ]
