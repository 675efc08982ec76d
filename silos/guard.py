"""The guard: decides in the silo, before and after every verb, and writes down what it decided.

Before anything else it holds a request against the coordinator's key that was pinned when the silo
joined; then against the run's manifest, the attestations of the other silos, and the policy. A
refusal has a code and a reason that the silo is willing to say. What leaves is signed by the silo.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.chain import Chain
from consilo.config import Config, parse, read_yaml
from consilo.contract import Contract
from consilo.errors import BundleNotApproved, Refused
from consilo.headers import Header, Manifest, ReplyHeader, attestation, attests
from consilo.job import Job
from consilo.keys import load_or_create_signing_key
from consilo.protocol import Verb
from consilo.signing import is_signed, sign
from silos import audit
from silos.bundles import declared
from silos.mapping import require_agreed
from silos.partners import Partner, pinned
from silos.policy import Circumstances, Policy
from silos.store import Store

SKEW_S = 300.0
"""How far the coordinator's clock may be ahead of the silo's."""
RELAY = "relay"
"""The purpose of what a silo signs for other silos."""


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
        store: what the silo remembers.
        signing_keys: whose requests are taken; None takes those of ``coordinator.yaml``.
        partners: other silos' keys; None takes those of ``partners.yaml``.
        bundle: SHA-256 of the code that this process may run; None in process, where the caller
            has imported it already.
        now: seconds since 1970.
    """

    name: str
    directory: Path
    policy: Policy
    store: Store
    signing_keys: Sequence[str] | None = None
    partners: Mapping[str, Partner] | None = None
    bundle: Path | None = None
    now: Callable[[], float] = field(default=time.time)

    @cached_property
    def log(self) -> Chain:
        """The silo's audit log."""
        return audit.audit_log(self.directory)

    @cached_property
    def key(self) -> Ed25519PrivateKey:
        """What the silo signs with."""
        return load_or_create_signing_key(self.directory / "signing.key")

    def verify(self, header: Header) -> None:
        """Raise `Refused` unless the coordinator signed this request, for this silo, for now."""
        try:
            self._verify(header)
        except Refused as cause:
            audit.asked(self.log, header, "refused", cause)
            raise

    def permit(
        self,
        header: Header,
        job: Job,
        contract: Contract,
        verb: Verb,
        *,
        rows: Callable[[], int],
        counts: Callable[[], Mapping[str, int] | None] = lambda: None,
    ) -> None:
        """Raise `Refused` unless manifest, bundle and policy allow this verb; note the decision.

        Args:
            header: the request, verified.
            job: as its body has it.
            contract: as its body has it.
            verb: what is asked.
            rows: how many rows the job has in this silo.
            counts: of consent, for the log; raises `Refused` where nobody can know.
        """
        try:
            self._permit(header, job, contract, verb, rows)
            consent = counts()
        except Refused as cause:
            audit.asked(self.log, header, "refused", cause)
            raise
        self.store.note_request(header.step_id, at=self.now())
        audit.asked(self.log, header, "allowed", consent=consent)

    def repeated(self, header: Header) -> None:
        """Note that a step got the answer that it got before."""
        audit.asked(self.log, header, "repeated")

    def seal(
        self, header: Header | None, reply: ReplyHeader, fields: Mapping[str, Any]
    ) -> ReplyHeader:
        """Note what leaves, and sign it; a silo that answers well attests to its part in the run.

        The attestation is given only once a request passed: a refusal is no part in a run.
        """
        head = audit.answered(self.log, reply, fields)
        word = ""
        if header is not None and reply.status == "ok":
            word = attestation(self.key, header.manifest, self.name)
        return replace(reply, head=head, attestation=word).signed(self.key)

    def sign_relay(self, value: Any) -> str:
        """Return the silo's signature of a statement for other silos."""
        return sign(self.key, RELAY, value)

    def is_partner_relay(self, silo: str, value: Any, signature: str) -> bool:
        """Return whether a partner that counts here signed a statement for other silos."""
        partner = self._partner(silo)
        return partner is not None and is_signed(partner.signing_key, RELAY, value, signature)

    def _partner(self, name: str) -> Partner | None:
        """Return a partner that is pinned here and, where the policy wants it, confirmed."""
        found = (pinned(self.directory) if self.partners is None else self.partners).get(name)
        if found is None or (self.policy.partners == "confirmed" and not found.confirmed):
            return None
        return found

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
        if header.expires < now:
            raise Refused("the request's time is over: it is an old one", code="expired")
        if self.store.is_concluded(header.run_id) and not header.protocol == "conclude":
            raise Refused("the run of this request has ended: it is an old one", code="replayed")

    def _permit(
        self, header: Header, job: Job, contract: Contract, verb: Verb, rows: Callable[[], int]
    ) -> None:
        manifest = header.manifest
        stated = Manifest.of(header.run_id, job, contract, manifest.bundle)
        if header.wire >= 2 and manifest != stated:
            raise Refused(
                "job or contract are not those that the request's manifest names", code="manifest"
            )
        if verb.disclosures:
            require_agreed(self.directory, contract)
        signer = ""
        if self.bundle is not None and header.wire >= 2:
            if manifest.bundle != self.bundle.name:
                raise BundleNotApproved("the request names another bundle than the run's")
            classes, signer = declared(self.bundle)
            more = sorted(verb.disclosures - classes) if classes is not None else []
            if more:
                raise Refused(
                    f"'{verb.name}' discloses '{more[0]}', which its bundle does not declare",
                    code="disclosure",
                )
        hour_ago = self.now() - 3600.0
        self.policy.permit(
            header,
            job,
            verb,
            Circumstances(
                now=self.now(),
                attested=self._attested(header),
                asked_last_hour=self.store.count_requests(since=hour_ago),
                rows=rows,
                signer=signer,
            ),
        )

    def _attested(self, header: Header) -> frozenset[str]:
        """Return the cohort's members that have signed this very run with a key we have pinned."""
        partners = pinned(self.directory) if self.partners is None else self.partners
        found = set()
        for name in set(header.cohort) - {self.name}:
            partner, word = partners.get(name), header.attestations.get(name, "")
            if partner is None or (self.policy.partners == "confirmed" and not partner.confirmed):
                continue
            if attests(partner.signing_key, header.manifest, name, word):
                found.add(name)
        return frozenset(found)


def addressed(header: Header, name: str) -> None:
    """Raise `Refused` unless a request is for the silo ``name`` and names each silo once."""
    if header.silo != name:
        raise Refused("the message is addressed to another silo", code="wrong_receiver")
    if name not in header.cohort and header.cohort:
        raise Refused("the message's cohort does not name its receiver", code="cohort")
    if len(set(header.cohort)) < len(header.cohort):
        raise Refused("the message's cohort names a silo twice", code="cohort")
