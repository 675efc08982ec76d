"""A silo's policy: who may ask for what, what may leave, at which privacy. Without one, nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as clock_time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from consilo.config import Config, parse, read_yaml
from consilo.decisions.rules import VoteRules
from consilo.errors import PolicyInvalid, Refused
from consilo.jobs.job import Job, Privacy, Unit
from consilo.jobs.split import Split
from consilo.jobs.table_job import TableJob
from consilo.kernel.headers import Header
from consilo.kernel.verbs import Asked, AskedField, Disclosure, FromRows, Permitted
from consilo.silo_name import SiloName
from silos.kept.budget import Budget

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = get_args(Day)

TEMPLATE = """\
# What may happen to this silo's data. What is not allowed here is refused.

# A request must fit one entry; keys that an entry leaves out admit anything.
allow:
  - jobs: ["*"]                  # names of jobs; shell patterns
    # purposes: [research]       # what the job says that it is for; shell patterns
    # contracts: ["heart@*"]     # shell patterns
    # bundles: [3f5a…]           # SHA-256 of the code, besides its approval
    # signers: [9c1e…]           # or who signed it

# Classes of what may leave: yes, no, or limits such as {min_rows: 100}: only where it is made of
# that many rows here; yes means 5, for updates and statistics. secure: of updates only masked ones,
# of which the coordinator sees the sum alone; this version of Consilo sends none.
disclosures:
  metric: yes                    # figures of merit on held-out rows; {min_rows: …} counts those;
                                 # no: what trains goes on without them
  statistic: yes                 # counts and aggregates over rows
  update: yes                    # changes of model parameters
  # metadata: yes                # words about columns, those that you have marked to share
  # sealed: yes                  # what other silos alone can read: for matching, and for models
  #                              # over the columns of several silos, which also need:
  # match: yes                   #   which of the people here are known there
  # embedding: yes               #   without the target: what a model makes of the columns here
  # label: yes                   #   with the target: what it may be read off from

min_cohort: 2                    # silos asked together, this one included, for what is computed
                                 # from rows; each must have signed that it takes part
partners: pinned                 # confirmed: only silos whose key fingerprint you have compared

privacy:
  required: no                   # yes: what is computed from rows leaves only with differential
                                 # privacy, but for one bit of a contract check, and matches
  # unit: subject                # only jobs that hide a subject with all of its rows; counts as
  #                              # required, and budgets are then about subjects
  allow_reproducible: no         # noise that whoever knows the job's seed can take away
  exact_statistics: yes          # no: means, class counts, histograms, figures of merit leave
                                 # with noise only
  # max_epsilon: 10.0            # in one run; unless said, these (or the ε of the largest budget);
  # max_delta: 1.0e-3            # who says one of them wants privacy
  # budgets:                     # all runs together, by data set; "*" is every other one
  #   "*":
  #     epsilon: 10.0            # within window_days; without that key, for ever
  #     delta: 1.0e-5            # at which the account is kept; below 1 / number of rows
  #     window_days: 365
  #     total_epsilon: 30.0      # for ever
  #     min_noise_multiplier: 0.5

# evaluation:
#   max_holdout: 0.5             # largest share of the rows that a job may hold out
#   splits:                      # by a column: just these and no others; a share, a fold and a
#     - {column: visited, after: 2024-01-01}           # column of role split need none
#   per_day: 1000                # models judged on held-out rows; later ones get no figures
#   per_run: 100
#   shares: 12                   # where privacy is wanted: at so many places jobs may ever cut the
#                                # rows; how many lie on either side is told exactly

# matching:                      # rows of which silos are the same people; without it, refused;
#                                # it also needs disclosures: {sealed: yes, match: yes}
#   partners: [bank, telecom]    # with whom; without it, any that is pinned
#   recipes: [9c1f…]             # approved by a person here: hashes of key recipes; without it, any
#   min_set_size: 1000           # people in each silo
#   min_intersection: 100        # people in both, or nobody learns who
#   queries_per_partner: 4       # within window_days
#   window_days: 30
#   refuse_similar: 0.01         # a set that differs from an earlier one within window_days by less

