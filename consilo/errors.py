"""The one exception tree; a type names its remedy.

ConsiloError
├── InvalidInput            what a person wrote is wrong; carries every finding at once
│   ├── JobInvalid
│   ├── ContractInvalid
│   ├── MappingInvalid
│   ├── PolicyInvalid
│   └── ConfigInvalid       any other file: silo.yaml, federation.yaml
├── IncompatibleJob         each part is valid, together they cannot work; before any message
├── SourceUnreadable        a silo's file, table or column is not there
├── SchemaDrift             the silo's data break the contract
├── Refused                 the silo's policy or guard says no
│   └── BundleNotApproved
├── BudgetExhausted         the privacy account cannot pay
├── ReplyInvalid            an answer does not match what its verb declares
├── QuorumLost              fewer silos answered than the job demands
├── TooFewRows              the silos have too few rows in common to learn from
├── TransportError
│   ├── CoordinatorUnreachable
│   └── VersionUnsupported
├── ServiceFailed           a process we started did not become healthy, or died
├── RunCancelled            somebody asked the run to stop
├── ModelDiverged           training produced NaN or infinity
├── RunNotResumable         a run has ended, or its job, contract or code are others now
└── RecordTampered          the run record does not verify

A message says what, where, expected and found, and what to do next. It never holds a data value.
"""

from __future__ import annotations

from collections.abc import Sequence


class ConsiloError(Exception):
    """Any error that Consilo raises on purpose; the command line prints it without a traceback."""


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


class SourceUnreadable(ConsiloError):
    """A silo's data source, or a column in it, is not there or cannot be read."""


class SchemaDrift(ConsiloError):
    """A silo's data break the contract."""


class Refused(ConsiloError):
    """A silo's guard says no.

    Args:
        reason: what the silo is willing to say; it travels.
        code: a short stable name of the rule.
    """

    def __init__(self, reason: str, *, code: str = "policy") -> None:
        self.code = code
        super().__init__(reason)


class BundleNotApproved(Refused):
    """The silo's operator has not approved the hash of the code that the message asks it to run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, code="bundle_not_approved")


class BudgetExhausted(ConsiloError):
    """The privacy account of the data set cannot pay for what was asked."""


class ReplyInvalid(ConsiloError):
    """A silo's answer does not match what its verb declares."""


class QuorumLost(ConsiloError):
    """Fewer silos answered than the job demands.

    Args:
        message: the whole sentence.
        missing: silo → why it was missing.
    """

    def __init__(self, message: str, *, missing: dict[str, str]) -> None:
        self.missing = dict(missing)
        super().__init__(message)


class TooFewRows(ConsiloError):
    """What the silos have in common are too few rows for a model to be trained and judged."""


class TransportError(ConsiloError):
    """Messages cannot travel."""


class CoordinatorUnreachable(TransportError):
    """Nobody answers at the coordinator's address."""


class VersionUnsupported(TransportError):
    """A library or the other side speaks a version that this one does not."""


class ServiceFailed(ConsiloError):
    """A process that we started did not become healthy, or died."""


class RunCancelled(ConsiloError):
    """Somebody asked the run to stop."""


class ModelDiverged(ConsiloError):
    """Training produced NaN or infinity."""


class RunNotResumable(ConsiloError):
    """A run cannot go on where it stopped: it has ended, or is another run than it was."""


class RecordTampered(ConsiloError):
    """A run record was edited, cut or reordered."""
