"""The one exception tree; a type names its remedy.

ConsiloError
├── InvalidInput            what a person wrote is wrong; carries every finding at once
│   ├── JobInvalid
│   ├── ContractInvalid
│   ├── MappingInvalid
│   ├── PolicyInvalid
│   └── ConfigInvalid       any other file: silo.yaml, federation.yaml
├── IncompatibleJob         each part is valid, together they cannot work; before any message
├── RunFailed               a run cannot go on; the class is the cause, one line a silo says why
│   ├── ModelDiverged       training produced NaN or infinity
│   ├── SchemaDrift         the silos' data break the contract
│   ├── BudgetExhausted     the privacy account cannot pay
│   ├── TooFewRows          the silos have too few rows, or too few in common, to learn from
│   ├── Refused             the silos' policies or guards say no
│   │   └── BundleNotApproved
│   ├── MatchUnusable       the silos hold no match that the run can use
│   ├── SourceUnreadable    a silo's file, table or column is not there
│   ├── SiloMisconfigured   a file that a silo's people wrote is invalid
│   ├── SiloOutdated        a silo's release does not know what the job asks
│   ├── ReplyInvalid        an answer does not match what its verb declares
│   │   ├── UpdateRejected  an update is unlike those of the rounds before, and cannot count
│   │   └── PartnerRejected what another silo sent one for its step is not what was agreed
│   ├── SiloDiskFull        a silo's disk is full, or its quota used up: asked again, it may answer
│   ├── SiloFailed          the computation failed in the silos: the job's code, or their software
│   └── QuorumLost          silos are away, late or gone
├── TransportError
│   ├── CoordinatorUnreachable
│   ├── MessagesLost        what was under way is lost, the way is open again: ask again
│   └── VersionUnsupported
├── ServiceFailed           a process we started did not become healthy, or died
│   └── ServiceAway         one that a run writes to has been away too long; the run is not over
├── RunCancelled            somebody asked the run to stop
├── RunNotResumable         a run has ended, or its job, contract or code are others now
├── RunSuperseded           another process has gone on with the run; this one leaves it alone
├── DecisionRefused         a decision about a model does not count, or cannot be made (now)
└── RecordTampered          the run record, or another log, does not verify

A message says what, where, expected and found, and what to do next. It never holds a data value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence


class ConsiloError(Exception):
    """Any error that Consilo raises on purpose; the command line prints it without a traceback."""

    resume = ""
    """What a person types to go on with what failed; empty where that cannot be."""


class InvalidInput(ConsiloError):
    """Something a person wrote is wrong.

    Args:
        where: the file or place, as the person knows it.
        findings: one sentence for each fault, all of them.
    """

    kind = "input"

    def __init__(self, where: str, findings: Sequence[str]) -> None:
        self.where = where
        self.findings = tuple(findings)
        count = f"{len(self.findings)} faults" if len(self.findings) != 1 else "1 fault"
        lines = "".join(f"\n  - {finding}" for finding in self.findings)
        super().__init__(f"{self.kind} {where}: {count}{lines}")


class JobInvalid(InvalidInput):
    """A job file does not validate."""

    kind = "job"


class ContractInvalid(InvalidInput):
    """A contract file does not validate."""

    kind = "contract"


class MappingInvalid(InvalidInput):
    """A silo's mapping file does not validate, or does not fit its contract."""

    kind = "mapping"


class PolicyInvalid(InvalidInput):
    """A silo's policy file does not validate."""

    kind = "policy"


class ConfigInvalid(InvalidInput):
    """A configuration file (silo.yaml, federation.yaml) does not validate."""

    kind = "configuration"


class IncompatibleJob(ConsiloError):
    """Each part of the job is valid, but the parts cannot work together."""


class RunFailed(ConsiloError):
    """A run cannot go on; its class names the cause.

    A silo raises some of these, too, and says then why it gives no answer.

    Args:
        message: the whole text.
        missing: silo → why it gave no answer; empty where no silo is meant.
    """

    awaits: Callable[[Collection[str]], bool] | None = None
    """Says of silos that are connected whether it could go on with them; None where silos that
    come back would not help."""

    def __init__(self, message: str, *, missing: Mapping[str, str] | None = None) -> None:
        self.missing = dict(missing or {})
        super().__init__(message)


class ModelDiverged(RunFailed):
    """Training produced NaN or infinity."""


class SchemaDrift(RunFailed):
    """A silo's data break the contract."""


class BudgetExhausted(RunFailed):
    """The privacy account of the data set cannot pay for what was asked."""


class TooFewRows(RunFailed):
    """The silos have too few rows, alone or in common, for a model to be trained and judged."""


class Refused(RunFailed):
    """A silo's policy or guard says no.

    Args:
        reason: what the silo is willing to say; it travels.
        code: a short stable name of the rule.
        missing: as of `RunFailed`.
    """

    def __init__(
        self, reason: str, *, code: str = "policy", missing: Mapping[str, str] | None = None
    ) -> None:
        self.code = code
        super().__init__(reason, missing=missing)


class BundleNotApproved(Refused):
    """The silo's operator has not approved the hash of the code that the message asks it to run."""

    def __init__(self, reason: str, *, missing: Mapping[str, str] | None = None) -> None:
        super().__init__(reason, code="bundle_not_approved", missing=missing)


class MatchUnusable(RunFailed):
    """The silos hold no match of their rows that the run can use."""


class SourceUnreadable(RunFailed):
    """A silo's data source, or a column in it, is not there or cannot be read."""


class SiloMisconfigured(RunFailed):
    """A file that a silo's people wrote is invalid; which, and why, its own log says."""


class SiloOutdated(RunFailed):
    """A silo's release of Consilo does not know what the job asks."""


class ReplyInvalid(RunFailed):
    """A silo's answer does not match what its verb declares."""


class UpdateRejected(ReplyInvalid):
    """A silo's update is what was declared, and cannot be honest work: it is not counted."""


class PartnerRejected(ReplyInvalid):
    """What another silo has sealed for this one cannot be used; the message names that silo."""


class SiloDiskFull(RunFailed):
    """A silo's disk is full, or its quota used up, so that it can keep nothing of what it does."""


class SiloFailed(RunFailed):
    """The computation failed in the silos: in the job's own code, or in their software."""


class QuorumLost(RunFailed):
    """Fewer silos than the job demands can be reached: the others are away, late or gone."""


class TransportError(ConsiloError):
    """Messages cannot travel."""


class CoordinatorUnreachable(TransportError):
    """Nobody answers at the coordinator's address."""


class MessagesLost(TransportError):
    """What was asked, and not answered yet, is lost; the way is open again: ask again."""


class VersionUnsupported(TransportError):
    """A library or the other side speaks a version that this one does not."""


class ServiceFailed(ConsiloError):
    """A process that we started did not become healthy, or died."""


class ServiceAway(ServiceFailed):
    """A service that a run writes to has been away for too long; the run can be gone on with."""


class RunCancelled(ConsiloError):
    """Somebody asked the run to stop."""


class RunNotResumable(ConsiloError):
    """A run cannot go on where it stopped: it has ended, or is another run than it was."""


class RunSuperseded(ConsiloError):
    """Another process has gone on with the run: what this one knows of it is old."""


class DecisionRefused(ConsiloError):
    """A decision about a model does not count: who says it may not, or it fits nothing now."""


class RecordTampered(ConsiloError):
    """A run record, or another log, was edited, cut or reordered."""
