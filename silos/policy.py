"""A silo's policy: what it lets leave, for whom, under which privacy. Without one, nothing."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import Field

from consilo.config import Config, parse, read_yaml
from consilo.errors import PolicyInvalid, Refused
from consilo.job import Job
from consilo.protocol import Disclosure, Verb
from consilo.wire import Header

_ABOUT_ROWS = frozenset(
    {Disclosure.UPDATE, Disclosure.MASKED_UPDATE, Disclosure.EMBEDDING, Disclosure.LABEL}
)

TEMPLATE = """\
# What may leave this silo, for which jobs, under which privacy. What is not allowed is refused.
jobs: ["*"]                               # names of jobs; shell patterns
disclosures: [metric, statistic, update]  # classes of what may leave
min_cohort: 2                             # silos asked together, this one included, for an update
# privacy:                                # updates only with differential privacy, and at most
#   max_epsilon: 10.0
#   max_delta: 1.0e-3
allow_reproducible: false                 # noise that whoever knows the job's seed can take away
"""


class PrivacyLimits(Config):
    """Updates leave only with differential privacy that spends no more than this in one run."""

    max_epsilon: float = Field(gt=0)
    max_delta: float = Field(gt=0, lt=1)


class Policy(Config):
    """What a silo allows; the default allows nothing.

    Args:
        jobs: shell patterns of job names.
        disclosures: classes of what may leave.
        min_cohort: for what is computed from rows, how many silos must be asked together.
        privacy: limits; None allows training without differential privacy.
        allow_reproducible: whether a job may key the noise by its own seed.
    """

    jobs: tuple[str, ...] = ()
    disclosures: frozenset[Disclosure] = frozenset()
    min_cohort: int = Field(default=2, ge=1)
    privacy: PrivacyLimits | None = None
    allow_reproducible: bool = False

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Return the policy of a YAML file; a file that is not there allows nothing.

        Raises:
            PolicyInvalid: with one finding per fault.
        """
        if not path.exists():
            return cls()
        return parse(
            cls, read_yaml(path, error=PolicyInvalid), where=str(path), error=PolicyInvalid
        )

    @classmethod
    def simulation(cls) -> Policy:
        """Return the policy of silos that exist in a simulation only."""
        kinds = frozenset({Disclosure.METRIC, Disclosure.STATISTIC, Disclosure.UPDATE})
        return cls(jobs=("*",), disclosures=kinds, min_cohort=1, allow_reproducible=True)

    def permit(self, header: Header, job: Job, verb: Verb) -> None:
        """Raise `Refused` unless this policy allows ``verb`` for ``job`` and its cohort."""
        if not any(fnmatchcase(job.name, pattern) for pattern in self.jobs):
            raise Refused(f"this silo's policy does not allow the job '{job.name}'", code="job")
        closed = sorted(verb.disclosures - self.disclosures)
        if closed:
            raise Refused(
                f"this silo's policy does not let '{closed[0]}' leave, which '{verb.name}' "
                "discloses",
                code="disclosure",
            )
        if not verb.disclosures & _ABOUT_ROWS:
            return
        if len(header.cohort) < self.min_cohort:
            raise Refused(
                f"this silo's policy wants at least {self.min_cohort} silos to be asked together, "
                f"the cohort has {len(header.cohort)}",
                code="cohort",
            )
        self._permit_privacy(job)

    def _permit_privacy(self, job: Job) -> None:
        asked = job.privacy
        if asked is not None and asked.reproducible and not self.allow_reproducible:
            raise Refused("this silo's policy allows no reproducible noise", code="privacy")
        if self.privacy is None:
            return
        if asked is None:
            raise Refused(
                "this silo's policy wants differential privacy, the job has none", code="privacy"
            )
        if asked.epsilon > self.privacy.max_epsilon or asked.delta > self.privacy.max_delta:
            raise Refused(
                f"this silo's policy allows ε up to {self.privacy.max_epsilon:g} at δ up to "
                f"{self.privacy.max_delta:g}, the job asks for {asked.epsilon:g} at "
                f"{asked.delta:g}",
                code="privacy",
            )
