"""The guard: decides in the silo, before and after every verb, and writes down what it decided.

Before anything else it holds a request against the coordinator's key that was pinned when the silo
joined; then against the run's manifest, the attestations of the other silos, and the policy. A
refusal has a code and a reason that the silo is willing to say. What leaves is signed by the silo.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from consilo.config import Config, parse, read_yaml
from consilo.contracts.contract import Contract
from consilo.errors import BundleNotApproved, Refused
from consilo.jobs.job import Job
from consilo.jobs.joint import JointJob
from consilo.jobs.table_job import TableJob
from consilo.kernel.headers import (
    MAX_LIFE_S,
    Header,
    Manifest,
    ReplyHeader,
    attestation,
    attests,
)
from consilo.kernel.owner import SUPERSEDED, owner_in
from consilo.kernel.protocol import RowsUsed
from consilo.kernel.verbs import Asked, FromRows, Permitted
from consilo.protocols.names import declaration_of
from consilo.record.chain import START, Chain
from silos.gate import audit
from silos.gate.bundles import declared
from silos.gate.declarations import Declarations
from silos.gate.history import History
from silos.gate.identity import Identity
from silos.gate.matchmaking import Matchmaking
from silos.gate.partners import Partner
from silos.gate.policy import Circumstances, Policy
from silos.gate.shares import Shares
from silos.gate.standings import Standings
from silos.kept.ledger import Ledger
from silos.kept.own_figures import note_figures
from silos.kept.run_state import RunState
from silos.kept.store import Permit, Store
from silos.rows.mapping import require_agreed
from silos.rows.tables import Tables

SKEW_S = 300.0
"""How far the coordinator's clock may be ahead of the silo's."""


class CoordinatorConfig(Config):
    """``coordinator.yaml``: whom the silo takes requests from, pinned when it joined.

    Args:
        address: host:port.
        ca_sha256: fingerprint of the federation's certificate authority.
        signing_keys: raw Ed25519 public keys in hexadecimal; one of them signed each request.
    """

    address: str = ""
    ca_sha256: str = ""
    signing_keys: tuple[str, ...] = ()

    @classmethod
    def load(cls, directory: Path) -> CoordinatorConfig:
        """Return what the silo in ``directory`` has pinned; without a file, nobody is trusted."""
        path = directory / "coordinator.yaml"
        return parse(cls, read_yaml(path), where=str(path)) if path.exists() else cls()


@dataclass
class Guard:
    """Decides for one silo.

    Args:
        name: the silo's.
        directory: the silo's.
        policy: what may happen.
        identity: what the silo signs with, and whose signatures count.
        log: the silo's audit log.
        store: what the silo remembers.
        run_state: what its runs keep.
        ledger: its privacy ledger.
        rows: its canonical tables.
        matches: its halves of matches.
        history: what it has said, and whether it still remembers.
        standings: what it and its partners keep of each other's logs.
        shares: which shares of its rows jobs have held out.
        signing_keys: whose requests are taken; None takes those of ``coordinator.yaml``.
        bundle: the packed code that this process may run; None in process, where the caller has
            imported it already.
        asks_people: whether people in the silo must have confirmed a contract; False where the
            caller itself has brought the rows.
        now: seconds since 1970.
    """

    name: str
    directory: Path
    policy: Policy
    identity: Identity
    log: Chain
    store: Store
    run_state: RunState
    ledger: Ledger
    rows: Tables
    matches: Matchmaking
    history: History
    standings: Standings
    shares: Shares
    signing_keys: Sequence[str] | None = None
    bundle: Path | None = None
    asks_people: bool = True
    now: Callable[[], float] = field(default=time.time)

    @property
    def declarations(self) -> Declarations:
        """By which declarations of cells exact tables were told."""
        return Declarations(self.rows, self.store, self.shares)

    def verify(self, header: Header) -> None:
        """Raise `Refused` unless the coordinator signed this request, for this silo, for now."""
        try:
            self._verify(header)
        except Refused as cause:
            self._note_stranger(partial(audit.asked_by_stranger, self.log, header, cause))
            raise

    def permit(self, header: Header, job: Job, contract: Contract, asked: Asked) -> Permitted:
        """Raise `Refused` unless manifest, bundle and policy allow a verb; note the decision.

        Args:
            header: the request, verified.
            job: as its body has it.
            contract: as its body has it.
            asked: what its verb would let leave.

        Returns:
            What of it the policy keeps back, and of how many rows it must be made.
        """
        use = self._use(header, job, contract, asked)
        try:
            permitted = self._permit(header, job, contract, asked, use)
            consent, state = use.consent_counts(), use.consent_state()
        except Refused as cause:
            audit.asked(self.log, header, "refused", cause)
            raise
        now = self.now()
        self.store.note_request(header.step_id, at=now)
        judged = any(e.held_out and e.name not in permitted.withheld for e in asked.fields)
        given = Permit(judged, state, frozenset(permitted.withheld))
        self.store.note_permit(header.step_id, given, run_id=header.run_id, at=now)
        audit.asked(self.log, header, "allowed", consent=consent, withheld=permitted.withheld)
        return permitted

    def repeated(self, header: Header, asked: tuple[Job, Contract, Asked] | None) -> None:
        """Raise `Refused` unless a step may be given the answer that it got before; note it.

        The policy is asked as it was for the first answer. Nothing may have become forbidden since
        then that the answer holds, and the rows that consents allow must be the same.

        Args:
            header: the request.
            asked: what it asks; None for a step that discloses nothing.
        """
        try:
            if asked is not None:
                self._permit_again(header, *asked)
        except Refused as cause:
            audit.asked(self.log, header, "refused", cause)
            raise
        audit.asked(self.log, header, "repeated")

    def sign(
        self, header: Header | None, reply: ReplyHeader, fields: Mapping[str, Any]
    ) -> ReplyHeader:
        """Note what leaves, and sign it; a silo that answers well attests to its part in the run.

        The attestation is given only once a request passed: a refusal is no part in a run.

        Args:
            header: the request, verified; None where it was not, or was none.
            reply: what is said of the answer.
            fields: what leaves.
        """
        if header is None:
            self._note_stranger(partial(audit.answered, self.log, reply, fields))
            head = self.log.head
        else:
            # Where nothing was ever spent the log need not be read.
            spent = None if self.ledger.head == START else self.history.spent()
            head = audit.answered(self.log, reply, fields, ledger=spent or "")
        word = ""
        if header is not None:
            if reply.status == "ok":
                note_figures(self.directory, header, fields)
                word = attestation(self.identity.key, header.manifest, self.name)
            word = self.standings.word(header, word)
        return replace(reply, head=head, attestation=word).signed(self.identity.key)

    def conclude(self, run_id: str) -> None:
        """Answer nothing more for a run, and erase what was kept for it.

        The ledger's newest hash goes into the audit log, whose own goes to the coordinator: so the
        end of the ledger cannot be cut off unnoticed either. One that was cut off before is none
        to note.
        """
        spent = self.history.spent()
        if spent is not None:
            self.log.append("ledger", run=run_id, head=spent)
        self.store.conclude(run_id)
        self.run_state.end(run_id)

    def _note_stranger(self, note: Callable[[], str]) -> None:
        """Note what somebody unverified brought about; where there is much of it, only count it."""
        is_written, folded = self.store.admit_stranger(at=self.now())
        if folded:
            self.log.append("folded", lines=folded)
        if is_written:
            note()

    def _use(self, header: Header, job: Job, contract: Contract, asked: Asked) -> _Use:
        """Return which rows a request is about, as its protocol declares them."""
        declared = declaration_of(header.protocol).rows
        # What discloses nothing uses no row.
        rows = declared if asked.disclosures else "none"
        if rows == "job":
            rows = job.rows
        return _Use(self, job, contract, rows)

    def _verify(self, header: Header) -> None:
        addressed(header, self.name)
        now = self.now()
        if header.wire < 2:
            if not self.policy.allow_unsigned:
                raise Refused(
                    "this silo takes signed requests only (wire version 2); upgrade Consilo at "
                    "the coordinator, or set allow_unsigned in the silo's policy",
                    code="signature",
                )
            return
        keys = self.signing_keys
        if keys is None:
            keys = CoordinatorConfig.load(self.directory).signing_keys
        if not keys:
            raise Refused("this silo has joined no coordinator", code="signature")
        if not any(header.is_signed_by(key) for key in keys):
            raise Refused(
                "the request is not signed by the coordinator that this silo joined",
                code="signature",
            )
        if header.manifest.run_id != header.run_id:
            raise Refused("the request's manifest is that of another run", code="manifest")
        if header.issued > now + SKEW_S:
            raise Refused(
                f"the request was signed {header.issued - now:.0f} s in this silo's future; set "
                "the clocks",
                code="clock",
            )
        if header.expires - header.issued > MAX_LIFE_S:
            raise Refused(
                f"the request would be good for {(header.expires - header.issued) / 3600:.0f} h; "
                f"this silo takes one for {MAX_LIFE_S / 3600:.0f} h at most",
                code="life",
            )
        if header.expires < now:
            raise Refused("the request's time is over: it is an old one", code="expired")
        self.history.require_whole()
        self.standings.take_in(header)
        has_ended, owner = self.store.run(header.run_id)
        asking = owner_in(header.attestations)
        if asking > owner:
            owner = self.store.note_owner(header.run_id, asking, at=now)
        if asking < owner:
            raise Refused(
                "another process has gone on with this run since this request was signed",
                code=SUPERSEDED,
            )
        if has_ended and not declaration_of(header.protocol).after_the_end:
            raise Refused("the run of this request has ended: it is an old one", code="replayed")

    def _permit(
        self, header: Header, job: Job, contract: Contract, asked: Asked, use: _Use
    ) -> Permitted:
        manifest = header.manifest
        stated = Manifest.of(header.run_id, job, contract, manifest.bundle)
        if header.wire >= 2 and manifest != stated:
            raise Refused(
                "job or contract are not those that the request's manifest names", code="manifest"
            )
        if self.asks_people and use.uses_rows:
            require_agreed(self.directory, contract)
        signer = ""
        if self.bundle is not None and header.wire >= 2:
            if manifest.bundle != self.bundle.stem:
                raise BundleNotApproved("the request names another bundle than the run's")
            classes, signer = declared(self.bundle)
            more = sorted(asked.disclosures - classes) if classes is not None else []
            if more:
                raise Refused(
                    f"'{asked.name}' discloses '{more[0]}', which its bundle does not declare",
                    code="disclosure",
                )
        hour_ago, day_ago = self.now() - 3600.0, self.now() - 86_400.0
        step, run = header.step_id, header.run_id
        permitted = self.policy.permit(
            header,
            job,
            asked,
            Circumstances(
                now=self.now(),
                attested=self._attested(header),
                asked_last_hour=self.store.count_requests(since=hour_ago),
                rows=use.num_rows,
                signer=signer,
                judged_in_run=self.store.count_judged(since=0.0, but=step, run_id=run),
                judged_last_day=self.store.count_judged(since=day_ago, but=step),
            ),
        )
        if isinstance(job, TableJob) and use.uses_rows and permitted.is_private:
            _require_uncounted(job, contract)
        if isinstance(job, TableJob) and declaration_of(header.protocol).by_declaration:
            self.declarations.require_one(
                job, use.contract, asked, permitted, self.policy.statistics_on
            )
        is_counted = any(each.rows != FromRows.CHECKED for each in asked.fields)
        if isinstance(job, TableJob) and use.rows == "part":
            if permitted.is_private and is_counted:
                self.shares.require_few(job, use.contract, most=self.policy.evaluation.shares)
            near = self.shares.too_near(job, use.contract, asked, permitted)
            permitted = replace(permitted, withheld={**permitted.withheld, **near})
        return permitted

    def _permit_again(self, header: Header, job: Job, contract: Contract, asked: Asked) -> None:
        use = self._use(header, job, contract, asked)
        permitted = self._permit(header, job, contract, asked, use)
        given = self.store.permit(header.step_id)
        if given is None or given.consents != use.consent_state():
            raise Refused(
                "the consents for these rows changed since this was answered, or that is too long "
                "ago to tell; start a new run",
                code="consent",
            )
        more = sorted(set(permitted.withheld) - given.withheld)
        if more:
            raise Refused(permitted.withheld[more[0]], code="disclosure")

    def _attested(self, header: Header) -> frozenset[str]:
        """Return the cohort's members that have signed this very run with a key we have pinned.

        One key is one member, by whatever names it is pinned.

        Whoever states in other runs what it holds of our log counts where it is stated here too.
        """
        partners = self.identity.counting()
        found: dict[str, Partner] = {}
        keys = {self.identity.public}
        for name in sorted(set(header.cohort) & set(partners) - {self.name}):
            word, known = header.attestations.get(name, ""), partners[name]
            if known.signing_key not in keys and attests(
                known.signing_key, header.manifest, name, word
            ):
                found[name] = known
                keys.add(known.signing_key)
        return frozenset(self.standings.stated(header, found))


@dataclass(frozen=True)
class _Use:
    """Which rows of a silo a request is about; counted only where a rule needs it.

    Args:
        guard: of the silo.
        job: what is run.
        contract: as the message has it.
        rows: which; never ``job``, which says no more than another of them.
    """

    guard: Guard
    job: Job
    contract: Contract
    rows: RowsUsed

    @property
    def uses_rows(self) -> bool:
        """Whether any row is used for it, if only to count them."""
        return self.rows not in ("none", "released")

    def num_rows(self) -> int:
        """Return how many there are, or how many subjects; no end of them where none is used."""
        if not self.uses_rows:
            return sys.maxsize
        if self.rows == "matched":
            handle = JointJob.of(self.job).holders.match
            return len(self.guard.matches.match(handle, purpose=self.job.purpose).rows)
        return self.guard.rows.num_rows(
            self._contract, self.job.purpose, subjects=self.job.hides_subjects
        )

    def consent_counts(self) -> Mapping[str, int] | None:
        """Return how many rows consents allow, and why not; None where there is nothing to ask.

        Raises:
            Refused: where the silo cannot read its consents.
        """
        if not self.uses_rows:
            return None
        return self.guard.rows.consent_counts(self._contract, self.job.purpose)

    def consent_state(self) -> str:
        """Return a digest of which rows consents allow now; empty where there is nothing to ask.

        Raises:
            Refused: where the silo cannot read its consents.
        """
        if not self.uses_rows:
            return ""
        return self.guard.rows.consent_state(self._contract, self.job.purpose)

    @property
    def _contract(self) -> Contract:
        if self.rows == "all":
            return self.contract
        return self.job.part(self.contract, self.guard.name)


def _require_uncounted(job: TableJob, contract: Contract) -> None:
    """Raise `Refused` where the number of rows, told exactly, would count those with a feature."""
    lacking = [each for each in contract.features if contract.columns[each].nullable_share > 0]
    if job.features.missing == "drop" and lacking:
        raise Refused(
            "this silo's policy lets no statistic leave exactly, and how many rows are learnt from "
            f"is told as it is: without those that lack '{lacking[0]}', say, it would tell how "
            "many do; use features.missing 'mean' or 'indicator'",
            code="privacy",
        )


def addressed(header: Header, name: str) -> None:
    """Raise `Refused` unless a request is for the silo ``name`` and names each silo once."""
    if header.silo != name:
        raise Refused("the message is addressed to another silo", code="wrong_receiver")
    if name not in header.cohort and header.cohort:
        raise Refused("the message's cohort does not name its receiver", code="cohort")
    if len(set(header.cohort)) < len(header.cohort):
        raise Refused("the message's cohort names a silo twice", code="cohort")
