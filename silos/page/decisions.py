"""What the page's forms do, each by the function that its command does it by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from consilo.contracts.contract import Contract
from consilo.decisions.vote import Verdict
from consilo.errors import ConfigInvalid
from consilo.pages.sessions import Session
from consilo.pages.site import Form
from silos import consents_told
from silos.checked import check
from silos.gate import bundles
from silos.page.reading import Reading
from silos.page.work import Work
from silos.runs_told import some

_MOST_LETTERS = 200


@dataclass(frozen=True)
class Decisions:
    """Changes of one silo.

    Args:
        reading: of its directory.
        work: what takes longer.
    """

    reading: Reading
    work: Work

    def of_bundle(self, request: Request, form: Form, session: Session) -> str:
        """Approve or reject code; both want a reason, which the audit log keeps."""
        digest, reason = request.path_params["digest"], form.get("reason", "").strip()
        if digest not in {each.digest for each in self.reading.bundles()}:
            raise HTTPException(404, "no such code is known here")
        if not reason:
            raise ConfigInvalid("reason", ["say why; it stays in the audit log"])
        directory, decision = self.reading.directory, form.get("decision", "")
        if decision in ("approve", "always"):
            bundles.approve(directory, digest, always=decision == "always", reason=reason)
        elif decision == "reject":
            bundles.reject(directory, digest, reason=reason)
        else:
            raise ConfigInvalid("decision", ["must be approve, always or reject"])
        return f"/bundles/{digest}"

    def vote(self, request: Request, form: Form, session: Session) -> str:
        """Let people's word count for a run's model, or take it back."""
        run, verdict = request.path_params["run"], form.get("verdict", "")
        if some(self.reading.runs(), run) is None:
            raise HTTPException(404, "the end of the audit log tells of no such run")
        votes = self.reading.kept_votes()
        if verdict == "policy":
            votes.withdraw(run)
        else:
            # One that is none is refused there, with what is expected.
            votes.overrule(run, cast(Verdict, verdict), form.get("reason", ""))
        return f"/runs/{quote(run, safe='')}"

    def check(self, request: Request, form: Form, session: Session) -> str:
        """Check the rows against a contract, in a thread."""
        ref, purpose = form.get("contract", ""), form.get("purpose", "").strip()
        if ref not in self.reading.contracts():
            raise ConfigInvalid("contract", ["no data set here is mapped to this contract"])
        if len(purpose) > _MOST_LETTERS:
            raise ConfigInvalid("purpose", [f"at most {_MOST_LETTERS} characters"])
        directory = self.reading.directory
        contract = Contract.load(ref, search=(directory,))
        self._begin("check", ref, lambda: check(directory, contract, purpose=purpose))
        return "/checks"

    def count(self, request: Request, form: Form, session: Session) -> str:
        """Count the rows that consents let be used, in a thread."""
        directory = self.reading.directory
        self._begin("consents", "all purposes", lambda: consents_told.count(directory))
        return "/consents"

    def _begin(self, kind: str, about: str, work: Callable[[], object]) -> None:
        if not self.work.begin(kind, about, work):
            raise ConfigInvalid(kind, ["something is being counted or checked; wait for its end"])