# votes:                         # on models that shall be used: yes, no or abstain, by these rules
#   decided_by: policy           # people: nobody but people here, by 'consilo silo vote'
#   tolerance: 0.02              # by how much the job's metric may be worse than that of the model
#                                # in use and of this silo's own; of rmse and mae, as a share
#   level: 0.95                  # of the intervals that tell models apart, by these rows
#   min_rows: 50                 # held-out rows, below which this silo abstains
#   fairness: {metric: accuracy, gap: 0.1, floor: 30}     # between the contract's groups
#   max_ece: 0.1                 # chances must come true: expected calibration error
#   max_brier: 0.25
#   max_epsilon: 8.0             # that a model's training may have cost here
#   figures: numbers             # verdict: the vote leaves, the numbers behind it stay here
#   per_day: 20                  # later ones abstain; with privacy, each is paid from the ledger

limits:
  memory_mib: 4096               # one message
  wall_s: 3600
  threads: 1                     # that a job may ask for (local.threads); more are refused
  # unsized_kib: 64              # of an answer, what a bundle's own protocol declares no size of
  # per_hour: 500                # messages

sandbox: required                # code of a bundle runs locked in, or not at all; "off" lets it do
                                 # all that the node's user may do: see docs/threat-model.md

# hours: {days: [mon, tue, wed, thu, fri], start: "20:00", end: "06:00", zone: Europe/Berlin}
# expires: 2027-12-31            # from the next day on, nothing is allowed
"""


class Rule(Config):
    """One kind of request that is allowed; a key that is left out admits anything.

    Args:
        jobs: shell patterns of job names.
        purposes: shell patterns of purposes.
        contracts: shell patterns of ``name@version``.
        bundles: SHA-256 of code.
        signers: raw Ed25519 public keys in hexadecimal, one of which signed the code. Code without
            modules of its own is nobody's, and fits no such entry.
    """

    jobs: tuple[str, ...] | None = None
    purposes: tuple[str, ...] | None = None
    contracts: tuple[str, ...] | None = None
    bundles: tuple[str, ...] | None = None
    signers: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError('an entry must say what it allows; jobs: ["*"] allows every job')
        return self

    def admits(self, header: Header, job: Job, signer: str) -> bool:
        """Return whether a request is of this kind."""
        manifest = header.manifest
        return (
            _fits(job.name, self.jobs)
            and _fits(job.purpose, self.purposes)
            and _fits(manifest.contract or job.contract, self.contracts)
            and (self.bundles is None or manifest.bundle in self.bundles)
            and (self.signers is None or (bool(signer) and signer in self.signers))
        )


FLOORS = dict.fromkeys((Disclosure.UPDATE, Disclosure.MASKED_UPDATE, Disclosure.STATISTIC), 5)
"""Of how many rows it is made at least, where a policy says no number: an update of one row, or a
mean of one, is that row. Counts of rows have no floor, nor have figures of merit unless said."""


class Leaving(Config):
    """When a class of things may leave.

    Args:
        secure: only where the coordinator sees the sum over silos alone.
        min_rows: only where the job has at least this many rows here; a job over the columns of
            several silos has those that are matched. Unless said, `FLOORS` of the class.
    """

    secure: bool = False
    min_rows: int | None = Field(default=None, ge=1)


MOST_EPSILON, MOST_DELTA = 10.0, 1e-3
"""Of one run, where a policy says no limit: of more ε, or δ, noise hides nothing, and such a job
would pass for private. Where a budget has a larger ε, that ε; no end with ``allow_reproducible``,
where the policy does not want noise."""


class PrivacyRules(Config):
    """What differential privacy must be.

    Args:
        required: what is computed from rows leaves only with it: updates, statistics, figures of
            merit, what crosses to other silos. Exempt are one bit of a contract check, the number
            of rows, and matches, which ``matching`` admits.
        max_epsilon: of one run; None is `MOST_EPSILON`.
        max_delta: of one run; None is `MOST_DELTA`.
        allow_reproducible: whether a job may key the noise by its own seed.
        exact_statistics: whether sums over rows may leave exactly: moments, class counts,
            histograms, figures of merit; if not, only those of jobs that pay for them, with
            ``privacy.statistics_epsilon`` and ``privacy.metrics_epsilon``.
        budgets: of all runs together, by data set; ``*`` is every other one. Where there is any,
            it counts as ``required``, since nothing else can be accounted for.
        unit: what must be hidden. With ``subject``, a person with all of their rows: jobs that hide
            single rows only are refused, and ``budgets`` are about subjects.
    """

    required: bool = False
    max_epsilon: float | None = Field(default=None, gt=0)
    max_delta: float | None = Field(default=None, gt=0, lt=1)
    allow_reproducible: bool = False
    exact_statistics: bool = True
    budgets: dict[str, Budget] = Field(default_factory=dict)
    unit: Unit = "record"

    @model_validator(mode="before")
    @classmethod
    def _budgets_have_the_unit(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("unit") != "subject":
            return value
        budgets = value.get("budgets")
        if not isinstance(budgets, dict):
            return value
        of_subjects = {
            name: {"unit": "subject", **each} if isinstance(each, dict) else each
            for name, each in budgets.items()
        }
        return {**value, "budgets": of_subjects}

    @model_validator(mode="after")
    def _budgets_bound_the_unit(self) -> Self:
        odd = [name for name, each in self.budgets.items() if each.unit != self.unit]
        if odd:
            raise ValueError(
                f"budgets.{odd[0]}.unit: must be that of the section, '{self.unit}'; say "
                "privacy.unit, and leave it out of the budgets"
            )
        return self

    @property
    def is_wanted(self) -> bool:
        """Whether what is computed from rows leaves with differential privacy only."""
        if self.unit == "subject":
            return True
        limits = (self.max_epsilon, self.max_delta)
        return self.required or bool(self.budgets) or any(each is not None for each in limits)

    @property
    def tells_little(self) -> bool:
        """Whether a contract check says its verdict alone, and times are told coarsely."""
        return self.is_wanted or not self.exact_statistics

    def fault(self, field: AskedField, job: Job) -> str:
        """Return why a field is not as private as it must be; empty where it is."""
        if field.rows in (FromRows.NONE, FromRows.CHECKED, FromRows.MATCH):
            return ""
        asked, price = job.privacy, field.rows.price
        if asked is not None and asked.pays(price):
            return self._fault_of(asked) or self._fault_of_part(asked, field)
        if self.is_wanted:
            if price == "epsilon":
                return "this silo's policy wants differential privacy, the job has none"
            need = f"; the job needs privacy.{price}" if price else ""
            return (
                "this silo's policy wants differential privacy for all that is computed from "
                f"rows, '{field.name}' is exact{need}"
            )
        sums = {Disclosure.STATISTIC, Disclosure.METRIC} & field.disclosures
        if sums and not self.exact_statistics:
            need = f"; the job needs privacy.{price}" if price else ""
            return f"this silo's policy lets statistics leave with noise only{need}"
        return ""

    def _fault_of(self, asked: Privacy) -> str:
        if self.unit == "subject" and not asked.hides_subjects:
            return (
                "this silo's policy wants subjects hidden, the job hides single rows; give it "
                "privacy.unit 'subject', and a contract with a column of role subject"
            )
        if asked.reproducible and not self.allow_reproducible:
            return "this silo's policy allows no reproducible noise"
        epsilon, delta = self.max_epsilon, self.max_delta
        # Who bears reproducible noise bears that it hides nothing; else what is called noise counts
        # as such, in floors too, also where the policy does not want it.
        if self.is_wanted or not self.allow_reproducible:
            epsilon = self._most_epsilon if epsilon is None else epsilon
            delta = MOST_DELTA if delta is None else delta
        return _above("ε", asked.epsilon, epsilon) or _above("δ", asked.delta, delta)

    @property
    def _most_epsilon(self) -> float:
        return max([MOST_EPSILON, *(each.epsilon for each in self.budgets.values())])

    def _fault_of_part(self, asked: Privacy, field: AskedField) -> str:
        """Return why a sum that may not leave exactly would leave all but exactly."""
        sums = {Disclosure.STATISTIC, Disclosure.METRIC} & field.disclosures
        if self.is_wanted or self.exact_statistics or not sums:
            return ""
        part: float = getattr(asked, field.rows.price)
        return _above("ε", part, MOST_EPSILON) or _above("δ", asked.delta, MOST_DELTA)


def _above(name: str, found: float, limit: float | None) -> str:
    if limit is None or found <= limit:
        return ""
    return (
        f"this silo's policy allows {name} up to {limit:g} in one run, the job asks for {found:g}"
    )


class EvaluationRules(Config):
    """How often, and on how large a share of the rows, models are judged here.

    A model that is judged was chosen by whoever asks, so that each answer tells a little of the
    rows that are held out.

    Args:
        splits: by which columns a job may split the rows, and at which values, as a job's
            ``evaluation.split`` says it: one that could be moved would tell single rows apart by
            the figures before and after. None allows all, unless privacy is wanted, or no exact
            statistic is to leave: how many rows are on either side is told exactly. A share and a
            fold are bounded by ``max_holdout``, and a column of role split says itself what it is
            for.
        max_holdout: largest share of the rows that a job may hold out; what is held out is not
            learnt from, so that it bounds from how few rows an update is made, too.
        per_run: evaluations in one run; None sets no limit.
        per_day: evaluations within 24 hours, over all runs; None sets no limit.
        shares: where no exact statistic is to leave, at how many places of the rows' random order
            shares and folds may ever lie, over all jobs under one contract. How many rows are on
            either side is told exactly, and rows that are alike lie at one place: by shares enough
            all numbers of rows that are alike would be found.
    """

    max_holdout: float = Field(default=0.5, gt=0, lt=1)
    splits: tuple[Split, ...] | None = ()
    per_run: int | None = Field(default=None, ge=1)
    per_day: int | None = Field(default=1000, ge=1)
    shares: int = Field(default=12, ge=1)


class Limits(Config):
    """What one message may use, and how many there may be.

    Args:
        memory_mib: memory that a message's process may add.
        wall_s: seconds that it may take.
        threads: that it may compute with. A job that asks for more is refused, and not computed
            with fewer, which would give other bits; None sets no limit.
        per_hour: messages in any hour; None sets no limit.
        unsized_kib: of an answer of a bundle's own protocol, what the fields without a declared
            size may have together: all but counts, single numbers and what is like a part of the
            request.
    """

    memory_mib: int = Field(default=4096, gt=0)
    wall_s: float = Field(default=3600.0, gt=0)
    threads: int | None = Field(default=1, ge=1)
    per_hour: int | None = Field(default=None, ge=1)
    unsized_kib: int = Field(default=64, ge=0)


class MatchingRules(Config):
    """When rows may be matched with those of other silos.

    Args:
        partners: with whom; None admits any that is pinned.
        recipes: hashes of key recipes, or their first 12 digits at least, that a person here has
            approved; None admits any.
        min_set_size: people that each of the silos must have.
        min_intersection: people that two silos must share before either learns who they are.
        queries_per_partner: matches with one partner within ``window_days``.
        window_days: how long matches count.
        refuse_similar: a set of keys that differs from an earlier one by less than this share, but
            differs, is refused: the two answers would tell of single people. 0 refuses none.
    """

    partners: tuple[SiloName, ...] | None = None
    recipes: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")], ...] | None = None
    min_set_size: int = Field(default=100, ge=1)
    min_intersection: int = Field(default=10, ge=1)
    queries_per_partner: int = Field(default=4, ge=1)
    window_days: float = Field(default=30.0, gt=0)
    refuse_similar: float = Field(default=0.01, ge=0, lt=1)


class Hours(Config):
    """When messages are answered.

    Args:
        days: on which a span of time may begin.
        start: local time, inclusive.
        end: local time, exclusive; before ``start`` it is the next day's.
        zone: a name of the IANA time zone database.
    """

    days: tuple[Day, ...] = Field(default=_DAYS, min_length=1)
    start: clock_time
    end: clock_time
    zone: str = "UTC"

    @field_validator("start", "end", mode="before")
    @classmethod
    def _sexagesimal(cls, value: Any) -> Any:
        # YAML 1.1 reads 20:00 without quotes as 1200, a number to the base 60.
        return f"{value // 60:02d}:{value % 60:02d}" if type(value) is int else value

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError("no such time zone; expected a name such as Europe/Berlin") from None
        return value

    def contain(self, now: float) -> bool:
        """Return whether an instant, in seconds since 1970, lies in them."""
        local = datetime.fromtimestamp(now, ZoneInfo(self.zone))
        at, today, before = local.time(), _DAYS[local.weekday()], _DAYS[local.weekday() - 1]
        if self.start < self.end:
            return today in self.days and self.start <= at < self.end
        return (today in self.days and at >= self.start) or (before in self.days and at < self.end)


@dataclass(frozen=True)
class Circumstances:
    """What a decision depends on besides the request.

    Args:
        now: seconds since 1970.
        attested: other silos of the cohort that have signed that they take part.
        asked_last_hour: how many messages were allowed within the last hour.
        rows: how many rows the job has here; asked only where a rule needs it.
        signer: the key that signed the run's code; empty where nobody did.
        judged_in_run: how many models were judged in this run.
        judged_last_day: how many within the last 24 hours.
    """

    now: float
    attested: frozenset[str]
    asked_last_hour: int
    rows: Callable[[], int]
    signer: str = ""
    judged_in_run: int = 0
    judged_last_day: int = 0


class Policy(Config):
    """What a silo allows; the default allows nothing.

    Args:
        allow: kinds of requests, of which one must fit.
        disclosures: class → yes, no, ``secure``, or when.
        min_cohort: for what is computed from rows, how many silos must be asked together; each of
            the others must have attested with a key that this silo has pinned.
        partners: whose attestations count: every pinned key's, or confirmed ones' only.
        privacy: what differential privacy must be.
        evaluation: how often models are judged here, and on how many rows.
        matching: when rows may be matched with those of other silos; None is never.
        votes: by which rules the silo votes on models, where figures of merit may leave.
        limits: of one message, and of their number.
        hours: when messages are answered; None is always.
        expires: last day on which anything is allowed.
        sandbox: whether code of a bundle runs locked in (``required``: or not at all), or with all
            that the silo's user may do (``off``).
        allow_unsigned: whether a coordinator of wire version 1, which does not sign, is answered.
    """

    allow: tuple[Rule, ...] = ()
    disclosures: dict[Disclosure, bool | Literal["secure"] | Leaving] = Field(default_factory=dict)
    min_cohort: int = Field(default=2, ge=1)
    partners: Literal["pinned", "confirmed"] = "pinned"
    privacy: PrivacyRules = PrivacyRules()
    evaluation: EvaluationRules = EvaluationRules()
    matching: MatchingRules | None = None
    votes: VoteRules = VoteRules()
    limits: Limits = Limits()
    hours: Hours | None = None
    expires: date | None = None
    sandbox: Literal["required", "off"] = "required"
    allow_unsigned: bool = False

    @field_validator("sandbox", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML 1.1 reads ``off`` as false."""
        return "off" if value is False else value

    @property
    def statistic_floor(self) -> int:
        """Of how many rows a statistic is made at least."""
        return self._floor(Disclosure.STATISTIC)

    @property
    def statistic_rule(self) -> Leaving:
        """When statistics may leave, where the policy lets them."""
        found = self.disclosures.get(Disclosure.STATISTIC, False)
        return found if isinstance(found, Leaving) else Leaving()

    @property
    def statistics_leave(self) -> bool:
        """Whether statistics may leave that are no sum over silos."""
        found = self.disclosures.get(Disclosure.STATISTIC, False)
        return found not in (False, "secure") and not self.statistic_rule.secure

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Return the policy of a YAML file; a file that is not there allows nothing.

        Raises:
            PolicyInvalid: with one finding per fault.
        """
        if not path.exists():
            return cls()
        value = read_yaml(path, error=PolicyInvalid)
        return parse(cls, value, where=str(path), error=PolicyInvalid)

    @classmethod
    def simulation(cls) -> Policy:
        """Return the policy of silos that exist in a simulation only."""
        kinds: dict[Disclosure, bool | Literal["secure"] | Leaving] = {
            Disclosure.METRIC: True,
            Disclosure.STATISTIC: True,
            Disclosure.UPDATE: True,
            Disclosure.SEALED: True,
            Disclosure.MATCH: True,
            Disclosure.METADATA: True,
        }
        return cls(
            allow=(Rule(jobs=("*",)),),
            disclosures=kinds,
            min_cohort=1,
            privacy=PrivacyRules(allow_reproducible=True),
            evaluation=EvaluationRules(max_holdout=0.99, splits=None, per_day=None),
            limits=Limits(threads=None),
        )

    def permit(
        self, header: Header, job: Job, asked: Asked, met: Circumstances | None = None
    ) -> Permitted:
        """Raise `Refused` unless this policy allows what is asked for ``job`` and its cohort.

        An optional field that a rule keeps back is left out, and the rest is answered.

        Args:
            header: the request.
            job: what is run.
            asked: what the verb would let leave.
            met: under which circumstances; None in a simulation, where there are none.
        """
        met = met or Circumstances(time.time(), frozenset(), 0, lambda: 2**53)
        self._permit_now(met)
        if not any(rule.admits(header, job, met.signer) for rule in self.allow):
            raise Refused(
                f"this silo's policy does not allow the job '{job.name}' for the purpose "
                f"'{job.purpose}'",
                code="job",
            )
        self._permit_threads(job)
        if asked.fields:  # how many rows a split leaves is told even where no value is used
            self._permit_holdout(job)
        withheld: dict[str, str] = {}
        for field in asked.fields:
            try:
                self._permit_field(field, header, job, asked, met)
            except Refused as cause:
                if not field.optional:
                    raise
                withheld[field.name] = str(cause)
        floors = {each: self._floor(each) for each in asked.disclosures}
        return Permitted(
            withheld,
            floors,
            is_private=self.privacy.tells_little,
            wants_privacy=self.privacy.is_wanted,
            unsized_bytes=1024 * self.limits.unsized_kib,
        )

    def _permit_field(
        self, field: AskedField, header: Header, job: Job, asked: Asked, met: Circumstances
    ) -> None:
        for each in sorted(field.disclosures):
            self._permit_leaving(each, asked, met)
        # The first question of a run comes before any other silo can have signed.
        if field.rows in (FromRows.NONE, FromRows.CHECKED):
            return
        here = 1 + len(met.attested)
        if here < self.min_cohort:
            raise Refused(
                f"this silo's policy wants at least {self.min_cohort} silos to be asked together; "
                f"the cohort names {len(header.cohort)}, of which {here} are known to take part",
                code="cohort",
            )
        if fault := self.privacy.fault(field, job):
            raise Refused(fault, code="privacy")
        if field.held_out:
            self._permit_judging(met)

    def _permit_holdout(self, job: Job) -> None:
        if not isinstance(job, TableJob):
            return
        most, named = self.evaluation.max_holdout, job.evaluation.named
        if named is not None and named.column is not None:
            splits = self.evaluation.splits
            if splits is None and self.privacy.tells_little:
                splits = ()
            if splits is not None and named not in splits:
                raise Refused(
                    f"this silo's policy does not list this split by '{named.column}' "
                    "(evaluation.split); an operator who agrees writes it under evaluation.splits",
                    code="holdout",
                )
            return
        folds = None if named is None else named.folds
        asked = job.evaluation.holdout if folds is None else 1 / folds
        if asked > most:
            raise Refused(
                f"this silo's policy lets a job hold out {most:g} of the rows at most, this one "
                f"asks for {asked:g} (evaluation.{'holdout' if folds is None else 'split'})",
                code="holdout",
            )

    def _permit_judging(self, met: Circumstances) -> None:
        rules = self.evaluation
        if rules.per_run is not None and met.judged_in_run >= rules.per_run:
            raise Refused(f"this silo judges {rules.per_run} models in a run", code="judged")
        if rules.per_day is not None and met.judged_last_day >= rules.per_day:
            raise Refused(f"this silo judges {rules.per_day} models a day", code="judged")

    def _permit_now(self, met: Circumstances) -> None:
        if self.expires is not None and datetime.fromtimestamp(met.now).date() > self.expires:
            raise Refused(f"this silo's policy ended on {self.expires}", code="policy_expired")
        if self.hours is not None and not self.hours.contain(met.now):
            raise Refused(
                f"this silo answers on {', '.join(self.hours.days)} from "
                f"{self.hours.start:%H:%M} to {self.hours.end:%H:%M} ({self.hours.zone})",
                code="hours",
            )
        most = self.limits.per_hour
        if most is not None and met.asked_last_hour >= most:
            raise Refused(f"this silo answers {most} messages an hour", code="rate")

    def _permit_threads(self, job: Job) -> None:
        most, asked = self.limits.threads, job.threads
        if most is not None and asked > most:
            raise Refused(
                f"this silo's policy lets a message compute with {most} "
                f"{'thread' if most == 1 else 'threads'}, the job asks for {asked} "
                "(local.threads)",
                code="threads",
            )

    def _rule(self, each: Disclosure) -> Leaving:
        found = self.disclosures.get(each, False)
        return found if isinstance(found, Leaving) else Leaving(secure=found == "secure")

    def _floor(self, each: Disclosure) -> int:
        said = self._rule(each).min_rows
        return FLOORS.get(each, 1) if said is None else said

    def _permit_leaving(self, each: Disclosure, asked: Asked, met: Circumstances) -> None:
        found, rule = self.disclosures.get(each, False), self._rule(each)
        if each == Disclosure.MASKED_UPDATE and found is False:
            # Who lets updates leave under secure aggregation only lets masked ones leave.
            rule = self._rule(Disclosure.UPDATE)
            found = rule.secure
        if found is False:
            raise Refused(
                f"this silo's policy does not let '{each}' leave, which '{asked.name}' discloses",
                code="disclosure",
            )
        if rule.secure and each != Disclosure.MASKED_UPDATE:
            raise Refused(
                f"this silo's policy lets '{each}' leave under secure aggregation only, as "
                f"'{Disclosure.MASKED_UPDATE}'; '{asked.name}' sends it in the clear, and this "
                "version of Consilo has no secure aggregation",
                code="disclosure",
            )
        if rule.min_rows is not None and 1 < rule.min_rows > met.rows():
            raise Refused(
                f"this silo's policy lets '{each}' leave for {rule.min_rows} rows or more only",
                code="group",
            )


def _fits(name: str, patterns: tuple[str, ...] | None) -> bool:
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)
